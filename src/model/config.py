"""Configuration of the backbone."""

from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, Literal

from egovlpv2.io.schema import check
from egovlpv2.model.bounds import WIDEST, require
from egovlpv2.model.encoder import TextTowerConfig
from egovlpv2.model.vit import VideoTowerConfig


@dataclass
class BackboneConfig:
    """Configuration of a backbone, stored in every checkpoint.

    Args:
        video: The video tower.
        text: The text tower.
        fusion: Place of the fusion: the towers' own layers (`backbone`), or layers `stacked` on both towers, as in
            ALBEF (the baseline of the paper's Table 7); `none` for a dual encoder alone, without the layers and heads
            that the open gate needs, as EgoVLP, LaViLa and AVION.
        num_fused_layers: Number of layers, last in both towers, with gated cross-attention (paper: 6), or of stacked
            layers.
        alpha: Fixed value of every layer's `alpha`; None to learn it, starting from 0.
        text_attends_to: Video states that a fused text layer attends to: output of the `current` video layer (the
            paper's formula) or of the `previous` one (the released code).
        fusion_cls: CLS token and final norm of the video with the gate open: `own` ones (released code), or `shared`
            with the closed gate (paper; all objectives then share one trunk).
        projector: Widths of the projectors: `[4096, 4096, 4096]` in the paper, `[256]` for its retrieval checkpoints.
        linear_projector: Projectors of one width are matrices without ReLU and bias, as CLIP's.
        gradient_checkpointing: Compute blocks anew in the backward pass, those of `trunk` or all (`true`): less memory,
            and up to a third more time.
        compile: Compile the layers with `torch.compile`, which takes a minute or so at the first step.
    """

    video: VideoTowerConfig = field(default_factory=VideoTowerConfig)
    text: TextTowerConfig = field(default_factory=TextTowerConfig)
    fusion: Literal["backbone", "stacked", "none"] = "backbone"
    num_fused_layers: int = 6
    alpha: float | None = None
    text_attends_to: Literal["current", "previous"] = "current"
    fusion_cls: Literal["shared", "own"] = "shared"
    projector: list[int] = field(default_factory=lambda: [4096, 4096, 4096])
    gradient_checkpointing: bool | Literal["trunk"] = False
    compile: bool = False
    linear_projector: bool = False

    def __post_init__(self) -> None:
        require(self.num_fused_layers >= 0, "num_fused_layers", self.num_fused_layers, "0 or more")
        require(self.alpha is None or isfinite(self.alpha), "alpha", self.alpha, "null or a finite number")
        require(bool(self.projector) and all(1 <= width <= WIDEST for width in self.projector), "projector",
                self.projector, f"one width or more, each from 1 to {WIDEST}")
        require(len(self.projector) == 1 or not self.linear_projector, "projector", self.projector,
                "one width for linear_projector")
        if self.fusion == "none" and (self.num_fused_layers, self.alpha, self.fusion_cls) != (0, None, "shared"):
            raise ValueError("fusion: none has no fused layers: set num_fused_layers to 0, and leave alpha at null and "
                             "fusion_cls at shared")
        if self.fusion == "stacked" and (self.fusion_cls == "own" or self.alpha is not None):
            raise ValueError("fusion: stacked has neither gates nor a CLS token for them: leave alpha at null and "
                             "fusion_cls at shared")

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for a checkpoint; sources of initial weights and ways of computing are left out."""
        plain = asdict(self)
        plain["gradient_checkpointing"] = False
        del plain["compile"], plain["video"]["position_std"]
        plain["video"]["init"] = plain["text"]["init"] = None
        for part, key, default in ((plain["video"], "attention", "divided"), (plain["video"], "norm_pre_eps", None),
                                   (plain, "linear_projector", False)):
            if part[key] == default:
                del part[key]  # earlier versions read the file too
        return plain

    def require_fusion(self, what: str) -> None:
        """Refuse a use of the open gate where there is no fusion.

        Raises:
            ValueError: There is none; names `what` was to be computed or set.
        """
        if self.fusion == "none":
            raise ValueError(f"{what} needs the gate open, and this backbone is a dual encoder without fusion (fusion: "
                             "none): rank by cosine, with features of the kinds dual, projected and unit")

    @classmethod
    def from_dict(cls, plain: dict[str, Any], source: str = "the configuration of the backbone") -> "BackboneConfig":
        """Build a configuration from plain values.

        Args:
            plain: Plain values as `to_dict` makes them.
            source: Name of their source in error messages, such as the path of a weights file.

        Raises:
            ValueError: A key is unknown, or a value has another type or is out of bounds; names the key.
        """
        return check(plain, cls, source, forbid_unknown=True)

"""What a backbone is made of."""

from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, Literal

from egovlpv2.io.schema import check
from egovlpv2.model.bounds import WIDEST, require
from egovlpv2.model.text_tower import TextTowerConfig
from egovlpv2.model.video_tower import VideoTowerConfig


@dataclass
class BackboneConfig:
    """What a backbone is made of; a checkpoint carries it.

    Args:
        video: The video tower.
        text: The text tower.
        fusion: Where video and text meet: in the `backbone`'s own layers, or in layers `stacked` on both towers, as in
            ALBEF (the other half of the paper's Table 7).
        num_fused_layers: How many of the last layers of both towers get gated cross-attention (paper: 6), or how
            many are stacked.
        alpha: A gate that stays at this value; None for one that is learned, from 0 on.
        text_attends_to: What a fused text layer attends to: the `current` video layer's output (the paper's
            formula) or the `previous` one's (the released code).
        fusion_cls: Whether the open gate has its `own` CLS token and final norm on the video side (released code)
            or `shared` ones (paper; then all objectives share one trunk).
        projector: Widths of the projectors: `[4096, 4096, 4096]` in the paper, `[256]` for its retrieval checkpoints.
        gradient_checkpointing: Recompute each block in the backward pass: less memory, about a third more time.
    """

    video: VideoTowerConfig = field(default_factory=VideoTowerConfig)
    text: TextTowerConfig = field(default_factory=TextTowerConfig)
    fusion: Literal["backbone", "stacked"] = "backbone"
    num_fused_layers: int = 6
    alpha: float | None = None
    text_attends_to: Literal["current", "previous"] = "current"
    fusion_cls: Literal["shared", "own"] = "shared"
    projector: list[int] = field(default_factory=lambda: [4096, 4096, 4096])
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        require(self.num_fused_layers >= 0, "num_fused_layers", self.num_fused_layers, "0 or more")
        require(self.alpha is None or isfinite(self.alpha), "alpha", self.alpha, "null or a finite number")
        require(bool(self.projector) and all(1 <= width <= WIDEST for width in self.projector), "projector",
                self.projector, f"one width or more, each from 1 to {WIDEST}")
        if self.fusion == "stacked" and (self.fusion_cls == "own" or self.alpha is not None):
            raise ValueError("fusion: stacked has neither gates nor a CLS token for them: leave alpha at null and "
                             "fusion_cls at shared")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the sources of first weights: what a checkpoint needs to be rebuilt."""
        plain = asdict(self)
        plain["video"]["init"] = plain["text"]["init"] = None
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any], source: str = "the configuration of the backbone") -> "BackboneConfig":
        """The configuration from plain values.

        Args:
            plain: What `to_dict` gives.
            source: What error messages call it, such as the path of a weights file.

        Raises:
            ValueError: A key is unknown, or a value is of another type or out of bounds; names the key.
        """
        return check(plain, cls, source, forbid_unknown=True)

"""The shared video-language backbone and its gate.

A clip flows: frames -> `trunk` (lower, unfused layers) -> `top` (upper, fused layers) -> heads; words likewise.
Letters: `B` clips, `T` frames, `N` patches of a frame, `S = 1 + T * N` video tokens, `L` words, `D` width,
`P` projection, `V` vocabulary.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from egovlpv2.batch import Text
from egovlpv2.model.config import BackboneConfig
from egovlpv2.model.fusion import GatedCrossAttention, StackedFusionEncoder
from egovlpv2.model.heads import MLMHead, VTMHead, projector
from egovlpv2.model.text_tower import TextTower
from egovlpv2.model.video_tower import VideoTower


class Trunk(NamedTuple):
    """What the unfused layers give; every objective can share it."""

    video: Tensor  # (B, S, D)
    text: Tensor  # (B, L, D)
    mask: Tensor  # (B, L) bool


class VideoContext(NamedTuple):
    """A video's trunk, and what the first fused layer makes of it before it hears of any text; of stacked layers, what
    they attend to, and its CLS state.
    """

    video: Tensor  # (B, S, D), or (B, 1, D) if only the CLS state goes on from there
    first: Tensor  # the same

    def of(self, index: Tensor) -> "VideoContext":
        """Some of the videos, each as often as it is named."""
        return VideoContext(self.video[index], self.first[index])


class Top(NamedTuple):
    """What the fused layers give."""

    video: Tensor | None  # (B, S, D) or (B, 1, D), after the final norm; None if nothing reads it
    text: Tensor | None  # (B, L, D)


class Backbone(LightningModule):
    """EgoVLPv2's backbone. `gate=False` is a dual encoder, `gate=True` a fusion encoder with the same weights.

    Args:
        config: See `BackboneConfig`.
    """

    fused_cls_token: nn.Parameter  # (1, 1, D), only with `fusion_cls: own`
    fused_norm: nn.LayerNorm

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        text_dim = config.text.resolve().hidden_size
        inside = config.num_fused_layers if config.fusion == "backbone" else 0
        self.video_tower = VideoTower(config.video, inside, text_dim)
        video_dim = self.video_tower.dim
        self.text_tower = TextTower(config.text, inside, video_dim)
        self.stack = self._make_stack() if config.fusion == "stacked" else None
        if config.fusion_cls == "own":
            self.fused_cls_token = nn.Parameter(torch.zeros(1, 1, video_dim))
            self.fused_norm = nn.LayerNorm(video_dim, eps=1e-6)
        self.video_projector = projector(video_dim, config.projector, "video")
        self.text_projector = projector(text_dim, config.projector, "text")
        self.fused_video_transform = nn.Linear(video_dim, video_dim)
        self.fused_text_transform = nn.Linear(text_dim, text_dim)
        self.match_head = VTMHead(video_dim, text_dim)
        self.masked_word_head = MLMHead(text_dim, self.text_tower.vocab_size)
        fusions = [m for m in self.modules() if isinstance(m, GatedCrossAttention | StackedFusionEncoder)]
        for module in (self.fused_video_transform, self.fused_text_transform, self.match_head, self.masked_word_head,
                       *fusions):
            module.apply(_init_linear)
        if config.alpha is not None:
            self._fix_alphas(config.alpha)

    def _fix_alphas(self, alpha: float) -> None:
        for gated in (m for m in self.modules() if isinstance(m, GatedCrossAttention)):
            nn.init.constant_(gated.alpha.requires_grad_(False), alpha)

    def _make_stack(self) -> StackedFusionEncoder:
        video, text = self.video_tower, self.text_tower
        return StackedFusionEncoder(self.config.num_fused_layers, video.dim, text.dim, video.num_heads, text.num_heads,
                                    text.norm_eps, text.dropout)

    # ---- trunk and top: the parts that objectives share -------------------------------------------------------------

    @property
    def shares_trunk(self) -> bool:
        """Whether one video trunk serves the closed and the open gate."""
        return self.config.fusion_cls == "shared"

    @property
    def traits(self) -> dict[str, Any]:
        """What changes the outputs and can't be seen in the names and shapes of the weights."""
        video, text = self.video_tower, self.text_tower
        attends_to = self.config.text_attends_to if self.stack is None else None  # a stack sees the whole tower
        return {"text_attends_to": attends_to, "alpha": self.config.alpha,
                "video num_heads": video.num_heads, "text num_attention_heads": text.num_heads,
                "video norm_eps": video.norm.eps, "text layer_norm_eps": text.norm_eps,
                "video pixel_mean": video.pixels["mean"], "video pixel_std": video.pixels["std"]}

    def trunk_video(self, video: Tensor, gate: bool = False) -> Tensor:
        """(B, T, 3, H, W), uint8 RGB or normalised floats -> (B, S, D)."""
        tower = self.video_tower
        cls_token = self.fused_cls_token if gate and not self.shares_trunk else tower.cls_token
        x = tower.embed(video, cls_token)
        for block in tower.blocks[: len(tower.blocks) - tower.num_fused]:
            x = self._run(block, x, video.shape[1])
        return x

    def trunk_text(self, text: Text) -> tuple[Tensor, Tensor]:
        """(B, L) -> hidden states (B, L, D) and mask (B, L) bool."""
        tower, mask = self.text_tower, text["attention_mask"].bool()
        y = tower.embed(text["input_ids"])
        for block in tower.blocks[: len(tower.blocks) - tower.num_fused]:
            y = self._run(block, y, mask)
        return y, mask

    def trunk(self, video: Tensor, text: Text, gate: bool) -> Trunk:
        return Trunk(self.trunk_video(video, gate), *self.trunk_text(text))

    def top(self, trunk: Trunk, num_frames: int, gate: bool, video_output: Literal["all", "cls", "none"] = "all",
            text_output: bool = True) -> Top:
        """The upper layers. With the gate closed, cross-attention is not computed.

        Args:
            trunk: Outputs of the trunk.
            num_frames: `T` of the clips.
            gate: Whether the towers see each other.
            video_output: What is read of the video's last layer; what is not read is not computed.
            text_output: Whether the text's last layer is read.
        """
        if not gate:
            video = None if video_output == "none" else self.top_video(trunk.video, num_frames, video_output == "cls")
            return Top(video, self.top_text(trunk.text, trunk.mask) if text_output else None)
        if self.stack is not None:
            video = self.video_tower.norm(trunk.video)
            return self._stacked_top(video, trunk.text, trunk.mask, video_output, text_output)
        return self._fused_top(trunk, num_frames, video_output, text_output)

    def top_video(self, x: Tensor, num_frames: int, cls_only: bool = False) -> Tensor:
        """Gate closed: (B, S, D) -> (B, S, D), or (B, 1, D) with `cls_only`, after the final norm."""
        blocks = self._fused(self.video_tower)
        for i, block in enumerate(blocks):
            x = self._run(block, x, num_frames, None, None, cls_only and i == len(blocks) - 1)
        return self.video_tower.norm(x[:, :1] if cls_only else x)

    def top_text(self, y: Tensor, mask: Tensor) -> Tensor:
        """Gate closed: (B, L, D) -> (B, L, D)."""
        for block in self._fused(self.text_tower):
            y = self._run(block, y, mask)
        return y

    def precompute_video(self, video: Tensor, num_frames: int) -> VideoContext:
        """What all texts of a video share of the first fused layer: (B, S, D) -> `VideoContext`."""
        if self.stack is not None:
            normed = self.video_tower.norm(video)
            return VideoContext(normed, normed[:, :1])
        if not self.config.num_fused_layers:
            return VideoContext(video[:, :1], video[:, :1])
        alone = self.config.num_fused_layers == 1
        first = self._run(self.video_tower.first_fused.attend, video, num_frames, alone)
        return VideoContext(video[:, :1] if alone else video, first)

    def fused_video_cls(self, attended: VideoContext, num_frames: int, text: Tensor, mask: Tensor) -> Tensor:
        """CLS of the videos (B, D) after the final norm, gate open, each with its text: (B, L, D) and (B, L) bool."""
        if self.stack is not None:
            top = self._stacked_top(attended.video, text, mask, "cls", False)
        else:
            top = self._fused_top(Trunk(attended.video, text, mask), num_frames, "cls", False, attended.first)
        assert top.video is not None
        return top.video[:, 0]

    def _fused_top(self, trunk: Trunk, num_frames: int, video_output: str, text_output: bool,
                   first: Tensor | None = None) -> Top:
        x, y, mask = trunk
        attends_to_current = self.config.text_attends_to == "current"
        pairs = list(zip(self._fused(self.video_tower), self._fused(self.text_tower), strict=True))
        for i, (video_block, text_block) in enumerate(pairs):
            previous, last = x, i == len(pairs) - 1
            feeds_text = attends_to_current and (text_output or not last)
            if not last or feeds_text or video_output != "none":
                cls_only = last and not feeds_text and video_output == "cls"
                x = (self._run(video_block, previous, num_frames, y, mask, cls_only) if i or first is None
                     else self._run(self.video_tower.first_fused.join, previous, first, y, mask))
            if not last or text_output:
                y = self._run(text_block, y, mask, x if attends_to_current else previous)
        norm = self.video_tower.norm if self.shares_trunk else self.fused_norm
        read = {"all": x, "cls": x[:, :1], "none": None}[video_output]
        return Top(None if read is None else norm(read), y if text_output else None)

    def _stacked_top(self, video: Tensor, text: Tensor, mask: Tensor, video_output: str, text_output: bool) -> Top:
        assert self.stack is not None
        cls, words = self._run(self.stack, video, text, mask, video_output != "none", text_output)
        read = torch.cat([cls, video[:, 1:]], dim=1) if video_output == "all" else cls
        return Top(None if video_output == "none" else read, words if text_output else None)

    def _fused(self, tower: VideoTower | TextTower) -> nn.ModuleList:
        return tower.blocks[len(tower.blocks) - tower.num_fused:]

    def _run(self, block: Callable[..., Any], *args: Any) -> Any:
        if self.config.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)

    def freeze_fusion(self) -> None:
        """Takes what only the open gate uses out of training: DDP waits for a gradient of all that is trainable."""
        for name, parameter in self.named_parameters():
            if ".fusion." in name or name.startswith(("stack.", "fused_", "match_head.", "masked_word_head.")):
                parameter.requires_grad_(False)

    def freeze_all_but_fused_video(self) -> None:
        """Takes out of training what the video's CLS state, gate open, does not depend on."""
        last_words = (f"text_tower.blocks.{len(self.text_tower.blocks) - 1}." if self.stack is None
                      else f"stack.text.{len(self.stack.text) - 1}.")
        unread = ["text_projector.", "video_projector.", "fused_video_transform.", "fused_text_transform.",
                  "match_head.", "masked_word_head.", last_words]
        if not self.shares_trunk:
            unread += ["video_tower.cls_token", "video_tower.norm."]
        for name, parameter in self.named_parameters():
            if name.startswith(tuple(unread)):
                parameter.requires_grad_(False)

    # ---- heads on outputs of `top` ----------------------------------------------------------------------------------

    def project_video(self, cls: Tensor) -> Tensor:
        return self.video_projector(cls)  # (B, D) -> (B, P)

    def project_text(self, cls: Tensor) -> Tensor:
        return self.text_projector(cls)  # (B, D) -> (B, P)

    def vtm_logits_from(self, top: Top) -> Tensor:
        """Fused states -> (B, 2): no match, match."""
        assert top.video is not None and top.text is not None
        return self.match_head(self.fused_video_transform(top.video[:, 0]), self.fused_text_transform(top.text[:, 0]))

    def mlm_logits_from(self, states: Tensor) -> Tensor:
        """Fused text states (..., D) -> (..., V)."""
        return self.masked_word_head(self.fused_text_transform(states))

    # ---- whole passes -----------------------------------------------------------------------------------------------

    def video_features(self, video: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> CLS (B, D) after the final norm, gate closed."""
        return self.top_video(self.trunk_video(video), video.shape[1], cls_only=True)[:, 0]

    def text_features(self, text: Text) -> Tensor:
        """(B, L) -> (B, L, D), gate closed."""
        return self.top_text(*self.trunk_text(text))

    def embed_video(self, video: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, P), not normalised, gate closed."""
        return self.project_video(self.video_features(video))

    def embed_text(self, text: Text) -> Tensor:
        """(B, L) -> (B, P), not normalised, gate closed."""
        return self.project_text(self.text_features(text)[:, 0])

    def fused_features(self, video: Tensor, text: Text) -> Tensor:
        """CLS of the video (B, D) after the final norm, gate open."""
        attended = self.precompute_video(self.trunk_video(video, gate=True), video.shape[1])
        return self.fused_video_cls(attended, video.shape[1], *self.trunk_text(text))

    def vtm_logits(self, video: Tensor, text: Text) -> Tensor:
        """Video-text matching logits (B, 2): no match, match."""
        return self.vtm_logits_from(self.top(self.trunk(video, text, gate=True), video.shape[1], True, "cls"))

    def mlm_logits(self, video: Tensor, text: Text) -> Tensor:
        """Logits of every word (B, L, V), gate open."""
        top = self.top(self.trunk(video, text, gate=True), video.shape[1], True, "none")
        assert top.text is not None
        return self.mlm_logits_from(top.text)


def _init_linear(module: nn.Module) -> None:
    """What comes out is as large as what goes in, at any width: with BERT's 0.02, matching starts late at width 192."""
    if isinstance(module, nn.Linear) and not module.weight.is_meta:
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

"""The shared video-language backbone and its gate.

A clip passes frames -> `trunk` (lower, unfused layers) -> `top` (upper, fused layers) -> heads; a text likewise.
Letters: `B` clips, `T` frames, `N` patches of a frame, `S = 1 + T * N` video tokens, `L` text tokens, `D` width,
`P` projection, `V` vocabulary.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from egovlpv2.batch import Text
from egovlpv2.model.compilation import compile_layers
from egovlpv2.model.config import BackboneConfig
from egovlpv2.model.fusion import GatedCrossAttention, StackedFusionEncoder
from egovlpv2.model.heads import MLMHead, VTMHead, init_linear, projector
from egovlpv2.model.text_tower import TextTower
from egovlpv2.model.video_tower import VideoTower
from egovlpv2.pretrained.mixin import PretrainedMixin


class Trunk(NamedTuple):
    """Outputs of the unfused layers, which all objectives share."""

    video: Tensor  # (B, S, D)
    text: Tensor  # (B, L, D)
    mask: Tensor  # (B, L) bool


class VideoContext(NamedTuple):
    """Text-independent part of the fused layers, computed once per video and reused for every text.

    With fusion in the backbone: the trunk and its self-attention in the first fused layer. With stacked layers: the
    tokens that they attend to, and the CLS state.
    """

    video: Tensor  # (B, S, D), or (B, 1, D) where later layers need the CLS token only
    first: Tensor  # (B, S, D) or (B, 1, D)

    def of(self, index: Tensor) -> "VideoContext":
        """Select videos by index, with repetition."""
        return VideoContext(self.video[index], self.first[index])


class Top(NamedTuple):
    """Outputs of the fused layers; None where the caller didn't request them."""

    video: Tensor | None  # (B, S, D) or (B, 1, D), after the final norm
    text: Tensor | None  # (B, L, D)

    @property
    def video_cls(self) -> Tensor:
        """CLS states of the video, (B, D)."""
        assert self.video is not None
        return self.video[:, 0]

    @property
    def text_cls(self) -> Tensor:
        """CLS states of the text, (B, D)."""
        assert self.text is not None
        return self.text[:, 0]


class Backbone(PretrainedMixin, LightningModule):
    """EgoVLPv2's backbone: a dual encoder with `gate=False`, a fusion encoder with the same weights with `gate=True`.

    Args:
        config: Towers, fusion and heads.
    """

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
            module.apply(init_linear)
        for module in fusions:
            if isinstance(module, GatedCrossAttention) and config.alpha is not None:
                nn.init.constant_(module.alpha.requires_grad_(False), config.alpha)
        if config.compile:
            compile_layers([*self.video_tower.blocks, *self.text_tower.blocks, *([self.stack] if self.stack else [])])

    def _make_stack(self) -> StackedFusionEncoder:
        video, text = self.video_tower, self.text_tower
        return StackedFusionEncoder(self.config.num_fused_layers, video.dim, text.dim, video.num_heads, text.num_heads,
                                    text.norm_eps, text.dropout)

    # ---- trunk and top: the parts that objectives share -------------------------------------------------------------

    @property
    def shares_trunk(self) -> bool:
        """True if the closed and the open gate use the same video trunk."""
        return self.config.fusion_cls == "shared"

    @property
    def traits(self) -> dict[str, Any]:
        """Settings that change the outputs but not the names or shapes of the weights."""
        video, text = self.video_tower, self.text_tower
        attends_to = self.config.text_attends_to if self.stack is None else None  # no effect on stacked layers
        return {"text_attends_to": attends_to, "alpha": self.config.alpha,
                "video num_heads": video.num_heads, "text num_attention_heads": text.num_heads,
                "video norm_eps": video.norm.eps, "text layer_norm_eps": text.norm_eps,
                "video pixel_mean": video.pixels["mean"], "video pixel_std": video.pixels["std"]}

    def trunk_video(self, video: Tensor, gate: bool = False) -> Tensor:
        """Run the video's unfused layers: (B, T, 3, H, W), uint8 RGB or normalised floats -> (B, S, D)."""
        tower = self.video_tower
        cls_token = self.fused_cls_token if gate and not self.shares_trunk else tower.cls_token
        x = tower.embed(video, cls_token)
        for block in tower.blocks[: len(tower.blocks) - tower.num_fused]:
            x = self._run(block, x, video.shape[1], in_trunk=True)
        return x

    def trunk_text(self, text: Text) -> tuple[Tensor, Tensor]:
        """Run the text's unfused layers: (B, L) -> hidden states (B, L, D) and mask (B, L) bool."""
        tower, mask = self.text_tower, text["attention_mask"].bool()
        y = tower.embed(text["input_ids"])
        for block in tower.blocks[: len(tower.blocks) - tower.num_fused]:
            y = self._run(block, y, mask, in_trunk=True)
        return y, mask

    def trunk(self, video: Tensor, text: Text, gate: bool) -> Trunk:
        """Run the unfused layers of both towers; `gate` selects the CLS token of the pass that follows."""
        return Trunk(self.trunk_video(video, gate), *self.trunk_text(text))

    def top(self, trunk: Trunk, num_frames: int, gate: bool, video_output: Literal["all", "cls", "none"] = "all",
            text_output: bool = True) -> Top:
        """Run the upper layers. With the gate closed, cross-attention is not computed.

        Args:
            trunk: Outputs of the trunk.
            num_frames: `T` of the clips.
            gate: True to fuse the towers by cross-attention.
            video_output: Tokens of the video's last layer to compute: all, the CLS token, or none.
            text_output: False to skip the text's last layer.
        """
        if not gate:
            video = None if video_output == "none" else self.top_video(trunk.video, num_frames, video_output == "cls")
            return Top(video, self.top_text(trunk.text, trunk.mask) if text_output else None)
        if self.stack is not None:
            video = self.video_tower.norm(trunk.video)
            return self._stacked_top(video, trunk.text, trunk.mask, video_output, text_output)
        return self._fused_top(trunk, num_frames, video_output, text_output)

    def top_video(self, x: Tensor, num_frames: int, cls_only: bool = False) -> Tensor:
        """Run the video's upper layers, gate closed, and its final norm: (B, S, D) -> (B, S, D), or (B, 1, D)."""
        blocks = self._fused(self.video_tower)
        for i, block in enumerate(blocks):
            x = self._run(block, x, num_frames, None, None, cls_only and i == len(blocks) - 1)
        return self.video_tower.norm(x[:, :1] if cls_only else x)

    def top_text(self, y: Tensor, mask: Tensor) -> Tensor:
        """Run the text's upper layers, gate closed: (B, L, D) -> (B, L, D)."""
        for block in self._fused(self.text_tower):
            y = self._run(block, y, mask)
        return y

    def precompute_video(self, video: Tensor, num_frames: int) -> VideoContext:
        """Compute what `fused_video_cls` needs of a video's trunk (B, S, D), once for all its texts."""
        if self.stack is not None:
            normed = self.video_tower.norm(video)
            return VideoContext(normed, normed[:, :1])
        if not self.config.num_fused_layers:
            return VideoContext(video[:, :1], video[:, :1])
        alone = self.config.num_fused_layers == 1
        first = self._run(self.video_tower.first_fused.attend, video, num_frames, alone)
        return VideoContext(video[:, :1] if alone else video, first)

    def fused_video_cls(self, context: VideoContext, num_frames: int, text: Tensor, mask: Tensor) -> Tensor:
        """Compute CLS states (B, D) after the final norm of B videos, each fused with its text.

        `context` is from `precompute_video`, `text` (B, L, D) and `mask` (B, L) are from `trunk_text`.
        """
        if self.stack is not None:
            return self._stacked_top(context.video, text, mask, "cls", False).video_cls
        return self._fused_top(Trunk(context.video, text, mask), num_frames, "cls", False, context.first).video_cls

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
        cls, text = self._run(self.stack, video, text, mask, video_output != "none", text_output)
        read = torch.cat([cls, video[:, 1:]], dim=1) if video_output == "all" else cls
        return Top(None if video_output == "none" else read, text if text_output else None)

    def _fused(self, tower: VideoTower | TextTower) -> nn.ModuleList:
        return tower.blocks[len(tower.blocks) - tower.num_fused:]

    def _run(self, block: Callable[..., Any], *args: Any, in_trunk: bool = False) -> Any:
        again = self.config.gradient_checkpointing in ((True, "trunk") if in_trunk else (True,))
        if again and self.training and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)

    def freeze_fusion(self) -> None:
        """Freeze the parameters that only the open gate uses: DDP requires a gradient of every trainable one."""
        for name, parameter in self.named_parameters():
            if ".fusion." in name or name.startswith(("stack.", "fused_", "match_head.", "masked_word_head.")):
                parameter.requires_grad_(False)

    def freeze_all_but_fused_video(self) -> None:
        """Freeze the parameters that `fused_video_cls` doesn't depend on."""
        last_text = (f"text_tower.blocks.{len(self.text_tower.blocks) - 1}." if self.stack is None
                      else f"stack.text.{len(self.stack.text) - 1}.")
        unused = ["text_projector.", "video_projector.", "fused_video_transform.", "fused_text_transform.",
                  "match_head.", "masked_word_head.", last_text]
        if not self.shares_trunk:
            unused += ["video_tower.cls_token", "video_tower.norm."]
        for name, parameter in self.named_parameters():
            if name.startswith(tuple(unused)):
                parameter.requires_grad_(False)

    # ---- heads on outputs of `top` ----------------------------------------------------------------------------------

    def project_video(self, cls: Tensor) -> Tensor:
        """Project CLS states into the space shared by both modalities: (B, D) -> (B, P)."""
        return self.video_projector(cls)

    def project_text(self, cls: Tensor) -> Tensor:
        """Project CLS states into the space shared by both modalities: (B, D) -> (B, P)."""
        return self.text_projector(cls)

    def vtm_logits_from(self, top: Top) -> Tensor:
        """Compute video-text matching logits of fused states: (B, 2), no match and match."""
        return self.match_head(self.fused_video_transform(top.video_cls), self.fused_text_transform(top.text_cls))

    def mlm_logits_from(self, states: Tensor) -> Tensor:
        """Compute masked-language-modelling logits of fused text states: (..., D) -> (..., V)."""
        return self.masked_word_head(self.fused_text_transform(states))

    # ---- whole passes -----------------------------------------------------------------------------------------------

    def video_features(self, video: Tensor) -> Tensor:
        """Encode clips, gate closed: (B, T, 3, H, W) -> CLS states after the final norm (B, D)."""
        return self.top_video(self.trunk_video(video), video.shape[1], cls_only=True)[:, 0]

    def text_features(self, text: Text) -> Tensor:
        """Encode texts, gate closed: (B, L) -> (B, L, D)."""
        return self.top_text(*self.trunk_text(text))

    def embed_video(self, video: Tensor) -> Tensor:
        """Embed clips for retrieval, gate closed: (B, T, 3, H, W) -> (B, P), not normalised."""
        return self.project_video(self.video_features(video))

    def embed_text(self, text: Text) -> Tensor:
        """Embed texts for retrieval, gate closed: (B, L) -> (B, P), not normalised."""
        return self.project_text(self.text_features(text)[:, 0])

    def fused_features(self, video: Tensor, text: Text) -> Tensor:
        """Encode clips fused with one text each: CLS states after the final norm (B, D), gate open."""
        context = self.precompute_video(self.trunk_video(video, gate=True), video.shape[1])
        return self.fused_video_cls(context, video.shape[1], *self.trunk_text(text))

    def vtm_logits(self, video: Tensor, text: Text) -> Tensor:
        """Compute video-text matching logits, gate open: (B, 2), no match and match."""
        return self.vtm_logits_from(self.top(self.trunk(video, text, gate=True), video.shape[1], True, "cls"))

    def mlm_logits(self, video: Tensor, text: Text) -> Tensor:
        """Compute masked-language-modelling logits of every token, gate open: (B, L, V)."""
        top = self.top(self.trunk(video, text, gate=True), video.shape[1], True, "none")
        assert top.text is not None
        return self.mlm_logits_from(top.text)

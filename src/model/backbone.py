"""The shared video-language backbone and its gate.

A clip passes frames -> `trunk` (lower, unfused layers) -> `top` (upper, fused layers) -> heads; a text likewise.
Letters: `B` clips, `T` frames, `N` patches of a frame, `S` video tokens, `L` text tokens, `D` width,
`P` projection, `V` vocabulary.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from egovlpv2.batch import Text
from egovlpv2.model.compilation import compile_layers
from egovlpv2.model.config import BackboneConfig
from egovlpv2.model.fusion import GatedCrossAttention, StackedFusionEncoder
from egovlpv2.model.heads import MLMHead, VTMHead, init_linear, projector
from egovlpv2.model.outputs import Top, Trunk, VideoContext
from egovlpv2.model.text_families import family_of
from egovlpv2.model.text_tower import TextTower
from egovlpv2.model.video_tower import VideoTower
from egovlpv2.pretrained.mixin import PretrainedMixin


class Backbone(PretrainedMixin, LightningModule):
    """EgoVLPv2's backbone: a dual encoder with `gate=False`, a fusion encoder with the same weights with `gate=True`.

    Args:
        config: Towers, fusion and heads.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        text = config.text.resolve()
        text_dim = text.hidden_size
        inside = config.num_fused_layers if config.fusion == "backbone" else 0
        self.video_tower = VideoTower(config.video, inside, text_dim,
                                      text_is_normed=not family_of(text.model_type).pre_norm)
        video_dim = self.video_tower.dim
        self.text_tower = TextTower(config.text, inside, video_dim)
        self.config = replace(config, video=replace(config.video, norm_eps=self.video_tower.norm_eps))
        self.stack = self._make_stack() if config.fusion == "stacked" else None
        if config.fusion_cls == "own":
            if not self.video_tower.reads_cls:
                raise ValueError(f"fusion_cls: own needs a CLS token that represents the clip, and {config.video.name} "
                                 "pools its tokens otherwise: set fusion_cls to shared")
            self.fused_cls_token = nn.Parameter(torch.zeros(1, 1, video_dim))
            self.fused_norm = nn.LayerNorm(video_dim, eps=1e-6)
        self.video_projector = projector(video_dim, config.projector, "video", config.linear_projector)
        self.text_projector = projector(text_dim, config.projector, "text", config.linear_projector)
        heads: list[nn.Module] = []
        if config.fusion != "none":
            self.fused_video_transform = nn.Linear(video_dim, video_dim)
            self.fused_text_transform = nn.Linear(text_dim, text_dim)
            self.match_head = VTMHead(video_dim, text_dim)
            self.masked_word_head = MLMHead(text_dim, self.text_tower.vocab_size)
            heads = [self.fused_video_transform, self.fused_text_transform, self.match_head, self.masked_word_head]
        fusions = [m for m in self.modules() if isinstance(m, GatedCrossAttention | StackedFusionEncoder)]
        for module in (*heads, *fusions):
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
                "video norm_eps": video.norm_eps, "text layer_norm_eps": text.norm_eps,
                "video pixel_mean": video.pixels["mean"], "video pixel_std": video.pixels["std"],
                **{f"video {key}": value for key, value in video.traits.items()},
                **{f"text {key}": value for key, value in text.traits.items()}}

    def trunk_video(self, video: Tensor, gate: bool = False) -> Tensor:
        """Run the video's unfused layers: (B, T, 3, H, W), uint8 RGB or normalised floats -> (B, S, D)."""
        tower = self.video_tower
        x = tower.embed(video, self.fused_cls_token if gate and not self.shares_trunk else None)
        for block in tower.blocks[: len(tower.blocks) - tower.num_fused]:
            x = self._run(block, x, video.shape[1], in_trunk=True)
        return x

    def trunk_text(self, text: Text) -> tuple[Tensor, Tensor]:
        """Run the text's unfused layers: (B, L) -> hidden states (B, L, D) and mask (B, L) bool."""
        mask = self.text_tower.mask(text)
        return self.trunk_tokens(text["input_ids"], mask), mask

    def trunk_tokens(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Run the text's unfused layers on tokens and the tower's mask of the texts, (B, L) each -> (B, L, D)."""
        tower = self.text_tower
        y = tower.embed(input_ids)
        for block in tower.blocks[: len(tower.blocks) - tower.num_fused]:
            y = self._run(block, y, mask, in_trunk=True)
        return y

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
            video_output: Tokens of the video's last layer to compute: all, what represents the clip (the CLS token, if
                the video tower has one), or none.
            text_output: False to skip the text's last layer.
        """
        assert trunk.attended is None or video_output != "all" or trunk.attended.shape[1] == trunk.video.shape[1]
        if not gate:
            cls_only = video_output == "cls" and self.video_tower.reads_cls
            video = None if video_output == "none" else self.top_video(trunk.video, num_frames, cls_only,
                                                                       trunk.attended)
            return self._pool(video, self.top_text(trunk.text, trunk.mask) if text_output else None, trunk.mask)
        self.config.require_fusion("this pass")
        if self.stack is not None:
            video = self.video_tower.norm(trunk.video)
            return self._stacked_top(video, trunk.text, trunk.mask, video_output, text_output)
        return self._fused_top(trunk, num_frames, video_output, text_output)

    def attend_first(self, video: Tensor, num_frames: int, text_output: bool = True) -> Tensor | None:
        """Compute the self-attention of the first fused video layer, which no text changes, once for many passes.

        Args:
            video: Output of the video's trunk.
            num_frames: `T` of the clips.
            text_output: False if none of the passes computes the text's last layer.

        Returns:
            (B, S, D) for a trunk (B, S, D). If one layer is fused and the text doesn't attend to it, (B, 1, D) of the
            CLS token, for the video outputs `cls` and `none`. None if no layer of the towers is fused.
        """
        if self.stack is not None or not self.config.num_fused_layers:
            return None
        cls_only = (self.config.num_fused_layers == 1 and self.video_tower.reads_cls
                    and not (text_output and self.config.text_attends_to == "current"))
        return self._run(self._fused(self.video_tower)[0], video, num_frames, None, None, cls_only, None, True)

    def top_video(self, x: Tensor, num_frames: int, cls_only: bool = False, attended: Tensor | None = None) -> Tensor:
        """Run the video's upper layers, gate closed, and its final norm.

        (B, S, D) -> (B, S, D), or (B, 1, D) of the CLS token alone. `attended` is from `attend_first`.
        """
        blocks = self._fused(self.video_tower)
        assert attended is None or cls_only or attended.shape[1] == x.shape[1]
        for i, block in enumerate(blocks):
            only = cls_only and i == len(blocks) - 1
            x = self._run(block, x, num_frames, None, None, only, None if i else attended)
        return self.video_tower.norm(x[:, :1] if cls_only else x)

    def top_text(self, y: Tensor, mask: Tensor) -> Tensor:
        """Run the text's upper layers, gate closed, and its final norm, if it has one: (B, L, D) -> (B, L, D)."""
        for block in self._fused(self.text_tower):
            y = self._run(block, y, mask)
        return self.text_tower.norm(y)

    def pooled_video(self, trunk: Tensor, num_frames: int, attended: Tensor | None = None) -> Tensor:
        """Compute the states that represent clips, gate closed, from their trunk: (B, S, D) -> (B, D)."""
        return self.video_tower.pool(self.top_video(trunk, num_frames, self.video_tower.reads_cls, attended))

    def pooled_text(self, trunk: Tensor, mask: Tensor) -> Tensor:
        """Compute the states that represent texts, gate closed, from their trunk: (B, L, D), (B, L) -> (B, D)."""
        return self.text_tower.pool(self.top_text(trunk, mask), mask)

    def _pool(self, video: Tensor | None, text: Tensor | None, mask: Tensor) -> Top:
        return Top(video, text, None if video is None else self.video_tower.pool(video),
                   None if text is None else self.text_tower.pool(text, mask))

    def precompute_video(self, video: Tensor, num_frames: int) -> VideoContext:
        """Compute what `fused_video_cls` needs of a video's trunk (B, S, D), once for all its texts."""
        self.config.require_fusion("this pass")
        if self.stack is not None:
            normed = self.video_tower.norm(video)
            return VideoContext(normed, normed[:, :1])
        first = self.attend_first(video, num_frames, text_output=False)
        if first is None:
            first = video[:, :1] if self.video_tower.reads_cls else video
        return VideoContext(video[:, : first.shape[1]], first)

    def fused_video_cls(self, context: VideoContext, num_frames: int, text: Tensor, mask: Tensor) -> Tensor:
        """Compute the states (B, D) that represent B videos, each fused with its text.

        `context` is from `precompute_video`, `text` (B, L, D) and `mask` (B, L) are from `trunk_text`.
        """
        if self.stack is not None:
            return self._stacked_top(context.video, text, mask, "cls", False).video_cls
        return self._fused_top(Trunk(context.video, text, mask, context.first), num_frames, "cls", False).video_cls

    def _fused_top(self, trunk: Trunk, num_frames: int, video_output: str, text_output: bool) -> Top:
        x, y, mask, attended = trunk
        attends_to_current, reads_cls = self.config.text_attends_to == "current", self.video_tower.reads_cls
        pairs = list(zip(self._fused(self.video_tower), self._fused(self.text_tower), strict=True))
        for i, (video_block, text_block) in enumerate(pairs):
            previous, last = x, i == len(pairs) - 1
            feeds_text = attends_to_current and (text_output or not last)
            if not last or feeds_text or video_output != "none":
                cls_only = last and not feeds_text and video_output == "cls" and reads_cls
                x = self._run(video_block, previous, num_frames, y, mask, cls_only, None if i else attended)
            if not last or text_output:
                y = self._run(text_block, y, mask, x if attends_to_current else previous)
        norm = self.video_tower.norm if self.shares_trunk else self.fused_norm
        read = {"all": x, "cls": x[:, :1] if reads_cls else x, "none": None}[video_output]
        return self._pool(None if read is None else norm(read), self.text_tower.norm(y) if text_output else None, mask)

    def _stacked_top(self, video: Tensor, text: Tensor, mask: Tensor, video_output: str, text_output: bool) -> Top:
        assert self.stack is not None
        text, pooled = self.text_tower.norm(text), self.video_tower.pool(video)
        cls, text = self._run(self.stack, video, pooled[:, None], text, mask, video_output != "none", text_output)
        tokens = torch.cat([cls, video[:, 1:]], dim=1) if self.video_tower.reads_cls else video
        return Top({"all": tokens, "cls": cls, "none": None}[video_output], text if text_output else None,
                   None if video_output == "none" else cls[:, 0],
                   self.text_tower.pool(text, mask) if text_output else None)

    def _fused(self, tower: VideoTower | TextTower) -> nn.ModuleList:
        return tower.blocks[len(tower.blocks) - tower.num_fused:]

    def _run(self, block: Callable[..., Any], *args: Any, in_trunk: bool = False) -> Any:
        again = self.config.gradient_checkpointing in ((True, "trunk") if in_trunk else (True,))
        if again and self.training and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)

    # ---- heads on outputs of `top` ----------------------------------------------------------------------------------

    def project_video(self, cls: Tensor) -> Tensor:
        """Project states of clips into the space shared by both modalities: (B, D) -> (B, P)."""
        return self.video_projector(cls)

    def project_text(self, cls: Tensor) -> Tensor:
        """Project states of texts into the space shared by both modalities: (B, D) -> (B, P)."""
        return self.text_projector(cls)

    def vtm_logits_from(self, top: Top) -> Tensor:
        """Compute video-text matching logits of fused states: (B, 2), no match and match."""
        return self.match_head(self.fused_video_transform(top.video_cls), self.fused_text_transform(top.text_cls))

    def mlm_logits_from(self, states: Tensor) -> Tensor:
        """Compute masked-language-modelling logits of fused text states: (..., D) -> (..., V)."""
        return self.masked_word_head(self.fused_text_transform(states))

    # ---- whole passes -----------------------------------------------------------------------------------------------

    def video_features(self, video: Tensor) -> Tensor:
        """Encode clips, gate closed: (B, T, 3, H, W) -> the states that represent them, (B, D).

        They are those of the CLS token after the final norm, or what the ViT pools in its place.
        """
        return self.pooled_video(self.trunk_video(video), video.shape[1])

    def text_features(self, text: Text) -> Tensor:
        """Encode texts, gate closed: (B, L) -> states of their tokens, after the final norm if any, (B, L, D)."""
        return self.top_text(*self.trunk_text(text))

    def embed_video(self, video: Tensor) -> Tensor:
        """Embed clips for retrieval, gate closed: (B, T, 3, H, W) -> (B, P), not normalised."""
        return self.project_video(self.video_features(video))

    def embed_text(self, text: Text) -> Tensor:
        """Embed texts for retrieval, gate closed: (B, L) -> (B, P), not normalised."""
        return self.project_text(self.pooled_text(*self.trunk_text(text)))

    def fused_features(self, video: Tensor, text: Text) -> Tensor:
        """Encode clips fused with one text each, gate open: the states that represent them, (B, D)."""
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

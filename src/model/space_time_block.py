"""A block of the video tower: attention in space and time, cross-attention and MLP.

Letters: `B` clips, `T` frames, `N` patches of a frame, `S` video tokens, `L` text tokens, `d` width of a head,
`D` width.
"""

from copy import deepcopy
from typing import Any, Literal

from torch import Tensor, nn

from egovlpv2.model.fusion import GatedCrossAttention
from egovlpv2.model.vit_attention import ViTAttention

SpaceTimeAttention = Literal["divided", "joint"]


class Scale(nn.Module):
    """Layer scale with a parameter of timm's `EvaBlock`, which has no module for it.

    Args:
        gamma: (D,).
    """

    def __init__(self, gamma: nn.Parameter) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., D)."""
        return x * self.gamma


class SpaceTimeBlock(nn.Module):
    """A timm ViT block with attention in space and time, and optional cross-attention after it.

    `z = SPACE(x + TIME(x))` with divided attention, or `z = SA(x)` over all frames with joint attention; then
    `x = x + z + alpha * CA(z, text)`, `x = x + MLP(x)`; each with a norm of its own.

    Args:
        block: timm's `Block` or `EvaBlock`, whose modules are taken over.
        fusion: Cross-attention; None for none.
        attention: See `VideoTowerConfig`.
        num_prefix: Number of tokens before the patches.
        rope: (N, 2d) sines and cosines of the patches' rotary positions; None without.
    """

    time_attn: ViTAttention | None
    norm1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    ls1: nn.Module
    ls2: nn.Module
    drop_path1: nn.Module
    drop_path2: nn.Module

    def __init__(self, block: Any, fusion: GatedCrossAttention | None, attention: SpaceTimeAttention,
                 num_prefix: int, rope: Tensor | None) -> None:
        super().__init__()
        self.norm1, self.ls1, self.drop_path1 = block.norm1, _scale(block, 1), block.drop_path1
        self.norm2, self.ls2, self.drop_path2 = block.norm2, _scale(block, 2), block.drop_path2
        self.attn, self.mlp = ViTAttention(block.attn, num_prefix, rope), block.mlp
        self.time_attn = None
        if attention == "divided":
            self.norm_time = deepcopy(block.norm1)
            self.norm_time.reset_parameters()
            self.time_attn = ViTAttention(deepcopy(block.attn), num_prefix, None)
            nn.init.zeros_(self.time_attn.proj.weight)  # preserves the pre-trained ViT's features at the start
            if self.time_attn.proj.bias is not None:
                nn.init.zeros_(self.time_attn.proj.bias)
        self.fusion = fusion

    def forward(self, x: Tensor, num_frames: int, text: Tensor | None = None, text_mask: Tensor | None = None,
                cls_only: bool = False, attended: Tensor | None = None, attention_only: bool = False) -> Tensor:
        """Run the block, or a part of it: what is compiled is this method.

        Args:
            x: (B, S, D).
            num_frames: `T`.
            text: (B, L, D') hidden states of the text tower; None leaves the gate closed.
            text_mask: (B, L) bool.
            cls_only: Compute only what the CLS token needs.
            attended: (B, S, D), or (B, 1, D) with `cls_only`, what an earlier call with `attention_only` has returned.
            attention_only: Stop after the attention in space and time, which doesn't depend on the text.

        Returns:
            (B, S, D), or (B, 1, D) with `cls_only`.
        """
        if attended is None:
            attended = self._attend(x, num_frames, cls_only)
        if attention_only:
            return attended
        return self._join(x, attended[:, :1] if cls_only else attended, text, text_mask)

    def _attend(self, x: Tensor, num_frames: int, cls_only: bool = False) -> Tensor:
        """Compute attention in space and time: (B, S, D), or (B, 1, D)."""
        if self.time_attn is not None:
            x = x + self.time_attn.in_time(self.norm_time(x), num_frames)
        y = self.norm1(x)  # (B, S, D)
        if cls_only:
            return self.attn.of_cls(y)
        return self.attn.joint(y) if self.time_attn is None else self.attn.in_space(y, num_frames)

    def _join(self, x: Tensor, z: Tensor, text: Tensor | None, text_mask: Tensor | None) -> Tensor:
        """Run the rest of the block, cross-attention and MLP, given `z`, the attention of `x`."""
        if text is not None:
            assert self.fusion is not None
            z = self.fusion(z, text, text_mask)
        x = x[:, : z.shape[1]] + self.drop_path1(self.ls1(z))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


def _scale(block: Any, branch: Literal[1, 2]) -> nn.Module:
    """The layer scale of a block's attention (1) or MLP (2)."""
    gamma = getattr(block, f"gamma_{branch}", None)
    return getattr(block, f"ls{branch}", nn.Identity()) if gamma is None else Scale(gamma)

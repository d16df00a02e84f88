"""A block of the video tower: attention in space and time, cross-attention and MLP.

Letters: `B` clips, `T` frames, `S` video tokens, `L` text tokens, `D` width.
"""

from copy import deepcopy
from typing import Any, Literal

from torch import Tensor, nn

from egovlpv2.model.attention import QKVAttention, cls_attention, divided_attention, joint_attention
from egovlpv2.model.fusion import GatedCrossAttention

SpaceTimeAttention = Literal["divided", "joint"]


class SpaceTimeBlock(nn.Module):
    """A timm ViT block with attention in space and time, and optional cross-attention after it.

    `z = SPACE(x + TIME(x))` with divided attention, or `z = SA(x)` over all frames with joint attention; then
    `x = x + z + alpha * CA(z, text)`, `x = x + MLP(x)`; each with a norm of its own.

    Args:
        block: timm's, whose modules are taken over.
        norm_eps: Epsilon of the norm before temporal attention.
        fusion: Cross-attention; None for none.
        attention: See `VideoTowerConfig`.
    """

    attn: QKVAttention
    time_attn: QKVAttention | None
    norm1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    ls1: nn.Module
    ls2: nn.Module
    drop_path1: nn.Module
    drop_path2: nn.Module

    def __init__(self, block: Any, norm_eps: float, fusion: GatedCrossAttention | None,
                 attention: SpaceTimeAttention = "divided") -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1, self.drop_path1 = block.norm1, block.attn, block.ls1, block.drop_path1
        self.norm2, self.mlp, self.ls2, self.drop_path2 = block.norm2, block.mlp, block.ls2, block.drop_path2
        self.time_attn = None
        if attention == "divided":
            self.norm_time = nn.LayerNorm(block.norm1.weight.shape[0], eps=norm_eps)
            self.time_attn = deepcopy(block.attn)
            nn.init.zeros_(self.time_attn.proj.weight)  # preserves the pre-trained ViT's features at the start
            nn.init.zeros_(self.time_attn.proj.bias)
        self.fusion = fusion

    def forward(self, x: Tensor, num_frames: int, text: Tensor | None = None, text_mask: Tensor | None = None,
                cls_only: bool = False) -> Tensor:
        """Run the block.

        Args:
            x: (B, S, D).
            num_frames: `T`.
            text: (B, L, D') hidden states of the text tower; None leaves the gate closed.
            text_mask: (B, L) bool.
            cls_only: Compute only what the CLS token needs.

        Returns:
            (B, S, D), or (B, 1, D) with `cls_only`.
        """
        return self.join(x, self.attend(x, num_frames, cls_only), text, text_mask)

    def attend(self, x: Tensor, num_frames: int, cls_only: bool = False) -> Tensor:
        """Compute attention in space and time, which doesn't depend on the text: (B, S, D), or (B, 1, D)."""
        if self.time_attn is not None:
            time = divided_attention(self.time_attn, self.norm_time(x), num_frames, "time")
            x = x + self.time_attn.proj(time)
        y = self.norm1(x)  # (B, S, D)
        if cls_only:
            return self.attn.proj(cls_attention(self.attn, y))
        if self.time_attn is None:
            return self.attn.proj(joint_attention(self.attn, y))
        return self.attn.proj(divided_attention(self.attn, y, num_frames, "space"))

    def join(self, x: Tensor, z: Tensor, text: Tensor | None = None, text_mask: Tensor | None = None) -> Tensor:
        """Run the rest of the block, cross-attention and MLP, given `z`, the output of `attend` for `x`."""
        if text is not None:
            assert self.fusion is not None
            z = self.fusion(z, text, text_mask)
        x = x[:, : z.shape[1]] + self.drop_path1(self.ls1(z))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

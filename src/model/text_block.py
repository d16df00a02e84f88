"""A layer of the text tower: self-attention, cross-attention and MLP.

Letters: `B` texts, `L` tokens, `S` video tokens, `h` heads, `d` width of a head, `D` width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from egovlpv2.model.attention import attend, merge_heads, split_heads
from egovlpv2.model.fusion import GatedCrossAttention


@dataclass
class TextLayer:
    """Modules and settings of a transformers encoder's layer.

    Args:
        projections: Layers `query`, `key` and `value`, or one `qkv` for all three.
        num_heads: Heads of self-attention.
        out: Output projection of self-attention.
        norm1: Norm of self-attention; before it in pre-norm layers, else after its residual.
        norm2: Norm of the MLP, likewise.
        mlp: The modules `fc1` and `fc2`, or one `mlp`.
        activation: Between `fc1` and `fc2`.
        pre_norm: True for norms before self-attention and MLP.
        attention_dropout: Rate on the attention weights.
        out_dropout: Rate on the output of self-attention.
        mlp_dropout: Rate on the output of the MLP.
        causal: True if tokens attend only to themselves and earlier ones.
        window: Tokens attend at most this far to both sides; None for all.
        rotary_base: Base of the wavelengths of rotary positions; None without them.
    """

    projections: dict[str, nn.Module]
    num_heads: int
    out: nn.Linear
    norm1: nn.Module
    norm2: nn.Module
    mlp: dict[str, nn.Module]
    activation: Callable[[Tensor], Tensor] | None = None
    pre_norm: bool = False
    attention_dropout: float = 0.0
    out_dropout: float = 0.0
    mlp_dropout: float = 0.0
    causal: bool = False
    window: int | None = None
    rotary_base: float | None = None


class TextBlock(nn.Module):
    """A transformers layer with cross-attention on its self-attention's output, before the residual.

    BERT's kind (post-norm): `x = LN(x + SA(x) + alpha * CA(SA(x), video))`, `x = LN(x + MLP(x))`.
    CLIP's kind (pre-norm): `y = SA(LN(x))`, `x = x + y + alpha * CA(y, video)`, `x = x + MLP(LN(x))`.

    Args:
        layer: The library's modules, which are taken over.
        fusion: Cross-attention; None for none.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    qkv: nn.Linear
    fc1: nn.Linear
    fc2: nn.Linear
    mlp: nn.Module
    def __init__(self, layer: TextLayer, fusion: GatedCrossAttention | None) -> None:
        super().__init__()
        self.num_heads, self.pre_norm, self.causal, self.window = (
            layer.num_heads, layer.pre_norm, layer.causal, layer.window)
        self.rotary_base = layer.rotary_base
        self.attention_dropout = layer.attention_dropout
        self.has_qkv, self.has_mlp = "qkv" in layer.projections, "mlp" in layer.mlp
        for name, module in layer.projections.items():
            self.add_module(name, module)
        self.out, self.norm1 = layer.out, layer.norm1
        for name, module in layer.mlp.items():
            self.add_module(name, module)
        self.activation, self.norm2 = layer.activation, layer.norm2
        self.out_dropout, self.mlp_dropout = nn.Dropout(layer.out_dropout), nn.Dropout(layer.mlp_dropout)
        self.fusion = fusion

    def forward(self, x: Tensor, mask: Tensor, video: Tensor | None = None) -> Tensor:
        """Run the layer.

        Args:
            x: (B, L, D).
            mask: (B, L) bool, False on padding.
            video: (B, S, D') hidden states of the video tower; None leaves the gate closed.

        Returns:
            (B, L, D).
        """
        y = self.out_dropout(self.out(self._attend(self.norm1(x) if self.pre_norm else x, mask)))  # (B, L, D)
        if video is not None:
            assert self.fusion is not None
            y = self.fusion(y, video)
        if self.pre_norm:
            x = x + y
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(x + y)
        return self.norm2(x + self._feed_forward(x))

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1) if self.has_qkv else (
            self.query(x), self.key(x), self.value(x))
        if self.rotary_base is not None:
            query, key = self._rotate(query), self._rotate(key)
        dropout = self.attention_dropout if self.training else 0.0
        return attend(query, key, value, self.num_heads, self._visible(mask), dropout)

    def _feed_forward(self, x: Tensor) -> Tensor:
        if self.has_mlp:
            return self.mlp_dropout(self.mlp(x))
        assert self.activation is not None
        return self.mlp_dropout(self.fc2(self.activation(self.fc1(x))))

    def _visible(self, mask: Tensor) -> Tensor:
        """Keys that each query attends to: (B, L) -> (B, L), or (B, L, L) if that differs between the queries."""
        if not self.causal and self.window is None:
            return mask
        place = torch.arange(mask.shape[1], device=mask.device)
        distance = place[:, None] - place  # (L, L) from query to key
        near = distance >= 0 if self.causal else distance.abs() <= (self.window or 0)
        return (mask[:, None] & near) | (distance == 0)  # padding too has a key, or its states would not be numbers

    def _rotate(self, x: Tensor) -> Tensor:
        """Rotate queries or keys by their positions, halves of a head paired: (B, L, D) -> (B, L, D)."""
        assert self.rotary_base is not None
        places, dim = torch.arange(x.shape[1], device=x.device, dtype=torch.float32), x.shape[2] // self.num_heads
        frequencies = self.rotary_base ** -(torch.arange(0, dim, 2, device=x.device) / dim)  # (d / 2,)
        angles = places[:, None] * frequencies  # (L, d / 2), float32 in any precision of the model
        first, second = split_heads(x, self.num_heads).float().chunk(2, dim=-1)  # (B, h, L, d / 2)
        cos, sin = angles.cos(), angles.sin()
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        return merge_heads(turned).to(x.dtype)

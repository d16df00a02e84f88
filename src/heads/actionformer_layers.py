"""Layers of ActionFormer: masked convolutions, attention within windows of time, and transformer blocks.

Letters: `B` clips, `C` channels, `T` steps in time, `H` attention heads, `d` width of a head, `n` outputs or chunks.
Masks are False on padding.
"""

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

_LEAST_CHUNK = 32  # steps whose attention is one matrix product
_FIRST_SCALE = 1e-4  # of the branches of a block (LayerScale)
_MLP_RATIO = 4


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each step: (B, C, T) -> (B, C, T)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT).mT


class ConvNorm(nn.Module):
    """A masked convolution, a normalisation and a ReLU.

    Args:
        in_dim: Width of the input.
        dim: Width of the output.
        eps: Of the normalisation.
        masked_twice: Mask the output too. Otherwise it has the normalisation's bias on padding, which the next
            convolution takes in at the end of a clip.
    """

    def __init__(self, in_dim: int, dim: int, eps: float, masked_twice: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(in_dim, dim, 3, padding=1, bias=False)
        self.norm = ChannelNorm(dim, eps)
        self.masked_twice = masked_twice

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Run the layer: (B, C, T), (B, 1, T) -> (B, C, T)."""
        x = self.norm(self.convolution(x) * mask).relu()
        return x * mask if self.masked_twice else x


class WindowAttention(nn.Module):
    """Self-attention over neighbours in time, on queries, keys and values of depthwise convolutions.

    Args:
        dim: Width.
        num_heads: Number of attention heads.
        stride: Of the convolutions: 2 halves the length.
        radius: A step attends to so many steps on each side; None: to all steps.
        dropout: Of the output.
    """

    def __init__(self, dim: int, num_heads: int, stride: int, radius: int | None, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.radius = num_heads, radius
        for name in ("query", "key", "value"):
            self.add_module(f"{name}_conv", nn.Conv1d(dim, dim, 3, stride, padding=1, groups=dim, bias=False))
            self.add_module(f"{name}_norm", ChannelNorm(dim))
            self.add_module(name, nn.Conv1d(dim, dim, 1))
        self.out = nn.Conv1d(dim, dim, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attend: (B, C, T), the mask (B, 1, T / stride) -> (B, C, T / stride)."""
        query, key, value = (self._project(name, x, mask) for name in ("query", "key", "value"))
        if self.radius is None:
            attended = F.scaled_dot_product_attention(query, key, value, mask[:, None])
        else:
            attended = local_attention(query, key, value, mask[:, 0], self.radius)
        joined = attended.mT.flatten(1, 2) * mask  # (B, C, T / stride)
        return self.dropout(self.out(joined)) * mask

    def _project(self, name: str, x: Tensor, mask: Tensor) -> Tensor:
        """Compute queries, keys or values: (B, C, T) -> (B, H, T / stride, d)."""
        mixed = self.get_submodule(f"{name}_norm")(self.get_submodule(f"{name}_conv")(x) * mask)
        return self.get_submodule(name)(mixed).unflatten(1, (self.num_heads, -1)).mT


def local_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, radius: int) -> Tensor:
    """Attend to the steps at most `radius` away, in chunks of steps: memory is linear in the length.

    Args:
        query, key, value: (B, H, T, d).
        mask: (B, T), False on padding, to which no real step attends.
        radius: Steps on each side.

    Returns:
        (B, H, T, d), undefined on padding.
    """
    length, chunk = query.shape[2], max(_LEAST_CHUNK, 2 * radius)
    span, rest = chunk + 2 * radius, -length % chunk  # steps seen by a chunk, and those that fill the last one
    query = F.pad(query, (0, 0, 0, rest)).unflatten(2, (-1, chunk))  # (B, H, n, chunk, d)
    key, value = (F.pad(x, (0, 0, radius, radius + rest)).unfold(2, span, chunk).mT  # (B, H, n, span, d)
                  for x in (key, value))
    real = F.pad(mask, (radius, radius + rest)).unfold(1, span, chunk)  # (B, n, span)
    ahead = torch.arange(span, device=mask.device) - torch.arange(chunk, device=mask.device)[:, None] - radius
    allowed = (ahead.abs() <= radius) & real[:, :, None]  # (B, n, chunk, span)
    allowed = allowed | (ahead == 0)  # a step of padding attends to itself: softmax over nothing is not a number
    attended = F.scaled_dot_product_attention(query, key, value, allowed[:, None])
    return attended.flatten(2, 3)[:, :, :length]


class Block(nn.Module):
    """A transformer block, pre-norm, with a scale for each channel of both branches; a stride of 2 halves the length.

    Args:
        dim: Width.
        num_heads: Number of attention heads.
        stride: 1 or 2.
        radius: Of the attention, see `WindowAttention`.
        dropout: Of both branches.
        drop_path: Probability to leave a branch out, for each clip.
    """

    def __init__(self, dim: int, num_heads: int, stride: int, radius: int | None, dropout: float, drop_path: float
                 ) -> None:
        super().__init__()
        self.stride = stride
        self.norm1, self.norm2 = ChannelNorm(dim), ChannelNorm(dim)
        self.attention = WindowAttention(dim, num_heads, stride, radius, dropout)
        self.pool = nn.Identity() if stride == 1 else nn.MaxPool1d(3, stride, padding=1)
        hidden = _MLP_RATIO * dim
        self.mlp = nn.Sequential(nn.Conv1d(dim, hidden, 1), nn.GELU(), nn.Dropout(dropout), nn.Conv1d(hidden, dim, 1),
                                 nn.Dropout(dropout))
        self.attention_scale, self.mlp_scale = (nn.Parameter(torch.full((dim,), _FIRST_SCALE)) for _ in range(2))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Run the block: (B, C, T), the mask (B, 1, T / stride) -> (B, C, T / stride)."""
        attended = self.attention(self.norm1(x), mask)
        x = self.pool(x) * mask + self.drop_path(self.attention_scale[:, None] * attended)
        return x + self.drop_path(self.mlp_scale[:, None] * (self.mlp(self.norm2(x)) * mask))


class PredictionHead(nn.Module):
    """A convolutional head, shared by all levels: (B, C, T) -> (B, n, T).

    Args:
        dim: Width.
        out_dim: Number of outputs of a step.
        eps: Of the normalisations.
        masked_twice: See `ConvNorm`.
    """

    def __init__(self, dim: int, out_dim: int, eps: float, masked_twice: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvNorm(dim, dim, eps, masked_twice) for _ in range(2))
        self.out = nn.Conv1d(dim, out_dim, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Predict at each step of a level: (B, C, T), (B, 1, T) -> (B, n, T)."""
        for layer in self.layers:
            x = layer(x, mask)
        return self.out(x) * mask

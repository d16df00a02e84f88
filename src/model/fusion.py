"""Gated cross-attention: what makes a layer of either tower a fused one."""

import torch
from egovlpv2.model.attention import attend
from torch import Tensor, nn


class GatedCrossAttention(nn.Module):
    """`x + alpha * CA(x, context)` with a learned gate `alpha` that starts at zero (paper, Sec. 3.1).

    Args:
        dim: Width of the tower that asks.
        context_dim: Width of the tower that answers.
        num_heads: Heads of `dim / num_heads`.
        norm_eps: Epsilon of a LayerNorm on the queries (video side of the released model); None for none.
        dropout: Of the attention weights and the output, as the text tower has it.
    """

    def __init__(self, dim: int, context_dim: int, num_heads: int, norm_eps: float | None, dropout: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(dim, eps=norm_eps)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(context_dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Args:
            x: (B, S, D).
            context: (B, L, D').
            mask: (B, L) bool, True where the context may be attended to.
        """
        key, value = self.key_value(context).chunk(2, dim=-1)  # (B, L, D)
        dropout = self.dropout.p if self.training else 0.0
        attended = attend(self.query(self.norm(x)), key, value, self.num_heads, mask, dropout)  # (B, S, D)
        return x + self.alpha * self.dropout(self.out(attended))

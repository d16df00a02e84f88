"""What lets one tower see the other: gated cross-attention inside a layer, or layers stacked on both towers.

Letters: `B` clips, `S` tokens of the tower that asks, `C` tokens of the one that answers, `D` and `D'` their widths,
`h` heads.
"""

import torch
from timm.layers import Mlp
from torch import Tensor, nn

from egovlpv2.model.attention import attend, attention_weights


class CrossAttention(nn.Module):
    """One tower asks, the other answers.

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

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """What is heard, (B, S, D).

        Args:
            x: (B, S, D).
            context: (B, C, D').
            mask: (B, C) bool, True where the context may be attended to.
        """
        key, value = self.key_value(context).chunk(2, dim=-1)  # (B, C, D)
        dropout = self.dropout.p if self.training else 0.0
        attended = attend(self.query(self.norm(x)), key, value, self.num_heads, mask, dropout)  # (B, S, D)
        return self.dropout(self.out(attended))

    def weights(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """How much each token listens to each of the context, (B, h, S, C); they sum to one over `C`."""
        key = self.key_value(context).chunk(2, dim=-1)[0]  # (B, C, D)
        return attention_weights(self.query(self.norm(x)), key, self.num_heads, mask)


class GatedCrossAttention(CrossAttention):
    """`x + alpha * CA(x, context)` with a learned gate `alpha` that starts at zero (paper, Sec. 3.1)."""

    def __init__(self, dim: int, context_dim: int, num_heads: int, norm_eps: float | None, dropout: float = 0.0):
        super().__init__(dim, context_dim, num_heads, norm_eps, dropout)
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """As `CrossAttention`, added to `x` by the gate's measure."""
        return x + self.alpha * super().forward(x, context, mask)


class FusionLayer(nn.Module):
    """A layer of ALBEF's fusion encoder: self-attention, cross-attention and MLP, with residuals and norms behind.

    Args:
        dim: Width of the tower that asks.
        context_dim: Width of the tower that answers.
        num_heads: Heads of `dim / num_heads`.
        norm_eps: Epsilon of the norms.
        dropout: Of attention and MLP.
    """

    def __init__(self, dim: int, context_dim: int, num_heads: int, norm_eps: float, dropout: float) -> None:
        super().__init__()
        self.attn = CrossAttention(dim, dim, num_heads, None, dropout)
        self.cross = CrossAttention(dim, context_dim, num_heads, None, dropout)
        self.mlp = Mlp(dim, 4 * dim, drop=dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=norm_eps) for _ in range(3))

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None, context: Tensor,
                context_mask: Tensor | None) -> Tensor:
        """Args:
            x: (B, Q, D) the tokens that ask: all, or the CLS state.
            tokens: (B, S, D) all tokens of their tower.
            mask: (B, S) bool.
            context: (B, C, D') the other tower's.
            context_mask: (B, C) bool.
        """
        x = self.norm1(x + self.attn(x, tokens, mask))
        x = self.norm2(x + self.cross(x, context, context_mask))
        return self.norm3(x + self.mlp(x))


class StackedFusionEncoder(nn.Module):
    """Fusion in layers on top of both towers, as in ALBEF: what the paper's Table 7 compares its own fusion with.

    The words attend to what the video tower gives, which stays as it is. Since the heads read the video's CLS state
    too, it gets layers of the same make, in which it attends to the video's tokens and to the words of the layer below.

    Args:
        num_layers: On each side.
        video_dim: Width of the video tower.
        text_dim: Width of the text tower.
        video_heads: Heads of the layers of the CLS state.
        text_heads: Heads of the words' layers.
        norm_eps: Epsilon of the norms.
        dropout: Of the words' layers, as the text tower has it.
    """

    def __init__(self, num_layers: int, video_dim: int, text_dim: int, video_heads: int, text_heads: int,
                 norm_eps: float, dropout: float) -> None:
        super().__init__()
        self.video = nn.ModuleList(
            FusionLayer(video_dim, text_dim, video_heads, norm_eps, 0.0) for _ in range(num_layers))
        self.text = nn.ModuleList(
            FusionLayer(text_dim, video_dim, text_heads, norm_eps, dropout) for _ in range(num_layers))

    def forward(self, video: Tensor, text: Tensor, mask: Tensor, video_output: bool, text_output: bool
                ) -> tuple[Tensor, Tensor]:
        """CLS state (B, 1, D) and words (B, L, D'), as far as they are read.

        Args:
            video: (B, S, D) after the tower's norm.
            text: (B, L, D').
            mask: (B, L) bool.
            video_output: Whether the CLS state is read.
            text_output: Whether the last layer's words are.
        """
        cls = video[:, :1]
        for i, (of_cls, of_words) in enumerate(zip(self.video, self.text, strict=True)):
            if video_output:
                cls = of_cls(cls, video, None, text, mask)
            if text_output or i < len(self.text) - 1:
                text = of_words(text, text, mask, video, None)
        return cls, text

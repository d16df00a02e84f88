"""Fusion of the towers: gated cross-attention inside their layers, or fusion layers stacked on both.

Letters: `B` clips, `S` tokens of the querying tower, `C` tokens of the context (the other tower), `D` and `D'` their
widths, `h` heads.
"""

import torch
from timm.layers import Mlp
from torch import Tensor, nn

from egovlpv2.model.attention import attend, attention_weights


class CrossAttention(nn.Module):
    """Cross-attention: queries from one tower, keys and values from the other.

    Args:
        dim: Width of the querying tower.
        context_dim: Width of the context.
        num_heads: Number of heads, each `dim / num_heads` wide.
        norm_eps: Epsilon of a LayerNorm on the queries (video side of the released model); None for no norm.
        dropout: Rate on the attention weights and on the output.
        normed_context: False to normalise the context too: hidden states of pre-norm text towers have a few very
            large channels.
    """

    def __init__(self, dim: int, context_dim: int, num_heads: int, norm_eps: float | None, dropout: float = 0.0,
                 normed_context: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.context_norm = nn.Identity() if normed_context else nn.LayerNorm(context_dim)
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(dim, eps=norm_eps)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(context_dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend to the context.

        Args:
            x: (B, S, D).
            context: (B, C, D').
            mask: (B, C) bool, True where the context may be attended to.

        Returns:
            (B, S, D).
        """
        key, value = self.key_value(self.context_norm(context)).chunk(2, dim=-1)  # (B, C, D)
        dropout = self.dropout.p if self.training else 0.0
        attended = attend(self.query(self.norm(x)), key, value, self.num_heads, mask, dropout)  # (B, S, D)
        return self.dropout(self.out(attended))

    def weights(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the attention weights of each token over the context, (B, h, S, C); they sum to one over `C`."""
        key = self.key_value(self.context_norm(context)).chunk(2, dim=-1)[0]  # (B, C, D)
        return attention_weights(self.query(self.norm(x)), key, self.num_heads, mask)


class GatedCrossAttention(CrossAttention):
    """Gated cross-attention with a residual: `x + alpha * CA(x, context)` (paper, Sec. 3.1).

    The learned scalar `alpha` starts at zero.
    """

    def __init__(self, dim: int, context_dim: int, num_heads: int, norm_eps: float | None, dropout: float = 0.0,
                 normed_context: bool = True) -> None:
        super().__init__(dim, context_dim, num_heads, norm_eps, dropout, normed_context)
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Add the attended context, scaled by `alpha`, to `x`; arguments as in `CrossAttention.forward`."""
        return x + self.alpha * super().forward(x, context, mask)


class FusionLayer(nn.Module):
    """A layer of ALBEF's fusion encoder: self-attention, cross-attention and MLP, with residuals and post-norms.

    Args:
        dim: Width of the querying tower.
        context_dim: Width of the context.
        num_heads: Number of heads, each `dim / num_heads` wide.
        norm_eps: Epsilon of the norms.
        dropout: Rate in attention and MLP.
    """

    def __init__(self, dim: int, context_dim: int, num_heads: int, norm_eps: float, dropout: float) -> None:
        super().__init__()
        self.attn = CrossAttention(dim, dim, num_heads, None, dropout)
        self.cross = CrossAttention(dim, context_dim, num_heads, None, dropout)
        self.mlp = Mlp(dim, 4 * dim, drop=dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=norm_eps) for _ in range(3))

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None, context: Tensor,
                context_mask: Tensor | None) -> Tensor:
        """Update query tokens.

        Args:
            x: (B, Q, D) query tokens: all tokens of the tower, or its CLS token.
            tokens: (B, S, D) all tokens of the tower, which self-attention attends to.
            mask: (B, S) bool.
            context: (B, C, D') tokens of the other tower.
            context_mask: (B, C) bool.

        Returns:
            (B, Q, D).
        """
        x = self.norm1(x + self.attn(x, tokens, mask))
        x = self.norm2(x + self.cross(x, context, context_mask))
        return self.norm3(x + self.mlp(x))


class StackedFusionEncoder(nn.Module):
    """Fusion layers stacked on both towers, as in ALBEF: the baseline of the paper's Table 7.

    Text tokens attend to the output of the video tower, which stays fixed. The heads also need a fused CLS state of the
    video: it has fusion layers of its own, attending to the video's tokens and to the text tokens of the layer below.

    Args:
        num_layers: Number of layers on each side.
        video_dim: Width of the video tower.
        text_dim: Width of the text tower.
        video_heads: Heads of the layers of the video's CLS token.
        text_heads: Heads of the layers of the text.
        norm_eps: Epsilon of the norms.
        dropout: Rate in the layers of the text.
    """

    def __init__(self, num_layers: int, video_dim: int, text_dim: int, video_heads: int, text_heads: int,
                 norm_eps: float, dropout: float) -> None:
        super().__init__()
        self.video = nn.ModuleList(
            FusionLayer(video_dim, text_dim, video_heads, norm_eps, 0.0) for _ in range(num_layers))
        self.text = nn.ModuleList(
            FusionLayer(text_dim, video_dim, text_heads, norm_eps, dropout) for _ in range(num_layers))

    def forward(self, video: Tensor, cls: Tensor, text: Tensor, mask: Tensor, video_output: bool, text_output: bool
                ) -> tuple[Tensor, Tensor]:
        """Fuse a video and a text.

        Args:
            video: (B, S, D) after the tower's norm.
            cls: (B, 1, D) state that represents the video.
            text: (B, L, D').
            mask: (B, L) bool.
            video_output: False to skip the video's layers; its CLS token is then returned as it is.
            text_output: False to skip the text's last layer.

        Returns:
            CLS state of the video (B, 1, D) and text tokens (B, L, D').
        """
        for i, (video_layer, text_layer) in enumerate(zip(self.video, self.text, strict=True)):
            if video_output:
                cls = video_layer(cls, video, None, text, mask)
            if text_output or i < len(self.text) - 1:
                text = text_layer(text, text, mask, video, None)
        return cls, text

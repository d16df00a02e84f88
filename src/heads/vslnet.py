"""VSLNet (Zhang et al., ACL 2020): localization of language queries in videos, on frozen features.

Letters: `B` clips, `T` positions in time, `L` tokens of a query, `D` width, `H` heads.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

_CONVOLUTIONS, _KERNEL = 4, 7
_EPS = 1e-6  # of layer norms, as in the authors' code


class VSLNetOutput(NamedTuple):
    """Predictions of VSLNet for each position."""

    highlight: Tensor  # (B, T) probability of lying in the window
    start_logits: Tensor  # (B, T)
    end_logits: Tensor  # (B, T)

    def curves(self, row: int, length: int) -> dict[str, NDArray[np.float32]]:
        """Curves (length,) of a query by name, for pictures; probabilities."""
        curves = {"start": self.start_logits.softmax(1), "end": self.end_logits.softmax(1), "highlight": self.highlight}
        return {name: values[row, :length].float().cpu().numpy() for name, values in curves.items()}


class VSLNet(nn.Module):
    """VSLNet: context-query attention, query-guided highlighting and a conditioned span predictor.

    Args:
        video_dim: Width of the video's features.
        query_dim: Width of the query's features.
        dim: Width of the hidden features.
        num_heads: Number of attention heads.
        max_positions: Maximum length of a video and of a query.
        dropout: Rate of dropout.
    """

    def __init__(self, video_dim: int = 768, query_dim: int = 768, dim: int = 128, num_heads: int = 8,
                 max_positions: int = 256, dropout: float = 0.2) -> None:
        super().__init__()
        self.video_affine, self.query_affine = nn.Linear(video_dim, dim), nn.Linear(query_dim, dim)
        self.encoder = Encoder(dim, num_heads, max_positions, dropout)
        self.attention = ContextQueryAttention(dim, dropout)
        self.query_pool = QueryPool(dim)
        self.highlighter = nn.Linear(dim, 1)
        self.predictor = SpanPredictor(dim, num_heads, max_positions, dropout)
        self.dropout = nn.Dropout(dropout)
        self.apply(_init_weights)

    def forward(self, video: Tensor, video_mask: Tensor, query: Tensor, query_mask: Tensor) -> VSLNetOutput:
        """Localize queries in videos.

        Args:
            video: (B, T, video_dim).
            video_mask: (B, T), false on padding.
            query: (B, L, query_dim).
            query_mask: (B, L), false on padding.
        """
        video_mask, query_mask = video_mask.bool(), query_mask.bool()
        x = self.encoder(self.video_affine(self.dropout(video)), video_mask)  # (B, T, D)
        y = self.encoder(self.query_affine(query), query_mask)  # (B, L, D)
        x = self.query_pool(self.attention(x, video_mask, y, query_mask), y, query_mask)  # (B, T, D)
        highlight = _masked(self.highlighter(x)[..., 0].float(), video_mask).sigmoid()  # (B, T)
        return VSLNetOutput(highlight, *self.predictor(x * highlight[..., None], video_mask))


class SmallVSLNet(nn.Module):
    """The small variant of VSLNet: query-guided highlighting and a span predictor, without encoders and attention.

    Unlike in the authors' code, the span predictor receives the highlighted features. Arguments and `forward` are those
    of `VSLNet`; `num_heads` and `max_positions` have no effect.
    """

    def __init__(self, video_dim: int = 768, query_dim: int = 768, dim: int = 128, num_heads: int = 8,
                 max_positions: int = 256, dropout: float = 0.2) -> None:
        super().__init__()
        self.video_affine, self.query_affine = nn.Linear(video_dim, dim), nn.Linear(query_dim, dim)
        self.query_pool = QueryPool(dim)
        self.highlighter = nn.Linear(dim, 1)
        self.start, self.end = nn.Linear(dim, dim), nn.Linear(2 * dim, dim)
        self.start_logit, self.end_logit = nn.Linear(dim, 1), nn.Linear(dim, 1)
        self.dropout = nn.Dropout(dropout)
        self.apply(_init_weights)

    def forward(self, video: Tensor, video_mask: Tensor, query: Tensor, query_mask: Tensor) -> VSLNetOutput:
        """Localize queries in videos; arguments as in `VSLNet.forward`."""
        video_mask, query_mask = video_mask.bool(), query_mask.bool()
        x = self.query_pool(self.video_affine(self.dropout(video)), self.query_affine(query), query_mask)  # (B, T, D)
        highlight = _masked(self.highlighter(x.relu())[..., 0].float(), video_mask).sigmoid()  # (B, T)
        x = x * highlight[..., None]
        start = self.start(x).relu()  # (B, T, D)
        end = self.end(torch.cat([x, start], dim=2)).relu()  # (B, T, D)
        logits = (self.start_logit(start)[..., 0], self.end_logit(end)[..., 0])  # (B, T) each
        return VSLNetOutput(highlight, *(_masked(logit, video_mask) for logit in logits))


class Encoder(nn.Module):
    """Learned positions, four separable convolutions and a layer of self-attention: (B, T, D) -> (B, T, D)."""

    def __init__(self, dim: int, num_heads: int, max_positions: int, dropout: float) -> None:
        super().__init__()
        self.positions = nn.Embedding(max_positions, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim, _EPS) for _ in range(_CONVOLUTIONS))
        self.convolutions = nn.ModuleList(SeparableConvolution(dim) for _ in range(_CONVOLUTIONS))
        self.attention = SelfAttention(dim, num_heads, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Encode a video or a query.

        Raises:
            ValueError: There are more positions than embeddings.
        """
        if x.shape[1] > len(self.positions.weight):
            raise ValueError(f"{x.shape[1]} positions are more than max_positions={len(self.positions.weight)}")
        x = x + self.positions.weight[: x.shape[1]]
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            x = x + self.dropout(convolution(norm(x)))
        return self.attention(x, mask)


class SeparableConvolution(nn.Module):
    """A depthwise convolution over time and a pointwise linear layer: (B, T, D) -> (B, T, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, _KERNEL, padding=_KERNEL // 2, groups=dim, bias=False)
        self.pointwise = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer: (B, T, D) -> (B, T, D)."""
        return self.pointwise(self.depthwise(x.transpose(1, 2)).transpose(1, 2)).relu()


class SelfAttention(nn.Module):
    """Pre-norm self-attention and a pre-norm linear layer, both with a residual: (B, T, D) -> (B, T, D)."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(dim, _EPS), nn.LayerNorm(dim, _EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Run the layer: (B, T, D), (B, T) bool -> (B, T, D)."""
        z = self.dropout(self.norm1(x))
        q, k, v = (layer(z).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, H, T, D / H)
                   for layer in (self.query, self.key, self.value))
        dropped = self.dropout.p if self.training else 0.0
        z = F.scaled_dot_product_attention(q, k, v, mask[:, None, None], dropout_p=dropped)
        x = x + self.dropout(z.transpose(1, 2).flatten(2))
        return x + self.dropout(self.out(self.dropout(self.norm2(x))))


class ContextQueryAttention(nn.Module):
    """Context-to-query and query-to-context attention: (B, T, D), (B, L, D) -> (B, T, D)."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.of_video, self.of_query = nn.Linear(dim, 1, bias=False), nn.Linear(dim, 1, bias=False)
        self.of_both = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, 1, dim)).flatten())  # as a convolution's
        self.out = nn.Linear(4 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, video_mask: Tensor, y: Tensor, query_mask: Tensor) -> Tensor:
        """Enrich the video `x` (B, T, D) with the query `y` (B, L, D): (B, T, D)."""
        a, b = self.dropout(x), self.dropout(y)
        both = (a * self.of_both) @ b.transpose(1, 2)  # (B, T, L)
        score = self.of_video(a) + self.of_query(b).transpose(1, 2) + both  # (B, T, L)
        over_query = _masked(score, query_mask[:, None]).softmax(2)  # (B, T, L)
        over_video = _masked(score, video_mask[..., None]).softmax(1)  # (B, T, L)
        context_to_query = over_query @ y  # (B, T, D)
        query_to_context = over_query @ (over_video.transpose(1, 2) @ x)  # (B, T, D)
        return self.out(torch.cat([x, context_to_query, x * context_to_query, x * query_to_context], dim=2))


class QueryPool(nn.Module):
    """Concatenate the attention-pooled query to every position and project: (B, T, D), (B, L, D) -> (B, T, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Linear(dim, 1, bias=False)
        self.out = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor, y: Tensor, query_mask: Tensor) -> Tensor:
        """Add the pooled query `y` (B, L, D) to the video `x` (B, T, D): (B, T, D)."""
        share = _masked(self.weight(y), query_mask[..., None]).softmax(1)  # (B, L, 1)
        pooled = (share * y).sum(1, keepdim=True).expand(-1, x.shape[1], -1)  # (B, T, D)
        return self.out(torch.cat([x, pooled], dim=2))


class SpanPredictor(nn.Module):
    """Predict start and end of the window; the end is conditioned on the start's states: (B, T, D) -> two (B, T)."""

    def __init__(self, dim: int, num_heads: int, max_positions: int, dropout: float) -> None:
        super().__init__()
        self.encoder = Encoder(dim, num_heads, max_positions, dropout)
        self.start_norm, self.end_norm = nn.LayerNorm(dim, _EPS), nn.LayerNorm(dim, _EPS)
        self.start, self.end = (nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, 1)) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits of start and end: (B, T, D), (B, T) bool -> two (B, T)."""
        start = self.encoder(x, mask)  # (B, T, D)
        end = self.encoder(start, mask)  # (B, T, D)
        start_logits = self.start(torch.cat([self.start_norm(start), x], dim=2))[..., 0]  # (B, T)
        end_logits = self.end(torch.cat([self.end_norm(end), x], dim=2))[..., 0]  # (B, T)
        return _masked(start_logits, mask), _masked(end_logits, mask)


def _init_weights(module: nn.Module) -> None:
    """Initialise as the authors' code: Xavier-uniform weights, zero biases; positions keep torch's N(0, 1)."""
    if isinstance(module, nn.Linear | nn.Conv1d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _masked(logits: Tensor, mask: Tensor) -> Tensor:
    """Set masked logits to the lowest finite number, so that a row of padding is not NaN."""
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min)


def highlight_loss(highlight: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Compute the binary cross-entropy over positions, with those inside the window weighted twice.

    Args:
        highlight: (B, T) probabilities.
        labels: (B, T), 1 inside the (extended) window.
        mask: (B, T), false on padding.
    """
    labels, mask = labels.float(), mask.float()
    with torch.autocast(highlight.device.type, enabled=False):
        loss = F.binary_cross_entropy(highlight.float(), labels, weight=(1 + labels) * mask, reduction="sum")
    return loss / mask.sum()


def span_loss(start_logits: Tensor, end_logits: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Compute the sum of the cross-entropies of the window's first and last position (B,)."""
    return F.cross_entropy(start_logits, start) + F.cross_entropy(end_logits, end)


def best_spans(start_logits: Tensor, end_logits: Tensor, topk: int = 5) -> tuple[Tensor, Tensor]:
    """Find first and last positions (B, topk) of the most probable windows that don't end before they start."""
    joint = start_logits.softmax(1)[:, :, None] * end_logits.softmax(1)[:, None]  # (B, T, T)
    best = joint.triu().flatten(1).topk(min(topk, joint[0].numel()))  # (B, n)
    spans = torch.where(best.values > 0, best.indices, best.indices[:, :1])  # short clips have fewer: repeat the best
    spans = torch.cat([spans, spans[:, :1].expand(-1, topk - spans.shape[1])], dim=1)  # (B, topk)
    return spans // joint.shape[2], spans % joint.shape[2]


def best_windows(out: VSLNetOutput, step_seconds: Tensor, topk: int = 5) -> Tensor:
    """Find the most probable windows in seconds, the best first: -> (B, topk, 2).

    Args:
        out: The predictions.
        step_seconds: (B,) seconds of a position.
        topk: Number of windows.
    """
    first, last = best_spans(out.start_logits, out.end_logits, topk)  # (B, topk)
    return torch.stack([first, last + 1], dim=2) * step_seconds[:, None, None]

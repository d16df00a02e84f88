"""The head of query-focused video summarization: a transformer over the shots of a segment that scores each shot.

Letters: `n` shots of a segment, `D` width.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Design = Literal["paper", "released"]
CutBy = Literal["patches", "cls"]
"""Features that a video is segmented by: cosines of mean patch tokens, or dot products of CLS states."""

SHOT_SECONDS = 5  # QFVS's shots
MAX_SEGMENTS, MAX_SEGMENT_SHOTS, SEGMENT_PENALTY = 20, 200, 1.0
"""Limits of KTS: segments of a video, shots of a segment, and the weight of the penalty on their number."""

_INITIAL_BIAS = -1.91  # of the scores, as released: one shot in eight is selected
_RELEASED_FEEDFORWARD, _RELEASED_HIDDEN, _RELEASED_STD = 2048, 8, 0.1


class ShotScores(NamedTuple):
    """Logits of shots."""

    concept: Tensor  # (..., n) the shot shows the concepts of its prompt
    summary: Tensor  # (..., n) the shot belongs to the summary


class SummaryHead(nn.Module):
    """Transformer over the shots of a segment with scores of each shot (paper, Table F.2: one layer is best).

    Args:
        dim: Width of the shots' features.
        num_layers: Number of transformer layers.
        num_heads: Number of attention heads.
        dropout: Rate in the transformer.
        design: `paper`: pre-norm layers, and a linear layer for each of the two scores. `released`: added position
            encodings, post-norm layers, and two linear layers for a single score of the prompt.
    """

    def __init__(self, dim: int, num_layers: int = 1, num_heads: int = 2, dropout: float = 0.1,
                 design: Design = "paper") -> None:
        super().__init__()
        self.design, paper = design, design == "paper"
        layer = nn.TransformerEncoderLayer(dim, num_heads, 4 * dim if paper else _RELEASED_FEEDFORWARD, dropout,
                                           batch_first=True, norm_first=paper)
        norm = nn.LayerNorm(dim) if paper else None
        self.encoder = nn.TransformerEncoder(layer, num_layers, norm, enable_nested_tensor=False)
        if paper:
            self.concept, self.summary = nn.Linear(dim, 1), nn.Linear(dim, 1)
        else:
            last = nn.Linear(_RELEASED_HIDDEN, 1)
            nn.init.normal_(last.weight, std=_RELEASED_STD)
            self.score = nn.Sequential(nn.Linear(dim, _RELEASED_HIDDEN), nn.ReLU(), nn.Dropout(dropout), last)
        for scores in (self.concept, self.summary) if paper else (last,):
            nn.init.constant_(scores.bias, _INITIAL_BIAS)

    def forward(self, features: Tensor, mask: Tensor) -> ShotScores:
        """Score the shots of segments.

        Args:
            features: (..., n, D).
            mask: (..., n) bool, False on padding; scores of a segment of padding only are undefined.
        """
        *many, n, dim = features.shape
        real = mask.expand(*many, n).reshape(-1, n)  # (b, n)
        hidden = ~real & real.any(1, keepdim=True)  # attention over no shots at all would be NaN
        shots = features.reshape(-1, n, dim)  # (b, n, D)
        if self.design == "released":
            shots = shots + positions(n, dim, features.device)
        states = self.encoder(shots, src_key_padding_mask=hidden)  # (b, n, D)
        layers = (self.concept, self.summary) if self.design == "paper" else (self.score,)
        scores = [layer(states)[..., 0].view(*many, n) for layer in layers]
        return ShotScores(scores[0], scores[-1])


def positions(count: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Compute sinusoidal position encodings, sines at even and cosines at odd features: (n, D).

    As in the authors' code, frequencies differ for each feature, `10000 ** (-2 * feature / dim)`, not for each pair.
    """
    feature = torch.arange(dim, dtype=torch.float64)
    angle = torch.arange(count, dtype=torch.float64)[:, None] * 10_000.0 ** (-2 * feature / dim)  # (n, D)
    return torch.where(feature % 2 == 0, angle.sin(), angle.cos()).float().to(device)

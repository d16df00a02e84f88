"""The head of query-focused summaries: a transformer over the shots of a segment, and two scores of each shot.

Letters: `n` shots of a segment, `D` width.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Design = Literal["paper", "released"]
CutBy = Literal["patches", "cls"]
"""Features that tell of changes in a video: directions of the mean of the patches, or plain products of CLS states."""

SHOT_SECONDS = 5  # QFVS's shots
MAX_SEGMENTS, MAX_SEGMENT_SHOTS, SEGMENT_PENALTY = 20, 200, 1.0
"""Limits of KTS: segments of a video, shots of a segment, and the weight of the penalty on their number."""

_FEW = -1.91  # first bias of the scores, as released: one shot in eight is chosen
_RELEASED_FEEDFORWARD, _RELEASED_HIDDEN, _RELEASED_STD = 2048, 8, 0.1


class ShotScores(NamedTuple):
    """Logits of shots."""

    concept: Tensor  # (..., n) that a shot shows what its prompt names
    summary: Tensor  # (..., n) that it belongs to the summary


class SummaryHead(nn.Module):
    """Looks at the shots of a segment together (paper, Table F.2: one layer is best).

    Args:
        dim: Width of the shots' features.
        num_layers: Of the transformer.
        num_heads: Of its attention.
        dropout: Within it.
        design: `paper`: norms come first, and a linear layer gives each of the two scores. `released`: the shots'
            positions are added, norms come last, and two linear layers give one score, that of the prompt, whatever
            it names.
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
            nn.init.constant_(scores.bias, _FEW)

    def forward(self, features: Tensor, mask: Tensor) -> ShotScores:
        """Args:
            features: (..., n, D).
            mask: (..., n) bool, which shots are real; of a segment without any, the scores mean nothing.
        """
        *many, n, dim = features.shape
        real = mask.expand(*many, n).reshape(-1, n)  # (b, n)
        hidden = ~real & real.any(1, keepdim=True)  # a row that attends to nothing would be nan
        shots = features.reshape(-1, n, dim)  # (b, n, D)
        if self.design == "released":
            shots = shots + positions(n, dim, features.device)
        states = self.encoder(shots, src_key_padding_mask=hidden)  # (b, n, D)
        layers = (self.concept, self.summary) if self.design == "paper" else (self.score,)
        scores = [layer(states)[..., 0].view(*many, n) for layer in layers]
        return ShotScores(scores[0], scores[-1])


def positions(count: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Sines of places at even features and cosines at odd ones, (n, D).

    As in the authors' code, each feature has a frequency of its own, `10000 ** (-2 * feature / dim)`, not each pair.
    """
    feature = torch.arange(dim, dtype=torch.float64)
    angle = torch.arange(count, dtype=torch.float64)[:, None] * 10_000.0 ** (-2 * feature / dim)  # (n, D)
    return torch.where(feature % 2 == 0, angle.sin(), angle.cos()).float().to(device)

"""The head of query-focused summaries: a transformer over the shots of a segment, and two scores of each shot.

Letters: `n` shots of a segment, `D` width.
"""

from typing import NamedTuple

from torch import Tensor, nn

_FEW = -1.91  # first bias of the scores, as released: one shot in eight is chosen


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
    """

    def __init__(self, dim: int, num_layers: int = 1, num_heads: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(dim, num_heads, 4 * dim, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.concept, self.summary = nn.Linear(dim, 1), nn.Linear(dim, 1)
        for scores in (self.concept, self.summary):
            nn.init.constant_(scores.bias, _FEW)

    def forward(self, features: Tensor, mask: Tensor) -> ShotScores:
        """Args:
            features: (..., n, D).
            mask: (..., n) bool, which shots are real; of a segment without any, the scores mean nothing.
        """
        *many, n, dim = features.shape
        real = mask.expand(*many, n).reshape(-1, n)  # (b, n)
        hidden = ~real & real.any(1, keepdim=True)  # a row that attends to nothing would be nan
        states = self.encoder(features.reshape(-1, n, dim), src_key_padding_mask=hidden)  # (b, n, D)
        scores = (layer(states)[..., 0].view(*many, n) for layer in (self.concept, self.summary))
        return ShotScores(*scores)

"""Scores of clips against texts, gathered row by row from all processes."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class ScoredClips(NamedTuple):
    """N clips against M texts, in the order of the clips' file."""

    relevancy: Tensor  # (N, M)
    dual: Tensor  # (N, M) cosines
    match: Tensor  # (N, M) probability of a match, nan where it was not asked for; (N, 0) if it never was


class RetrievalScores(Metric):
    """Collects what each clip scores against every text.

    A row travels with its relevancies, so that clips which can't be read are simply absent.
    """

    full_state_update = False
    index: list[Tensor]
    relevancy: list[Tensor]
    dual: list[Tensor]
    match: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("index", *ScoredClips._fields):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, index: Tensor, relevancy: Tensor, dual: Tensor, match: Tensor) -> None:
        """Args:
            index: (B,) int64, rows of the file.
            relevancy: (B, M).
            dual: (B, M).
            match: (B, M) or (B, 0).
        """
        self.index.append(index)
        self.relevancy.append(relevancy)
        self.dual.append(dual)
        self.match.append(match)

    def compute(self) -> ScoredClips:
        order = dim_zero_cat(self.index).argsort()
        return ScoredClips(*(dim_zero_cat(getattr(self, name))[order] for name in ScoredClips._fields))


def rankings(scored: ScoredClips) -> dict[str, Tensor]:
    """The scores to rank by, each (N, M).

    Returns:
        `dual`: cosines. If the gate was opened for the best texts of each clip, also `fusion`: those come first, by
        their probability of a match, the others after them by their cosine; and `ensemble`: the sum, as EgoMCQ's.
        `chance`: random numbers, always the same.
    """
    dual, match = scored.dual, scored.match
    noise = torch.rand(dual.shape, generator=torch.Generator().manual_seed(0)).to(dual.device)
    if not match.shape[1]:
        return {"chance": noise, "dual": dual}
    fusion = torch.where(match.isnan(), dual, match.double() + 2)  # no cosine is above 1
    return {"chance": noise, "dual": dual, "fusion": fusion, "ensemble": dual + match.nan_to_num(0.0)}

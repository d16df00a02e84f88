"""Scores of clips against texts, gathered from all processes."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class ScoredClips(NamedTuple):
    """Scores of N clips against M texts, in the order of the clips' file."""

    relevancy: Tensor  # (N, M)
    dual: Tensor  # (N, M) cosines
    match: Tensor  # (N, M) probability of a match, NaN where not computed; (N, 0) if never computed


class RetrievalScores(Metric):
    """Collect the scores of each clip against every text.

    Relevancies are collected with the scores, so that clips that can't be read are simply absent.
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
        """Add clips.

        Args:
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
        """Gather all clips and sort them by their rows."""
        order = dim_zero_cat(self.index).argsort()
        return ScoredClips(*(dim_zero_cat(getattr(self, name))[order] for name in ScoredClips._fields))


def rankings(scored: ScoredClips, match_weight: float = 1.0) -> dict[str, Tensor]:
    """Compute the scores of each ranking, (N, M).

    Args:
        scored: Cosines and probabilities of a match.
        match_weight: Factor of the probabilities in `ensemble`.

    Returns:
        `dual`: cosines. `chance`: random numbers from a fixed seed. With match probabilities of the best texts of each
        clip also `fusion`, which ranks those first by their probability and the others by their cosine; and `ensemble`,
        the cosine plus the weighted probability, as in EgoMCQ, where the weight is 1.
    """
    dual, match = scored.dual, scored.match
    noise = torch.rand(dual.shape, generator=torch.Generator().manual_seed(0)).to(dual.device)
    if not match.shape[1]:
        return {"chance": noise, "dual": dual}
    fusion = torch.where(match.isnan(), dual, match.double() + 2)  # above any cosine
    return {"chance": noise, "dual": dual, "fusion": fusion, "ensemble": dual + match_weight * match.nan_to_num(0.0)}

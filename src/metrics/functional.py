"""Metrics as pure functions of tensors and official dictionaries."""

import torch
from torch import Tensor

_ROWS = 1024  # queries at a time: memory stays flat


def choices_right(scores: Tensor, answer: Tensor) -> Tensor:
    """Whether the highest of each question's choices is the right one: (Q, 5) scores, (Q,) answers -> (Q,) bool."""
    return scores.argmax(-1) == answer


def mir_ndcg(similarity: Tensor, relevancy: Tensor) -> float:
    """nDCG of EPIC-Kitchens-100's multi-instance retrieval, averaged over queries.

    A ranking's gain ends at as many places as the query has items of non-zero relevancy.

    Args:
        similarity: (n, m); rows are queries.
        relevancy: (n, m), 0 to 1.
    """
    discount = 1 / torch.arange(2, similarity.shape[1] + 2, dtype=torch.float64).log2()  # (m,)
    gains = []
    for scores, relevant in zip(similarity.split(_ROWS), relevancy.split(_ROWS), strict=True):
        ideal = relevant.double().sort(dim=1, descending=True).values  # (rows, m)
        ranked = relevant.gather(1, scores.argsort(dim=1, descending=True)).double()
        counted = discount * (ideal > 0)
        gains.append((ranked * counted).sum(1) / (ideal * counted).sum(1))
    return float(torch.cat(gains).mean())


def mir_map(similarity: Tensor, relevancy: Tensor) -> float:
    """Mean average precision of EPIC-Kitchens-100's multi-instance retrieval, averaged over queries.

    Only items of relevancy 1 are hits; the precision at a hit sums the relevancies up to it, fractions too.

    Args:
        similarity: (n, m); rows are queries.
        relevancy: (n, m), 0 to 1.
    """
    places = torch.arange(1, similarity.shape[1] + 1, dtype=torch.float64)  # (m,)
    precisions = []
    for scores, relevant in zip(similarity.split(_ROWS), relevancy.split(_ROWS), strict=True):
        ranked = relevant.gather(1, scores.argsort(dim=1, descending=True)).double()  # (rows, m)
        hits = ranked == 1
        precisions.append((ranked.cumsum(1) / places * hits).sum(1) / hits.sum(1))
    return float(torch.cat(precisions).mean())


def charades_map(scores: Tensor, targets: Tensor) -> float:
    """Mean average precision over the classes that have a positive (Charades' official evaluation).

    A clip without any label ranks last in every class.

    Args:
        scores: (n, 157).
        targets: (n, 157), 1 where the clip shows the class.
    """
    labelled = targets.bool().any(1, keepdim=True)  # (n, 1)
    order = scores.masked_fill(~labelled, -torch.inf).argsort(dim=0, descending=True)  # (n, 157)
    hits = targets.gather(0, order).bool()
    places = torch.arange(1, len(scores) + 1, dtype=torch.float64)[:, None]  # (n, 1)
    precision = (hits.cumsum(0) / places * hits).sum(0) / hits.sum(0)  # (157,), nan without a positive
    return float(precision.nanmean())

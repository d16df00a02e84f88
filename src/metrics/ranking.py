"""Metrics as pure functions of tensors and official dictionaries."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

_ROWS = 128  # queries at a time: memory stays flat, and fits the cache


def choices_right(scores: Tensor, answer: Tensor) -> Tensor:
    """Whether the highest of each question's choices is the right one: (Q, 5) scores, (Q,) answers -> (Q,) bool."""
    return scores.argmax(-1) == answer


def mir_ndcg(similarity: Tensor, relevancy: Tensor) -> float:
    """nDCG of EPIC-Kitchens-100's multi-instance retrieval, averaged over queries.

    A ranking's gain ends at as many places as the query has items of non-zero relevancy; a query that has none is left
    out.

    Args:
        similarity: (n, m); rows are queries.
        relevancy: (n, m), 0 to 1.
    """
    return _mean(_gains(ranked, relevant) for ranked, relevant in _rank(similarity, relevancy))


def mir_map(similarity: Tensor, relevancy: Tensor) -> float:
    """Mean average precision of EPIC-Kitchens-100's multi-instance retrieval, averaged over queries.

    Only items of relevancy 1 are hits; the precision at a hit sums the relevancies up to it, fractions too. A query
    without a hit is left out.

    Args:
        similarity: (n, m); rows are queries.
        relevancy: (n, m), 0 to 1.
    """
    return _mean(_precisions(ranked) for ranked, _ in _rank(similarity, relevancy))


def multi_instance_retrieval(similarity: Tensor, relevancy: Tensor) -> dict[str, float]:
    """All numbers of EPIC-Kitchens-100's multi-instance retrieval in %, from one ranking in each direction.

    Args:
        similarity: (clips, sentences).
        relevancy: (clips, sentences), 0 to 1.

    Returns:
        `map_v2t`, `map_t2v` and their mean `map_avg`, and the same of `ndcg`.
    """
    numbers = {}
    for direction, scores, relevant in (("v2t", similarity, relevancy), ("t2v", similarity.T, relevancy.T)):
        pairs = [(_precisions(ranked), _gains(ranked, rows)) for ranked, rows in _rank(scores, relevant)]
        for name, values in zip(("map", "ndcg"), zip(*pairs, strict=True), strict=True):
            numbers[f"{name}_{direction}"] = 100 * _mean(values)
    means = {f"{name}_avg": (numbers[f"{name}_v2t"] + numbers[f"{name}_t2v"]) / 2 for name in ("map", "ndcg")}
    return numbers | means


def _rank(similarity: Tensor, relevancy: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some queries at a time, their relevancies (rows, m) from the best score to the worst, and as they were."""
    similarity, relevancy = torch.as_tensor(similarity), torch.as_tensor(relevancy)  # NumPy's arrays are as good
    for scores, relevant in zip(similarity.split(_ROWS), relevancy.split(_ROWS), strict=True):
        relevant = relevant.contiguous()
        yield relevant.gather(1, scores.contiguous().argsort(dim=1, descending=True)), relevant


def _gains(ranked: Tensor, relevant: Tensor) -> Tensor:
    places = torch.arange(2, ranked.shape[1] + 2, dtype=torch.float64, device=ranked.device)
    ideal = relevant.sort(dim=1, descending=True).values  # (rows, m)
    discount = (ideal > 0) / places.log2()  # (rows, m) float64
    return (discount * ranked).sum(1) / (discount * ideal).sum(1)


def _precisions(ranked: Tensor) -> Tensor:
    rows, columns = (ranked == 1).nonzero(as_tuple=True)  # hits are few: one in 600 in EPIC-Kitchens-100
    precision = ranked.cumsum(1, dtype=torch.float64)[rows, columns] / (columns + 1)
    hits = rows.bincount(minlength=len(ranked))
    return precision.new_zeros(len(ranked)).index_add_(0, rows, precision) / hits  # (rows,), nan without a hit


def _mean(parts: Iterable[Tensor]) -> float:
    return float(torch.cat(list(parts)).nanmean())


def dual_softmax(similarity: Tensor, temperature: float) -> Tensor:
    """Logarithm of the product of the softmax over texts and the softmax over clips: (n, m) -> (n, m).

    What is close to everything no longer wins everywhere. It looks at all clips of the test at once, which a search for
    one clip could not (CAMoE, Cheng et al., 2021).
    """
    logits = similarity / temperature
    return logits.log_softmax(0) + logits.log_softmax(1)


def charades_map(scores: Tensor, targets: Tensor) -> float:
    """Mean average precision over the classes that have a positive (Charades' official evaluation).

    A clip without any label ranks last in every class.

    Args:
        scores: (n, 157).
        targets: (n, 157), 1 where the clip shows the class.
    """
    scores, targets = torch.as_tensor(scores), torch.as_tensor(targets)
    labelled = targets.bool().any(1, keepdim=True)  # (n, 1)
    order = scores.masked_fill(~labelled, -torch.inf).argsort(dim=0, descending=True)  # (n, 157)
    hits = targets.gather(0, order).bool()
    places = torch.arange(1, len(scores) + 1, dtype=torch.float64)[:, None]  # (n, 1)
    precision = (hits.cumsum(0) / places * hits).sum(0) / hits.sum(0)  # (157,), nan without a positive
    return float(precision.nanmean())

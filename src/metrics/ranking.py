"""Metrics of retrieval and classification, as pure functions of tensors."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

_ROWS = 128  # queries ranked at a time, to bound the memory and to stay in the cache


def correct_choices(scores: Tensor, answer: Tensor) -> Tensor:
    """Compare the best choice of each question with its answer: (Q, 5) scores, (Q,) answers -> (Q,) bool."""
    return scores.argmax(-1) == answer


def mir_ndcg(similarity: Tensor, relevancy: Tensor) -> float:
    """Compute the nDCG of EPIC-Kitchens-100's multi-instance retrieval, averaged over queries.

    The gain of a ranking counts its first k items for a query with k items of non-zero relevancy; queries without any
    are left out.

    Args:
        similarity: (n, m); rows are queries.
        relevancy: (n, m), 0 to 1.
    """
    return _mean(_gains(ranked, relevant) for ranked, relevant in _rank(similarity, relevancy))


def mir_map(similarity: Tensor, relevancy: Tensor) -> float:
    """Compute the mean average precision of EPIC-Kitchens-100's multi-instance retrieval, averaged over queries.

    Only items of relevancy 1 are hits; the precision at a hit sums the relevancies up to it, including fractions.
    Queries without a hit are left out.

    Args:
        similarity: (n, m); rows are queries.
        relevancy: (n, m), 0 to 1.
    """
    return _mean(_precisions(ranked) for ranked, _ in _rank(similarity, relevancy))


def multi_instance_retrieval(similarity: Tensor, relevancy: Tensor) -> dict[str, float]:
    """Compute all metrics of EPIC-Kitchens-100's multi-instance retrieval in %, with one ranking in each direction.

    Args:
        similarity: (clips, sentences).
        relevancy: (clips, sentences), 0 to 1.

    Returns:
        `map_v2t`, `map_t2v` and their mean `map_avg`; likewise `ndcg_v2t`, `ndcg_t2v` and `ndcg_avg`.
    """
    numbers = {}
    for direction, scores, relevant in (("v2t", similarity, relevancy), ("t2v", similarity.T, relevancy.T)):
        pairs = [(_precisions(ranked), _gains(ranked, rows)) for ranked, rows in _rank(scores, relevant)]
        for name, values in zip(("map", "ndcg"), zip(*pairs, strict=True), strict=True):
            numbers[f"{name}_{direction}"] = 100 * _mean(values)
    means = {f"{name}_avg": (numbers[f"{name}_v2t"] + numbers[f"{name}_t2v"]) / 2 for name in ("map", "ndcg")}
    return numbers | means


def _rank(similarity: Tensor, relevancy: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield relevancies (rows, m) of some queries at a time: ordered by score, best first, and unordered."""
    similarity, relevancy = torch.as_tensor(similarity), torch.as_tensor(relevancy)  # NumPy arrays are accepted too
    for scores, relevant in zip(similarity.split(_ROWS), relevancy.split(_ROWS), strict=True):
        relevant = relevant.contiguous()
        yield relevant.gather(1, scores.contiguous().argsort(dim=1, descending=True)), relevant


def _gains(ranked: Tensor, relevant: Tensor) -> Tensor:
    """Compute the nDCG of each query: (rows, m), (rows, m) -> (rows,), NaN without a relevant item."""
    ranks = torch.arange(2, ranked.shape[1] + 2, dtype=torch.float64, device=ranked.device)
    ideal = relevant.sort(dim=1, descending=True).values  # (rows, m)
    discount = (ideal > 0) / ranks.log2()  # (rows, m) float64
    return (discount * ranked).sum(1) / (discount * ideal).sum(1)


def _precisions(ranked: Tensor) -> Tensor:
    """Compute the average precision of each query: (rows, m) -> (rows,), NaN without a hit."""
    rows, columns = (ranked == 1).nonzero(as_tuple=True)  # sparse: one in 600 is a hit in EPIC-Kitchens-100
    precision = ranked.cumsum(1, dtype=torch.float64)[rows, columns] / (columns + 1)
    hits = rows.bincount(minlength=len(ranked))
    return precision.new_zeros(len(ranked)).index_add_(0, rows, precision) / hits


def _mean(parts: Iterable[Tensor]) -> float:
    """Average over all queries, ignoring NaN."""
    return float(torch.cat(list(parts)).nanmean())


def dual_softmax(similarity: Tensor, temperature: float) -> Tensor:
    """Apply dual softmax (CAMoE, Cheng et al., 2021) in log space: softmax over texts times softmax over clips.

    It lowers the scores of items that are similar to everything. It needs all clips of a test set at once, so it is not
    applicable to single queries.

    Args:
        similarity: (n, m) cosines.
        temperature: Divisor of the cosines.

    Returns:
        (n, m) scores.
    """
    logits = similarity / temperature
    return logits.log_softmax(0) + logits.log_softmax(1)


def charades_map(scores: Tensor, targets: Tensor) -> float:
    """Compute Charades' official mean average precision, over the classes that have a positive.

    Clips without any label rank last in every class.

    Args:
        scores: (n, 157).
        targets: (n, 157), 1 where the clip shows the class.
    """
    scores, targets = torch.as_tensor(scores), torch.as_tensor(targets)
    labelled = targets.bool().any(1, keepdim=True)  # (n, 1)
    order = scores.masked_fill(~labelled, -torch.inf).argsort(dim=0, descending=True)  # (n, 157)
    hits = targets.gather(0, order).bool()
    ranks = torch.arange(1, len(scores) + 1, dtype=torch.float64)[:, None]  # (n, 1)
    precision = (hits.cumsum(0) / ranks * hits).sum(0) / hits.sum(0)  # (157,), NaN without a positive
    return float(precision.nanmean())

"""Non-maximum suppression over segments in time, hard and soft (Bodla et al., ICCV 2017), for VSGN and ActionFormer.

Letters: `P` proposals, `G` groups of them that are suppressed apart, `n` proposals of a group.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Array = NDArray[np.float64]

_INITIAL_FACTOR = 2  # proposals that are suppressed at first, in those that are kept
_LENGTH_EPS = 1e-6  # added to lengths in ActionFormer's code


class Detections(NamedTuple):
    """Moments of a clip."""

    segments: Tensor  # (n, 2), in steps or seconds
    classes: Tensor  # (n,) int64, from 1
    scores: Tensor  # (n,)


@dataclass
class NMS:
    """Settings of non-maximum suppression; the defaults are those of ActionFormer for Ego4D MQ.

    Args:
        method: `soft` lowers the scores of proposals that overlap a better one, `hard` drops them.
        sigma: Width of the Gaussian over temporal IoU, of `soft`.
        iou: Temporal IoU at which `hard` drops a proposal.
        min_score: Proposals whose score falls below it are dropped.
        max_segments: Number of proposals to keep, of each class and then of all.
        per_class: Suppress each class apart.
        voting_iou: Replace each proposal by the mean of all that overlap it by this temporal IoU or more, weighted by
            score and IoU; 0: don't. Not with `per_class`.
    """

    method: Literal["soft", "hard"] = "soft"
    sigma: float = 0.9
    iou: float = 0.1
    min_score: float = 0.001
    max_segments: int = 2000
    per_class: bool = True
    voting_iou: float = 0.0

    def __post_init__(self) -> None:
        if self.per_class and self.voting_iou > 0:
            raise ValueError(f"nms.voting_iou={self.voting_iou} mixes classes: set nms.per_class to false, or it to 0")
        if self.sigma <= 0 or self.max_segments < 1:
            raise ValueError(f"nms.sigma={self.sigma}, nms.max_segments={self.max_segments}: give numbers above 0")


def suppress(found: Detections, settings: NMS) -> Detections:
    """Apply non-maximum suppression to the proposals of a clip.

    Args:
        found: Proposals in any order, with scores above 0.
        settings: Of the suppression.

    Returns:
        Those that stay, best first, with their lowered scores, on the CPU.
    """
    segments, scores, classes = found.segments.double().cpu(), found.scores.double().cpu(), found.classes.cpu()
    if settings.method == "hard":
        likely = scores > settings.min_score
        segments, scores, classes = segments[likely], scores[likely], classes[likely]
    group = classes if settings.per_class else torch.zeros_like(classes)
    order = scores.argsort(descending=True, stable=True)
    count, most = _INITIAL_FACTOR * settings.max_segments, settings.max_segments
    while True:  # the likeliest proposals only, until no other one could be among the results
        some = order[:count].numpy()
        rows, values = _suppress_groups(segments.numpy()[some], scores.numpy()[some], group.numpy()[some], settings)
        best = np.argsort(-values, kind="stable")[:most]
        if count >= len(order) or (len(best) == most and values[best[-1]] >= scores[order[count]]):
            break
        count *= _INITIAL_FACTOR
    kept, lowered = torch.from_numpy(some[rows[best]]), torch.from_numpy(values[best])
    moments = segments[kept]
    if settings.voting_iou > 0:
        moments = _vote(moments, segments, scores, settings.voting_iou)
    return Detections(moments.float(), classes[kept], lowered.float())


def _suppress_groups(spans: Array, scores: Array, group: NDArray[np.int64], settings: NMS
                     ) -> tuple[NDArray[np.int64], Array]:
    """Suppress each group apart: proposals (P, 2), (P,), (P,) -> rows that stay (m,), and their scores (m,)."""
    def lower(left: Array, overlap: Array) -> Array:
        if settings.method == "hard":
            return np.where(overlap >= settings.iou, -np.inf, left)
        lowered = left * np.exp(-overlap**2 / settings.sigma)
        return np.where(lowered < settings.min_score, -np.inf, lowered)

    rows, values = [np.empty(0, np.int64)], [np.empty(0)]
    for table in _tables(group):
        left = np.where(table >= 0, scores[table], -np.inf)
        groups, columns, kept = _select(spans[table], left, lower, settings.max_segments, _LENGTH_EPS)
        rows.append(table[groups, columns])
        values.append(kept)
    return np.concatenate(rows), np.concatenate(values)


def _tables(group: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield tables (G, n) of the rows of all groups, those of similar size together, filled up with -1."""
    _, counts = np.unique(group, return_counts=True)
    members = np.split(np.argsort(group, kind="stable"), counts.cumsum()[:-1])
    by_size = sorted(members, key=len)
    for _, similar in groupby(by_size, key=lambda rows: len(rows).bit_length()):
        together = list(similar)
        longest = len(together[-1])
        yield np.stack([np.pad(rows, (0, longest - len(rows)), constant_values=-1) for rows in together])


def soft_nms(segments: ArrayLike, scores: ArrayLike, sigma: float, max_proposals: int
             ) -> tuple[Array, Array, NDArray[np.int64]]:
    """Select proposals by Gaussian soft-NMS: keep the best one, lower the scores of those that overlap it, repeat.

    The last remaining proposal is never selected, as in VSGN's code.

    Args:
        segments: (P, 2) start and end, seconds.
        scores: (P,) above 0.
        sigma: Width of the Gaussian over temporal IoU (Ego4D MQ: 0.46).
        max_proposals: Number of proposals to keep.

    Returns:
        Segments (n, 2), their lowered scores (n,), and their rows in the input (n,) int64.
    """
    spans, left = np.array(segments, dtype=np.float64).reshape(-1, 2), np.array(scores, dtype=np.float64)
    count = min(max_proposals, len(left) - 1)
    _, rows, values = _select(spans[None], left[None], lambda left, overlap: left * np.exp(-overlap**2 / sigma), count)
    return spans[rows], values, rows


def _select(spans: Array, left: Array, lower: Callable[[Array, Array], Array], count: int, eps: float = 0.0
            ) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Select the best proposal of each group, lower the scores of the others, repeat.

    Args:
        spans: (G, n, 2).
        left: (G, n) scores, minus infinity for none.
        lower: Lowers scores (G, n) by their IoU with the proposal that is selected (G, n).
        count: Number of proposals to select of each group.
        eps: Added to lengths.

    Returns:
        Groups, columns and scores of the proposals that were selected (m,), each group's best first.
    """
    groups, selected = np.arange(len(left)), []
    for _ in range(count if left.size else 0):
        best = left.argmax(1)
        value = left[np.arange(len(left)), best]
        if (value == -np.inf).any():  # some groups are finished
            going = value > -np.inf
            groups, spans, left, best, value = groups[going], spans[going], left[going], best[going], value[going]
            if not len(groups):
                break
        rows = np.arange(len(groups))
        selected.append((groups, best, value))
        left = lower(left, _overlap(spans, spans[rows, best][:, None], eps))
        left[rows, best] = -np.inf
    if not selected:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    chosen, columns, values = (np.concatenate(part) for part in zip(*selected, strict=True))
    return chosen, columns, values


def _overlap(a: Array, b: Array, eps: float) -> Array:
    """Compute the temporal IoU of broadcastable segments (..., 2), with `eps` added to lengths; 0 for 0 / 0."""
    inter = (np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])).clip(min=0)
    union = (a[..., 1] - a[..., 0] + eps) + (b[..., 1] - b[..., 0] + eps) - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def _vote(kept: Tensor, segments: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Average the segments that overlap each kept one: (m, 2), (P, 2), (P,) -> (m, 2)."""
    overlap = torch.from_numpy(_overlap(kept[:, None].numpy(), segments.numpy(), _LENGTH_EPS))  # (m, P)
    weight = scores * overlap * (overlap >= iou)
    return weight @ segments / weight.sum(1, keepdim=True)

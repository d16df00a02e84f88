"""Kernel temporal segmentation (Potapov et al., ECCV 2014): split a sequence where its frames change most.

Letters: `n` frames, `s` segment lengths, `m` change points. Dynamic programming over a band of segments, as wide as the
longest allowed segment, takes O(m n s) time and O(n^2 + n s) memory.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def kts(kernel: ArrayLike, max_change_points: int, vmax: float = 1.0, min_segment: int = 1,
        max_segment: int | None = None) -> tuple[NDArray[np.int64], Array]:
    """Find the change points of the segmentation of lowest cost.

    Args:
        kernel: (n, n) similarities of frames, symmetric.
        max_change_points: Maximum number of change points.
        vmax: Weight of the penalty on the number of change points; 0 selects as many as allowed.
        min_segment: Minimum length of a segment, frames.
        max_segment: Maximum length of a segment, frames; None for no limit.

    Returns:
        Change points, the first frame of each segment but the first, ascending; and the cost of the best segmentation
        with each number of change points from 0 to `max_change_points`, infinite where none satisfies the limits.

    Raises:
        ValueError: No number of change points satisfies the limits.
    """
    similarity = np.asarray(kernel, dtype=np.float64)
    n, longest = len(similarity), min(max_segment or len(similarity), len(similarity))
    scatter = _scatter(similarity, min_segment, longest)  # (n + 1, s)
    totals, lengths = _best(scatter, min_segment, max_change_points)  # (m + 1,), (m + 1, n + 1)
    points = np.arange(1, max_change_points + 1)
    penalty = np.concatenate([[0.0], vmax * points / (2 * n) * (np.log(n / points) + 1)])
    costs = totals / n + penalty
    if not np.isfinite(costs).any():
        raise ValueError(f"{n} frames can't be cut into 1 to {max_change_points + 1} segments of {min_segment} to "
                         f"{longest} frames: change max_change_points or the limits")
    return _trace_back(lengths, int(costs.argmin()), n), costs


def segments(features: ArrayLike, most: int, longest: int, what: str = "", vmax: float = 1.0,
             directions: bool = True) -> list[int]:
    """Segment a sequence of shots by `kts` with a linear kernel.

    Args:
        features: (n, D) of shots.
        most: Maximum number of segments.
        longest: Maximum number of shots of a segment.
        what: Start of the error message, such as the name of the video.
        vmax: Weight of the penalty on the number of segments.
        directions: Normalise features first, so that the kernel is the cosine.

    Returns:
        First shot of each segment, and `n`.

    Raises:
        ValueError: `most` segments of `longest` shots can't cover the sequence.
    """
    x = np.asarray(features, dtype=np.float64)
    n = len(x)
    if n > most * longest:
        raise ValueError(f"{what}{n} shots don't fit into {most} segments of {longest}: allow more or longer ones")
    if directions:
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        x = x / np.where(norms > 0, norms, 1.0)
    points, _ = kts(x @ x.T, min(most, n) - 1, vmax, max_segment=longest)
    return [0, *points.tolist(), n]


def _scatter(kernel: Array, shortest: int, longest: int) -> Array:
    """Compute the within-segment scatter of all segments of allowed lengths: (n, n) -> (n + 1, s).

    Row l, column i is the segment of `shortest + i` frames that ends before frame l; infinite if it would start before
    the sequence.
    """
    n = len(kernel)
    sums = np.zeros((n + 1, n + 1))
    sums[1:, 1:] = kernel.cumsum(0).cumsum(1)
    norms = np.concatenate([[0.0], np.diagonal(kernel).cumsum()])
    ends = np.arange(n + 1)[:, None]
    lengths = np.arange(shortest, longest + 1)
    starts = ends - lengths  # (n + 1, s)
    inside = starts >= 0
    starts = starts.clip(min=0)
    block = sums[ends, ends] - sums[starts, ends] - sums[ends, starts] + sums[starts, starts]
    return np.where(inside, norms[ends] - norms[starts] - block / lengths, np.inf)


def _best(scatter: Array, shortest: int, most: int) -> tuple[Array, NDArray[np.int64]]:
    """Compute the lowest total scatter with each number of change points, and the lengths of last segments.

    (n + 1, s) -> (m + 1,), (m + 1, n + 1): `lengths[m, l]` belongs to the best segmentation of the first l frames.
    """
    ends = len(scatter)
    lowest = np.full(ends, np.inf)  # of the first l frames
    lowest[0] = 0.0
    starts = np.arange(ends)[:, None] - np.arange(shortest, shortest + scatter.shape[1])  # (n + 1, s)
    totals, lengths = np.empty(most + 1), np.empty((most + 1, ends), dtype=np.int64)
    for count in range(most + 1):
        costs = lowest[starts.clip(min=0)] + scatter  # (n + 1, s)
        last = costs.argmin(1)  # (n + 1,)
        lowest, lengths[count] = costs[np.arange(ends), last], last + shortest
        totals[count] = lowest[-1]
    return totals, lengths


def _trace_back(lengths: NDArray[np.int64], count: int, n: int) -> NDArray[np.int64]:
    """Follow the lengths of last segments back from the end to the change points."""
    points, point = [], n
    for i in range(count, 0, -1):
        point -= int(lengths[i, point])
        points.append(point)
    return np.array(points[::-1], dtype=np.int64)

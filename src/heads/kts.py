"""Kernel temporal segmentation (Potapov et al., ECCV 2014): cuts a sequence where its frames change most.

Letters: `n` frames, `s` segment lengths. Two passes of dynamic programming over a band of segments, as wide as the
longest allowed one, bound its time and memory: O(m n s) and O(n^2 + n s) for `m` change points.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def kts(kernel: ArrayLike, max_change_points: int, vmax: float = 1.0, min_segment: int = 1,
        max_segment: int | None = None) -> tuple[NDArray[np.int64], Array]:
    """Change points of the segmentation that costs least.

    Args:
        kernel: (n, n) similarities of frames, symmetric.
        max_change_points: How many to try at most.
        vmax: Weight of the penalty on their number; 0 takes as many as allowed.
        min_segment: Frames of the shortest segment.
        max_segment: Frames of the longest one; None: no limit.

    Returns:
        The first frame of each segment but the first, ascending; and the cost of the best segmentation with 0 to
        `max_change_points` change points, infinite where none fits the limits.

    Raises:
        ValueError: No number of change points fits the limits.
    """
    kernel = np.asarray(kernel, dtype=np.float64)
    n, longest = len(kernel), min(max_segment or len(kernel), len(kernel))
    scatter = _scatter(kernel, min_segment, longest)  # (n + 1, s)
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
    """Where the segments of a sequence begin, and where the last one ends.

    Args:
        features: (n, D) of shots.
        most: Segments.
        longest: Shots of a segment.
        what: Whose they are, for the error.
        vmax: Weight of the penalty on their number.
        directions: Whether only the directions of features count, and not their lengths.

    Raises:
        ValueError: So few segments of that length don't hold the sequence.
    """
    features = np.asarray(features, dtype=np.float64)
    n = len(features)
    if n > most * longest:
        raise ValueError(f"{what}{n} shots don't fit into {most} segments of {longest}: allow more or longer ones")
    if directions:
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        features = features / np.where(norms > 0, norms, 1.0)
    points, _ = kts(features @ features.T, min(most, n) - 1, vmax, max_segment=longest)
    return [0, *points.tolist(), n]


def _scatter(kernel: Array, shortest: int, longest: int) -> Array:
    """How much the segments of each length differ within that end before each place; infinite before the start.

    (n, n) -> (n + 1, s): row l, column i is the segment of `shortest + i` frames that ends before frame l.
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
    """The least scatter of the whole with each number of change points, and the length of each last segment."""
    places = len(scatter)
    so_far = np.full(places, np.inf)
    so_far[0] = 0.0  # nothing, cut into nothing
    starts = np.arange(places)[:, None] - np.arange(shortest, shortest + scatter.shape[1])  # (n + 1, s)
    totals, lengths = np.empty(most + 1), np.empty((most + 1, places), dtype=np.int64)
    for count in range(most + 1):
        costs = so_far[starts.clip(min=0)] + scatter  # (n + 1, s)
        last = costs.argmin(1)  # (n + 1,)
        so_far, lengths[count] = costs[np.arange(places), last], last + shortest
        totals[count] = so_far[-1]
    return totals, lengths


def _trace_back(lengths: NDArray[np.int64], count: int, n: int) -> NDArray[np.int64]:
    points, place = [], n
    for i in range(count, 0, -1):
        place -= int(lengths[i, place])
        points.append(place)
    return np.array(points[::-1], dtype=np.int64)

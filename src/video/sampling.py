"""Choice of the times of a clip's frames, in seconds."""

import numpy as np
from numpy.typing import NDArray


def uniform_times(start: float, end: float, num_frames: int) -> NDArray[np.float64]:
    """Compute the centres of `num_frames` equal segments of a clip, for evaluation.

    Args:
        start: Where the clip begins, in seconds.
        end: Where the clip ends, in seconds; a clip of no length gives the same time repeatedly.
        num_frames: Number of times, at least 1.

    Returns:
        Ascending times in seconds, shape `(num_frames,)`.

    Raises:
        ValueError: The clip ends before it begins, or `num_frames` is below 1.
    """
    return _times(start, end, num_frames, np.full(max(num_frames, 0), 0.5))


def jittered_times(start: float, end: float, num_frames: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a time from each of `num_frames` equal segments of a clip, for training.

    Args:
        start: Where the clip begins, in seconds.
        end: Where the clip ends, in seconds; a clip of no length gives the same time repeatedly.
        num_frames: Number of times, at least 1.
        rng: Random generator; the same state gives the same times.

    Returns:
        Ascending times in seconds, shape `(num_frames,)`, all in `[start, end)`.

    Raises:
        ValueError: The clip ends before it begins, or `num_frames` is below 1.
    """
    return _times(start, end, num_frames, rng.random(max(num_frames, 0)))


def _times(start: float, end: float, num_frames: int, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute times at `places` (0 to 1, shape `(num_frames,)`) within the segments."""
    if num_frames < 1:
        raise ValueError(f"a clip needs at least 1 frame, not {num_frames}")
    if not end >= start:  # also refuses NaN
        raise ValueError(f"a clip can't end ({end} s) before it begins ({start} s)")
    if not np.isfinite(end - start):
        raise ValueError(f"a clip can't last from {start} to {end} s: give finite times")
    return start + (np.arange(num_frames) + places) * ((end - start) / num_frames)  # (T,)

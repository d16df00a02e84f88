"""Which times of a clip to show: pure functions of numbers, in seconds."""

import numpy as np
from numpy.typing import NDArray


def uniform_times(start: float, end: float, num_frames: int) -> NDArray[np.float64]:
    """The centres of `num_frames` equal segments of a clip: what evaluation looks at.

    Args:
        start: Where the clip begins, in seconds.
        end: Where the clip ends, in seconds; a clip of no length gives one time over and over.
        num_frames: How many times to give, at least 1.

    Returns:
        Ascending times in seconds, shape `(num_frames,)`.

    Raises:
        ValueError: The clip ends before it begins, or `num_frames` is below 1.
    """
    return _times(start, end, num_frames, np.full(max(num_frames, 0), 0.5))


def jittered_times(start: float, end: float, num_frames: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """One random time in each of `num_frames` equal segments of a clip: what training looks at.

    Args:
        start: Where the clip begins, in seconds.
        end: Where the clip ends, in seconds; a clip of no length gives one time over and over.
        num_frames: How many times to give, at least 1.
        rng: Draws the times; the same state gives the same times.

    Returns:
        Ascending times in seconds, shape `(num_frames,)`, all in `[start, end)`.

    Raises:
        ValueError: The clip ends before it begins, or `num_frames` is below 1.
    """
    return _times(start, end, num_frames, rng.random(max(num_frames, 0)))


def _times(start: float, end: float, num_frames: int, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times at `places` (0 to 1, shape `(num_frames,)`) within the segments."""
    if num_frames < 1:
        raise ValueError(f"a clip needs at least 1 frame, not {num_frames}")
    if not end >= start:  # also refuses NaN
        raise ValueError(f"a clip can't end ({end} s) before it begins ({start} s)")
    if not np.isfinite(end - start):
        raise ValueError(f"a clip can't last from {start} to {end} s: give finite times")
    return start + (np.arange(num_frames) + places) * ((end - start) / num_frames)  # (T,)

"""Times of a clip's frames."""

import numpy as np
import pytest

from egovlpv2.video.sampling import jittered_times, uniform_times


def test_uniform_times_are_the_centres_of_equal_segments() -> None:
    times = uniform_times(10.0, 14.0, 4)
    assert times.dtype == np.float64
    assert times.tolist() == [10.5, 11.5, 12.5, 13.5]


def test_jittered_times_fall_one_in_each_segment() -> None:
    rng = np.random.default_rng(0)
    times = np.stack([jittered_times(2.0, 4.0, 8, rng) for _ in range(200)])  # (200, 8)
    edges = np.linspace(2.0, 4.0, 9)
    assert (times >= edges[:-1]).all() and (times < edges[1:]).all()
    assert np.abs(times.mean(0) - (edges[:-1] + 0.125)).max() < 0.02


def test_jittered_times_follow_the_generator() -> None:
    once, again = (jittered_times(0.0, 9.0, 4, np.random.default_rng(3)) for _ in range(2))
    assert (once == again).all()


def test_a_clip_of_no_length_repeats_its_time() -> None:
    assert uniform_times(3.0, 3.0, 4).tolist() == [3.0] * 4


@pytest.mark.parametrize(("start", "end", "count"), [(2.0, 1.0, 4), (0.0, float("nan"), 4), (0.0, 1.0, 0)])
def test_impossible_clips_are_refused(start: float, end: float, count: int) -> None:
    with pytest.raises(ValueError, match="can't end|at least 1"):
        uniform_times(start, end, count)

"""Times of clips with one frame, and a generator that is used for nothing but the times."""

import numpy as np
import pytest

from egovlpv2.video.sampling import jittered_times, uniform_times


def test_one_frame_is_the_middle_of_the_clip() -> None:
    assert uniform_times(1.0, 4.0, 1).tolist() == [2.5]


def test_jittered_times_are_the_generators_numbers_within_their_segments() -> None:
    places = np.random.default_rng(5).random(3)
    times = jittered_times(1.0, 7.0, 3, np.random.default_rng(5))
    assert times.tolist() == pytest.approx([1 + 2 * places[0], 3 + 2 * places[1], 5 + 2 * places[2]])
    assert 1.0 <= jittered_times(1.0, 7.0, 1, np.random.default_rng(5))[0] < 7.0


@pytest.mark.parametrize("count", [0, -1])
def test_a_clip_without_frames_is_refused_whatever_chooses_its_times(count: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1 frame, not {count}"):
        uniform_times(0.0, 1.0, count)
    with pytest.raises(ValueError, match=f"at least 1 frame, not {count}"):
        jittered_times(0.0, 1.0, count, np.random.default_rng(0))


@pytest.mark.parametrize("start, end", [(0.0, float("inf")), (float("-inf"), 1.0), (float("-inf"), float("inf")),
                                        (-1.7e308, 1.7e308)])
def test_a_clip_without_an_end_is_refused(start: float, end: float) -> None:
    with pytest.raises(ValueError, match="give finite times"):
        uniform_times(start, end, 4)

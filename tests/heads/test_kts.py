"""Kernel temporal segmentation agrees with the authors' and keeps its limits."""

from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

from egovlpv2.bench.summary import LONGEST, SEGMENTS, SHOTS, made_up_shots
from egovlpv2.heads import kts
from egovlpv2.heads.kts import segments

GOLDEN = Path(__file__).parents[1] / "golden" / "kts.npz"


def test_it_agrees_with_the_authors() -> None:
    golden = np.load(GOLDEN)
    kernel = golden["features"] @ golden["features"].T
    points, costs = kts(kernel, int(golden["max_change_points"]), float(golden["vmax"]),
                        max_segment=int(golden["max_segment"]))
    np.testing.assert_array_equal(points, golden["change_points"])
    np.testing.assert_allclose(costs, golden["costs"], rtol=1e-6)
    points, _ = kts(kernel, 6, vmax=0.0, min_segment=5, max_segment=80)
    np.testing.assert_array_equal(points, golden["fixed_6_min5_max80"])


@pytest.mark.parametrize(("shortest", "longest"), [(1, None), (2, 5), (3, 4)])
def test_it_is_the_best_of_all(shortest: int, longest: int | None) -> None:
    features = np.random.default_rng(0).standard_normal((11, 3))

    def scatter(points: tuple[int, ...]) -> float:
        parts = [features[a:b] for a, b in pairwise((0, *points, 11))]
        if not all(shortest <= len(part) <= (longest or 11) for part in parts):
            return np.inf
        return sum(((part - part.mean(0)) ** 2).sum() for part in parts)

    _, costs = kts(features @ features.T, 3, vmax=0.0, min_segment=shortest, max_segment=longest)
    best = [min(map(scatter, combinations(range(1, 11), count))) for count in range(4)]
    np.testing.assert_allclose(costs * 11, best, rtol=1e-9)


def test_one_frame_and_limits_that_nothing_fits() -> None:
    points, costs = kts([[1.0]], 0)
    assert len(points) == 0 and costs.tolist() == [0.0]
    with pytest.raises(ValueError, match="30 frames can't be cut into 1 to 3 segments of 1 to 9 frames"):
        kts(np.eye(30), 2, max_segment=9)


def test_a_video_of_five_hours_is_cut_where_it_changes() -> None:
    features, expected = made_up_shots(np.random.default_rng(1))
    assert features.shape == (3692, 768) and len(expected) == 19
    points, costs = kts(features @ features.T, SEGMENTS - 1, max_segment=LONGEST)
    np.testing.assert_array_equal(points, expected)
    assert np.diff([0, *points, SHOTS]).max() <= LONGEST == 199
    assert not np.isfinite(costs[:18]).any() and np.isfinite(costs[18:]).all()  # 18 segments of 199 don't hold it
    means = [part.mean(0) for part in np.split(features, points)]
    scatter = sum(((part - mean) ** 2).sum() for part, mean in zip(np.split(features, points), means, strict=True))
    penalty = 19 / (2 * SHOTS) * (np.log(SHOTS / 19) + 1)
    np.testing.assert_allclose(costs[19], scatter / SHOTS + penalty, rtol=1e-9)


def test_limits_bind_where_nothing_changes() -> None:
    """Of a video that shows the same all the time, the fewest segments that are short enough."""
    points, costs = kts(np.ones((SHOTS, SHOTS)), SEGMENTS - 1, max_segment=LONGEST)
    assert len(points) == 18 and np.diff([0, *points, SHOTS]).max() <= LONGEST
    np.testing.assert_allclose(costs[18], 18 / (2 * SHOTS) * (np.log(SHOTS / 18) + 1), atol=1e-9)


def test_segments_look_at_directions_alone() -> None:
    rng = np.random.default_rng(0)
    shots = np.repeat(np.eye(4)[:3], (7, 5, 9), axis=0) * rng.uniform(0.1, 30, (21, 1))
    assert segments(shots, 4, 10) == [0, 7, 12, 21]
    assert segments(np.concatenate([shots, np.zeros((6, 4))]), 4, 10) == [0, 7, 12, 21, 27]  # black has no direction
    assert segments(shots, 3, 9) == [0, 7, 12, 21] and segments(shots, 1, 21) == [0, 21]
    assert segments(shots, 4, 21, vmax=100.0) == [0, 21]


def test_segments_may_look_at_lengths_too() -> None:
    """Kernel segmentation of plain products, by the figures of the authors' code."""
    shots = np.repeat([[1.0, 0], [4, 0], [0, 2]], (7, 5, 9), axis=0)
    assert segments(shots, 4, 10, directions=False) == [0, 7, 12, 21] != segments(shots, 4, 15)
    golden = np.load(GOLDEN)
    most, longest = int(golden["max_change_points"]) + 1, int(golden["max_segment"])
    found = segments(golden["features"], most, longest, vmax=float(golden["vmax"]), directions=False)
    assert found == [0, *golden["change_points"].tolist(), len(golden["features"])]


def test_segments_of_a_single_shot_and_of_too_many() -> None:
    assert segments([[0.5, 2.0]], 20, 200) == [0, 1] and segments(np.eye(2), 20, 1) == [0, 1, 2]
    with pytest.raises(ValueError, match="P01: 21 shots don't fit into 4 segments of 5: allow more or longer ones"):
        segments(np.ones((21, 3)), 4, 5, "P01: ")
    assert max(np.diff(segments(np.ones((20, 3)), 4, 5))) == 5

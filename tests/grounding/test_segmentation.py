"""Kernel temporal segmentation agrees with the authors' and keeps its limits."""

from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from egovlpv2.grounding import kts

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

"""The score of query-focused summaries agrees with the authors'."""

from pathlib import Path

import numpy as np
import pytest
from egovlpv2.metrics.functional import semantic_f1

GOLDEN = Path(__file__).parents[1] / "golden" / "qfvs_match.npz"


def test_it_agrees_with_the_authors() -> None:
    golden = np.load(GOLDEN)
    found = semantic_f1(golden["tags"], golden["machine"], golden["oracle"])
    np.testing.assert_allclose(found, [golden[name] for name in ("precision", "recall", "f1")], rtol=1e-6)


def test_by_hand() -> None:
    tags = [[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert semantic_f1(tags, [0, 1], [0, 1]) == (1.0, 1.0, 1.0)
    assert semantic_f1(tags, [0, 2], [1]) == pytest.approx((0.25, 0.5, 1 / 3))  # a pair is formed once
    assert semantic_f1(tags, [3], [3]) == (0.0, 0.0, 0.0)  # no concept, no overlap
    assert semantic_f1(tags, [], [1]) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="shots 1 to 4 don't all lie in a video of 4 shots, counted from 0"):
        semantic_f1(tags, [1, 4], [1])

"""The score of query-focused summaries agrees with the authors'."""

import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from egovlpv2.bench import summary as bench_summary
from egovlpv2.cli import main as cli
from egovlpv2.metrics import semantic_f1
from egovlpv2.metrics.summary import SummaryF1, select

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


def test_the_number_of_chosen_shots_may_be_rounded_down() -> None:
    for count, share, nearest, down in ((90, 0.02, 2, 1), (149, 0.02, 3, 2), (150, 0.02, 3, 3), (20, 0.02, 1, 1)):
        scores = np.arange(count)
        assert select(scores, share).tolist() == list(range(count - nearest, count))
        assert select(scores, share, round_down=True).tolist() == list(range(count - down, count))


def test_it_is_the_best_of_all_pairings() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        tags = rng.random((12, 5)) < 0.4
        machine, oracle = (rng.choice(12, size, replace=False) for size in (4, 6))
        iou = [[(tags[i] & tags[j]).sum() / max((tags[i] | tags[j]).sum(), 1) for j in oracle] for i in machine]
        best = max(sum(iou[i][j] for i, j in enumerate(columns)) for columns in permutations(range(6), 4))
        assert semantic_f1(tags, machine, oracle)[:2] == pytest.approx((best / 4, best / 6))
        assert semantic_f1(tags, oracle, machine)[:2] == pytest.approx((best / 6, best / 4))


def test_the_best_shots_are_chosen() -> None:
    scores = [0.1, 0.9, 0.5, 0.9, 0.5, 0.0]
    assert select(scores, 0.5).tolist() == [1, 2, 3]  # of the fifths, the earlier
    assert select(torch.tensor(scores), 0.5).tolist() == [1, 2, 3]
    assert select(np.zeros(100), 0.02).tolist() == [0, 1]
    assert select(np.arange(2783.0), 0.02).tolist() == list(range(2783 - 56, 2783))
    assert select([-1.0, -3.0, -2.0], 0.02).tolist() == [0] and select([5.0], 0.02).tolist() == [0]
    assert select([3.0, 1.0, 2.0], 1.0).tolist() == [0, 1, 2]


TAGS = torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]])
QUERIES = [([0, 1], [0, 1], [2]), ([0, 2], [1], [1]), ([2], [1], [0])]  # chosen, oracle, drawn
EXPECTED = [(1.0, 1.0, 1.0, 0.0), (0.25, 0.5, 1 / 3, 1.0), (0.0, 0.0, 0.0, 0.5)]  # precision, recall, F1; F1 of drawn


def _update(metric: SummaryF1, *rows: int, drawn: bool = True) -> SummaryF1:
    chosen, wanted, chance = ([np.array(QUERIES[row][i]) for row in rows] for i in range(3))
    metric.update(torch.tensor(rows, dtype=torch.int64), chosen, wanted, [TAGS] * len(rows), chance if drawn else None)
    return metric


def test_scores_are_means_over_queries() -> None:
    expected = dict(zip(("precision", "recall", "f1", "random_f1"), 100 * np.mean(EXPECTED, axis=0), strict=True))
    metric = _update(_update(SummaryF1(), 2, 0), 1)
    assert metric.compute() == pytest.approx(expected)
    metric.reset()
    _update(_update(metric, 1, drawn=False), drawn=False)  # an empty batch comes last
    assert metric.compute() == pytest.approx({"precision": 25, "recall": 50, "f1": 100 / 3})


def test_processes_join_their_queries() -> None:
    """One of them has a query less, and an empty batch."""
    shares = [_update(SummaryF1(), 0, 2), _update(_update(SummaryF1(), 1), *())]
    gathered = iter([[torch.cat(getattr(share, name)) for share in shares] for name in ("index", "scores")])
    shares[0].dist_sync_fn = lambda *_, **__: next(gathered)
    shares[0].distributed_available_fn = lambda: True
    assert shares[0].compute() == pytest.approx(
        dict(zip(("precision", "recall", "f1", "random_f1"), 100 * np.mean(EXPECTED, axis=0), strict=True)))
    with pytest.raises(AssertionError):
        _update(_update(SummaryF1(), 0), 0).compute()  # a query counts once


def test_a_general_matching_finds_as_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    summaries = bench_summary.made_up_summaries(np.random.default_rng(1), 20)
    precision, recall, _ = semantic_f1(*summaries)
    total = bench_summary.graph_matching(*summaries)
    assert precision * 20 == pytest.approx(total, abs=1e-9) and 3 < total < 20
    monkeypatch.setattr(bench_summary, "SIZES", (6,))
    monkeypatch.chdir(tmp_path)
    cli(["bench", "summary"])
    out = capsys.readouterr().out
    assert "KTS of 3,692 shots, 19 change points, segments of up to 199, 1 thread" in out and "6 x 6 shots" in out
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(SystemExit, match="compares with networkx: `pip install networkx`"):
        cli(["bench", "summary"])

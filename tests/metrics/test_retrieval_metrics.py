"""Retrieval metrics agree with the official evaluators."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from egovlpv2.metrics import charades_map, mir_map, mir_ndcg
from egovlpv2.metrics.ranking import dual_softmax, multi_instance_retrieval
from egovlpv2.metrics.retrieval import RetrievalScores, ScoredClips, rankings

GOLDEN = Path(__file__).parents[1] / "golden"


def load(name: str) -> dict[str, Tensor]:
    return {k: torch.from_numpy(np.asarray(v)) for k, v in np.load(GOLDEN / name).items()}


def test_multi_instance_retrieval_agrees_with_the_official_evaluation() -> None:
    golden = load("ek100_mir.npz")
    similarity, relevancy = golden["similarity"], golden["relevancy"]
    for metric, name in ((mir_ndcg, "ndcg"), (mir_map, "map")):
        assert metric(similarity, relevancy) == pytest.approx(float(golden[f"{name}_v2t"]), abs=1e-6)
        assert metric(similarity.T, relevancy.T) == pytest.approx(float(golden[f"{name}_t2v"]), abs=1e-6)


def test_charades_map_agrees_with_the_official_evaluation() -> None:
    golden = load("charades.npz")
    assert charades_map(golden["scores"], golden["targets"]) == pytest.approx(float(golden["map"]), abs=1e-6)


def test_arrays_are_as_good_as_tensors() -> None:
    mir, charades = (np.load(GOLDEN / name) for name in ("ek100_mir.npz", "charades.npz"))
    assert mir_map(mir["similarity"].T, mir["relevancy"].T) == pytest.approx(float(mir["map_t2v"]), abs=1e-6)
    assert charades_map(charades["scores"], charades["targets"]) == pytest.approx(float(charades["map"]), abs=1e-6)


def test_a_perfect_ranking_has_full_marks_and_a_reversed_one_has_not() -> None:
    relevancy = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.5]])
    assert mir_ndcg(relevancy, relevancy) == mir_map(relevancy, relevancy) == 1.0
    assert mir_ndcg(-relevancy, relevancy) < 0.6 and mir_map(-relevancy, relevancy) < 0.6


def test_all_numbers_from_one_ranking_are_those_of_each() -> None:
    golden = load("ek100_mir.npz")
    numbers = multi_instance_retrieval(golden["similarity"], golden["relevancy"])
    for name in ("map", "ndcg"):
        each = [100 * float(golden[f"{name}_{direction}"]) for direction in ("v2t", "t2v")]
        assert [numbers[f"{name}_v2t"], numbers[f"{name}_t2v"]] == pytest.approx(each, abs=1e-4)
        assert numbers[f"{name}_avg"] == pytest.approx(sum(each) / 2, abs=1e-4)


def test_queries_without_a_hit_are_left_out() -> None:
    similarity = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    relevancy = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.0]])
    assert mir_map(similarity, relevancy) == pytest.approx(0.5)  # of the first query alone
    # One item counts for each query, so only the first place of a ranking does.
    assert mir_ndcg(similarity, relevancy) == 0.0 and mir_ndcg(-similarity, relevancy) == pytest.approx(0.5)
    nothing = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert mir_ndcg(nothing, nothing) == mir_map(nothing, nothing) == 1.0


def test_dual_softmax_humbles_what_is_close_to_everything() -> None:
    similarity = torch.tensor([[0.8, 0.5, 0.9], [0.3, 0.8, 0.9], [0.2, 0.4, 0.95]])
    assert similarity.argmax(1).tolist() == [2, 2, 2]  # text 2 wins everywhere
    assert dual_softmax(similarity, 0.1).argmax(1).tolist() == [0, 1, 2]
    product = (similarity / 0.1).softmax(0) * (similarity / 0.1).softmax(1)
    torch.testing.assert_close(dual_softmax(similarity, 0.1).exp(), product)


def test_scores_come_in_the_order_of_the_file() -> None:
    metric, dual = RetrievalScores(), torch.arange(12.0).view(4, 3)
    for rows in ([2, 0], [], [3, 1]):
        metric.update(torch.tensor(rows, dtype=torch.int64), dual[rows] > 5, dual[rows], dual[rows][:, :0])
    scored = metric.compute()
    assert torch.equal(scored.dual, dual) and torch.equal(scored.relevancy, dual > 5) and scored.match.shape == (4, 0)
    assert rankings(scored).keys() == {"chance", "dual"}


def test_fusion_ranks_what_it_looked_at_first() -> None:
    dual = torch.tensor([[0.9, 0.8, 0.7, -0.1]])
    match = torch.tensor([[0.1, 0.6, torch.nan, torch.nan]])
    found = rankings(ScoredClips(torch.zeros(1, 4), dual, match))
    assert found["fusion"].argsort(descending=True).tolist() == [[1, 0, 2, 3]]
    torch.testing.assert_close(found["ensemble"], torch.tensor([[1.0, 1.4, 0.7, -0.1]]))
    assert torch.equal(found["dual"], dual)

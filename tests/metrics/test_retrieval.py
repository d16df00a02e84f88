"""Retrieval metrics agree with the official evaluators."""

from pathlib import Path

import numpy as np
import pytest
import torch
from egovlpv2.metrics.functional import charades_map, mir_map, mir_ndcg
from torch import Tensor

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


def test_a_perfect_ranking_has_full_marks_and_a_reversed_one_has_not() -> None:
    relevancy = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.5]])
    assert mir_ndcg(relevancy, relevancy) == mir_map(relevancy, relevancy) == 1.0
    assert mir_ndcg(-relevancy, relevancy) < 0.6 and mir_map(-relevancy, relevancy) < 0.6

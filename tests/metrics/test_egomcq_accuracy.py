"""Accuracy per kind of question."""

import pytest
import torch
import torch.nn.functional as F

from egovlpv2.batch import Difference
from egovlpv2.metrics.egomcq import EgoMCQAccuracy, EgoMCQErrors


def test_accuracy_by_kind() -> None:
    metric = EgoMCQAccuracy()
    answer, kind = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 1, 2, 2])
    scores = F.one_hot(torch.tensor([0, 1, 2, 0]), 5).float()
    metric.update(scores[:2], answer[:2], kind[:2])
    metric.update(scores[2:], answer[2:], kind[2:])
    assert {k: v.item() for k, v in metric.compute().items()} == {"inter": 100.0, "intra": 50.0}
    metric.reset()
    metric.update(scores[2:], answer[2:], kind[2:])
    assert metric.compute().keys() == {"intra"}  # a kind that is absent has no accuracy


def test_errors_by_difference_sum_to_100_with_the_accuracy() -> None:
    metric, accuracy = EgoMCQErrors(), EgoMCQAccuracy()
    answer, kind = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([1, 1, 2, 2, 2])
    chosen = torch.tensor([0, 2, 0, 0, 4])
    difference = torch.full((5, 5), int(Difference.neither))
    difference[1, 2], difference[2, 0], difference[3, 0] = Difference.unknown, Difference.verb, Difference.noun
    scores = F.one_hot(chosen, 5).float()
    for part in (slice(0, 2), slice(2, 5)):
        for each in (metric, accuracy):
            each.update(scores[part], answer[part], kind[part], *([difference[part]] if each is metric else []))
    values = {name: float(value) for name, value in metric.compute().items()}
    assert values == pytest.approx({"inter/verb": 0, "inter/noun": 0, "inter/both": 0, "inter/neither": 0,
                                    "inter/unknown": 50, "intra/verb": 100 / 3, "intra/noun": 100 / 3, "intra/both": 0,
                                    "intra/neither": 0, "intra/unknown": 0})
    for name, right in accuracy.compute().items():
        assert right + sum(value for key, value in values.items() if key.startswith(name)) == pytest.approx(100)
    metric.reset()
    metric.update(scores[:1], answer[:1], kind[:1], difference[:1])
    assert {name.split("/")[0] for name in metric.compute()} == {"inter"}

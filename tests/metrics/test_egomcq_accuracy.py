"""Accuracy per kind of question."""

import torch
import torch.nn.functional as F

from egovlpv2.metrics.egomcq import EgoMCQAccuracy


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

"""Accuracy of EgoHOIBench by hand."""

import pytest
import torch

from egovlpv2.metrics.egohoi import HOIAccuracy

OWN = torch.tensor([0.5, 0.5, 0.5, 0.5])
OTHERS = torch.tensor([[[0.1, 0.2], [0.4, 0.3]],  # both right
                       [[0.6, 0.2], [0.4, 0.9]],  # the noun is right, since the better one is masked
                       [[0.5, 0.2], [0.4, 0.3]],  # a tie is wrong
                       [[0.1, 0.2], [torch.nan, 0.1]]])
MASK = torch.tensor([[[True, True], [True, True]], [[True, True], [True, False]],
                     [[True, True], [True, True]], [[True, True], [True, True]]])


@pytest.mark.parametrize("batches", [[[0, 1, 2, 3]], [[3], [1, 0], [2]]])
def test_parts_and_chances(batches: list[list[int]]) -> None:
    metric = HOIAccuracy()
    for rows in batches:
        metric.update(OWN[rows], OTHERS[rows], MASK[rows])
    third = 100 / 3
    assert {name: float(value) for name, value in metric.compute().items()} == pytest.approx({
        "verb": 50.0, "noun": 75.0, "action": 25.0, "chance_verb": third, "chance_noun": (3 * third + 50) / 4,
        "chance_action": (3 * third / 3 + 50 / 3) / 4})


def test_ten_sentences_each_have_the_published_chance() -> None:
    metric = HOIAccuracy()
    metric.update(torch.zeros(3), torch.ones(3, 2, 10), torch.ones(3, 2, 10, dtype=torch.bool))
    values = metric.compute()
    assert [round(float(values[f"chance_{part}"]), 1) for part in ("verb", "noun", "action")] == [9.1, 9.1, 0.8]


def test_no_clips_are_an_error() -> None:
    with pytest.raises(ValueError, match="no clip could be read"):
        HOIAccuracy().compute()

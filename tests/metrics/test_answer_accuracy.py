"""Accuracy of answers, by kinds of questions, against numbers by hand."""


import pytest
import torch

from egovlpv2.metrics.answers import AnswerAccuracy

NAMES = ["all", "open", "binary", "object", "never"]
RIGHT = torch.tensor([[1, 0], [0, 1], [1, 1], [1, 0], [0, 0], [1, 0], [0, 1]]).bool()  # model, most frequent answer
FLAGS = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 0, 0, 0], [1, 0, 1, 1, 0], [1, 0, 1, 0, 0], [1, 0, 1, 1, 0],
                      [1, 1, 0, 0, 0], [1, 0, 1, 0, 0]]).bool()
BY_HAND = {"all": 400 / 7, "open": 200 / 3, "binary": 50.0, "object": 200 / 3, "most_frequent": 300 / 7}


def updated(*parts: list[int]) -> AnswerAccuracy:
    metric = AnswerAccuracy()
    for rows in parts:
        metric.update(torch.tensor(rows, dtype=torch.int64), RIGHT[rows], FLAGS[rows], NAMES)
    return metric


@pytest.mark.parametrize("parts", [[[*range(7)]], [[0], [1, 2, 3, 4, 5], [6]], [[], [0, 1, 2], [], [6, 5, 4, 3], []]])
def test_accuracy_by_hand(parts: list[list[int]]) -> None:
    found = updated(*parts).compute()
    assert found == pytest.approx(BY_HAND) and list(found)[0] == "all"  # a kind that nothing is of isn't there


def test_two_halves_are_the_whole() -> None:
    one, two = updated([0, 3], [5]), updated([], [6, 1, 2, 4])
    one.merge_state(two)
    assert one.compute() == pytest.approx(BY_HAND)


def test_it_starts_anew_and_refuses_nothing_and_twice_the_same() -> None:
    metric = updated([*range(7)])
    metric.reset()
    metric.update(torch.tensor([3]), RIGHT[[3]], FLAGS[[3]], NAMES)
    assert metric.compute() == {"all": 100.0, "binary": 100.0, "most_frequent": 0.0}
    with pytest.raises(ValueError, match="none of the questions' videos could be read"):
        updated([], []).compute()
    with pytest.raises(AssertionError):
        updated([0, 1], [1]).compute()

"""Metrics that gather rows: numbers by hand, in any order of batches, in percent, and what must not occur twice."""

import pytest
import torch
from torch import Tensor

from egovlpv2.metrics.answers import AnswerAccuracy
from egovlpv2.metrics.moments import MomentDetection, WindowRecall
from egovlpv2.metrics.ranking import correct_choices, mir_map, mir_ndcg, multi_instance_retrieval
from egovlpv2.metrics.retrieval import ScoredClips, rankings

WINDOWS = torch.tensor([[0.0, 10.0], [20.0, 30.0], [5.0, 5.0]])
# Temporal IoU of each query's predictions: 0.5, 1; 0.2, 0, 0, 0.4; a window of no length is never hit.
PREDICTED = torch.tensor([[[0.0, 5.0], [0.0, 10.0], [90, 99], [90, 99], [90, 99]],
                          [[20.0, 22.0], [0.0, 20.0], [30.0, 40.0], [26.0, 30.0], [90, 99]],
                          [[0.0, 10.0], [5.0, 5.0], [90, 99], [90, 99], [90, 99]]])


@pytest.mark.parametrize("batches", [[[0, 1, 2]], [[2], [0, 1]], [[1], [], [2], [0]]])
def test_windows_are_found_at_two_thresholds_within_the_first_few(batches: list[list[int]]) -> None:
    metric = WindowRecall()
    for rows in batches:
        metric.update(torch.tensor(rows, dtype=torch.int64), PREDICTED[rows], WINDOWS[rows])
    third = 100 / 3
    assert metric.compute() == pytest.approx({
        "r1_iou0.3": third, "r3_iou0.3": third, "r5_iou0.3": 2 * third,
        "r1_iou0.5": 0.0, "r3_iou0.5": third, "r5_iou0.5": third,  # an IoU of one half is not above it
        "mean_iou": third * (0.5 + 0.2)})


def test_a_query_counts_once() -> None:
    metric = WindowRecall()
    for _ in range(2):
        metric.update(torch.tensor([1]), PREDICTED[:1], WINDOWS[:1])
    with pytest.raises(AssertionError):
        metric.compute()


def rows(*values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).reshape(-1, 5)


@pytest.mark.parametrize("split", [False, True])
def test_moments_are_detected_and_recalled_by_class(split: bool) -> None:
    truth = [(0, 3, 0.0, 10.0, 0), (0, 3, 20.0, 30.0, 0), (1, 7, 0.0, 10.0, 0)]  # clip, class, start, end, score
    found = [(0, 3, 0.0, 10.0, 0.5), (0, 3, 50.0, 60.0, 0.9), (1, 7, 0.0, 4.5, 0.9), (0, 7, 0.0, 10.0, 0.8)]
    recalled = [(0, 3, 20.0, 30.0, 0.1), (0, 3, 90.0, 99.0, 0.8), (0, 3, 80.0, 89.0, 0.7), (1, 7, 0.0, 6.0, 0.1)]
    metric = MomentDetection()
    if split:  # the second clip comes first
        for clip in (1, 0):
            metric.update(*(rows(*(row for row in part if row[0] == clip)) for part in (truth, found, recalled)))
    else:
        metric.update(rows(*truth), rows(*found), rows(*recalled))
    scores = metric.compute()
    # Class 3: its second detection hits one of two; class 7: its first hits with an IoU of 0.45.
    low, high = 100 * (0.25 + 1) / 2, 100 * 0.25 / 2
    assert {name: value for name, value in scores.items() if "map" in name} == pytest.approx({
        "map_0.1": low, "map_0.2": low, "map_0.3": low, "map_0.4": low, "map_0.5": high,
        "map_avg": (4 * low + high) / 5})
    third = 100 / 3  # at 1x the two best of class 3 count, and the one of class 7; at 5x ten and five
    assert {name: value for name, value in scores.items() if "map" not in name} == pytest.approx({
        "r1x_iou0.3": third, "r5x_iou0.3": 2 * third, "r1x_iou0.5": third, "r5x_iou0.5": 2 * third,
        "r1x_iou0.7": 0.0, "r5x_iou0.7": third})


NAMES = ["binary", "all", "open"]


def answers(*batches: list[int]) -> dict[str, float]:
    right = torch.tensor([[True, False], [False, False], [True, True], [True, False]])
    kinds = torch.tensor([[True, True, False], [True, True, False], [True, True, False], [False, True, False]])
    metric = AnswerAccuracy()
    for batch in batches:
        metric.update(torch.tensor(batch, dtype=torch.int64), right[batch], kinds[batch], NAMES)
    return metric.compute()


def test_answers_are_counted_by_kind() -> None:
    expected = {"binary": 200 / 3, "all": 75.0, "most_frequent": 25.0}  # no question is open
    assert answers([0, 1, 2, 3]) == pytest.approx(expected) == answers([3, 1], [], [2, 0])
    with pytest.raises(AssertionError):
        answers([0, 1], [1])
    with pytest.raises(ValueError, match="none of the questions' videos could be read"):
        answers([])


def test_the_highest_choice_is_the_answer() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.7, 0.2, 0.6], [-1.0, -3.0, -2.0]])
    assert correct_choices(scores, torch.tensor([1, 2, 0])).tolist() == [True, False, True]


def test_long_lists_of_queries_are_ranked_in_pieces() -> None:
    """More queries than are ranked at a time, each with other items, against the plain formula for each."""
    torch.manual_seed(0)
    similarity, relevancy = torch.randn(300, 9), torch.randint(0, 3, (300, 9)) / 2
    gains, precisions = [], []
    for scores, relevant in zip(similarity, relevancy, strict=True):
        ranked = relevant[scores.argsort(descending=True)].tolist()
        ideal = sorted(relevant.tolist(), reverse=True)
        places = [1 / torch.tensor(i + 2.0).log2().item() for i in range(sum(r > 0 for r in ideal))]
        if places:
            gains.append(sum(p * r for p, r in zip(places, ranked, strict=False))
                         / sum(p * r for p, r in zip(places, ideal, strict=False)))
        hits = [i for i, r in enumerate(ranked) if r == 1]
        if hits:
            precisions.append(sum(sum(ranked[: i + 1]) / (i + 1) for i in hits) / len(hits))
    assert mir_ndcg(similarity, relevancy) == pytest.approx(sum(gains) / len(gains), rel=1e-5)
    assert mir_map(similarity, relevancy) == pytest.approx(sum(precisions) / len(precisions), rel=1e-5)
    numbers = multi_instance_retrieval(similarity, relevancy)
    assert numbers["ndcg_v2t"] == pytest.approx(100 * mir_ndcg(similarity, relevancy))
    assert numbers["map_t2v"] == pytest.approx(100 * mir_map(similarity.T, relevancy.T))


def test_chance_is_the_same_every_time_and_depends_on_nothing() -> None:
    dual = torch.rand(4, 3)
    noise = [rankings(ScoredClips(dual, dual * i, dual[:, :0]))["chance"] for i in (1, 2)]
    assert torch.equal(*noise) and noise[0].shape == (4, 3) and len(noise[0].unique()) == 12

"""Post-processing of curves and segments into moments, by formula."""

import numpy as np
import pytest
import torch
from torch import Tensor

from egovlpv2.heads import moments
from egovlpv2.heads.moments import MAX_MOMENTS, class_nms, detections, retrievals, scored_segments
from egovlpv2.heads.nms import soft_nms
from egovlpv2.heads.vsgn import VSGNOutput
from egovlpv2.metrics.temporal import temporal_iou


def drawn(seed: int, anchors: int = 120, classes: int = 5, longest: float = 60.0) -> tuple[Tensor, Tensor]:
    """Segments (A, 2) within 100 steps, of up to so many, and scores (A, N - 1)."""
    noise = np.random.default_rng(seed)
    start = noise.uniform(0, 99, anchors)
    segments = np.stack([start, np.minimum(start + noise.uniform(1, longest, anchors), 100)], 1)
    return torch.from_numpy(segments).float(), torch.from_numpy(noise.random((anchors, classes))).float()


def test_a_score_is_class_by_start_by_end_each_the_mean_of_two_steps() -> None:
    start, end = torch.tensor([[0.1, 0.3, 0.5, 0.7]]), torch.tensor([[0.2, 0.4, 0.6, 0.8]])
    segments = torch.tensor([[[0.5, 2.25], [-3.0, 9.0], [1.0, 2.0], [2.5, 8.0], [2.0, 1.0], [3.0, 3.5]]])
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(1, 6, 3)
    found, scores = scored_segments(VSGNOutput(torch.rand(1, 4), start, end, segments, segments, logits,
                                             torch.tensor([3])))
    # The curves are read within their 4 steps; then segments end in the last of the clip's 3 steps.
    assert found.tolist() == [[[0.5, 2.0], [0.0, 2.0], [1.0, 2.0], [2.0, 2.0], [2.0, 1.0], [2.0, 2.0]]]
    weights = [0.2 * 0.7, 0.1 * 0.8, 0.3 * 0.6, 0.0, 0.0, 0.0]  # none without length
    classes = np.exp([1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    np.testing.assert_allclose(scores[0].numpy(), np.outer(weights, classes), rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("longest", [3.0, 60.0])
def test_of_doubles_of_a_class_the_best_stays(seed: int, longest: float) -> None:
    segments, scores = drawn(seed, longest=longest)
    kept, rest = class_nms(segments, scores)
    overlap = temporal_iou(segments[:, None].double().numpy(), segments[None].double().numpy())
    for label in range(scores.shape[1]):
        stays: list[int] = []
        for anchor in scores[:, label].argsort(descending=True).tolist():
            if not any(overlap[anchor, other] > 0.4 for other in stays):
                stays.append(anchor)
        assert kept[:, label].nonzero()[:, 0].tolist() == sorted(stays)
        assert torch.equal(kept[stays, label], scores[stays, label])
    assert 0 < kept.count_nonzero() < scores.numel() and rest == 0
    some, rest = class_nms(segments, scores, 100)
    assert rest == scores.flatten().sort(descending=True).values[100]
    assert torch.equal(some, kept.where(kept > rest, 0.0))


def test_a_segment_that_counts_nothing_drops_out_and_hides_no_other() -> None:
    segments = torch.tensor([[2.0, 2.0], [2.0, 2.0], [1.0, 3.0], [1.0, 2.9]])
    scores = torch.tensor([[0.0], [0.0], [0.0], [0.5]])
    assert class_nms(segments, scores)[0].tolist() == [[0], [0], [0], [0.5]]


@pytest.mark.parametrize("seed, longest", [(0, 60.0), (1, 60.0), (2, 4.0)])
@pytest.mark.parametrize("looked_at", [16, 4096])
def test_detections_are_soft_nms_of_all_classes_together(seed: int, longest: float, looked_at: int,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """As the reference of one class, over all pairs of a segment and a class that are left."""
    monkeypatch.setattr(moments, "_INITIAL_PAIRS", looked_at)
    segments, every = drawn(seed, anchors=200, longest=longest)
    scores, _ = class_nms(segments, every)
    anchor, label = scores.nonzero().T
    assert (len(anchor) > MAX_MOMENTS) == (longest < 60)
    wanted, values, places = soft_nms(segments[anchor].numpy(), scores[anchor, label].numpy(), 0.46, MAX_MOMENTS)
    found = detections(segments, every)
    assert len(found.scores) >= len(values)
    count = len(values)  # the reference never gives out its last
    np.testing.assert_allclose(found.scores[:count].numpy(), values, rtol=1e-5)
    np.testing.assert_allclose(found.segments[:count].numpy(), wanted, rtol=1e-6)
    assert found.classes[:count].tolist() == (label[places] + 1).tolist()


def test_a_moment_of_another_class_at_the_same_place_loses_score() -> None:
    segments, scores = torch.tensor([[0.0, 4], [6, 9]]), torch.tensor([[0.8, 0.5], [0.0, 0.2]])
    found = detections(segments, scores)
    assert found.classes.tolist() == [1, 2, 2] and found.segments.tolist() == [[0, 4], [6, 9], [0, 4]]
    np.testing.assert_allclose(found.scores.numpy(), [0.8, 0.2, 0.5 * np.exp(-1 / 0.46)], rtol=1e-6)


@pytest.mark.parametrize("looked_at", [16, 4096])
def test_retrievals_are_a_clips_best_of_the_given_classes(looked_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "_INITIAL_PAIRS", looked_at)
    segments, every = drawn(0, anchors=1000, longest=1.5)
    every[5:, 1] = 0
    scores, _ = class_nms(segments, every)
    asked = torch.cat([scores[:5, 1], scores[:, 3], scores[:, 4]])
    assert asked.count_nonzero() > MAX_MOMENTS
    found = retrievals(segments, every, torch.tensor([2, 4, 5]))
    assert len(found.scores) == MAX_MOMENTS and set(found.classes.tolist()) == {2, 4, 5}
    assert torch.equal(found.scores, asked.sort(descending=True).values[:MAX_MOMENTS])
    for segment, label, score in zip(*found, strict=True):
        assert score in scores[(segments == segment).all(1), label - 1]


def test_nothing_is_found_where_nothing_counts() -> None:
    segments, scores = drawn(0)
    nothing = torch.zeros_like(scores)
    none = torch.empty(0, dtype=torch.int64)
    for found in (detections(segments, nothing),
                  retrievals(segments, nothing, torch.tensor([1, 2])), retrievals(segments, scores, none)):
        assert found.segments.shape == (0, 2) and found.classes.shape == found.scores.shape == (0,)

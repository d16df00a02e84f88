"""Non-maximum suppression: the figures of ActionFormer's code, and the rule by formula."""

import numpy as np
import pytest
import torch
from actionformer_figures import figures

from egovlpv2.heads import nms
from egovlpv2.heads.nms import NMS, Detections, soft_nms, suppress
from egovlpv2.metrics.temporal import temporal_iou

CASES = {
    "soft_multi_sigma09": NMS(),
    "soft_multi_sigma20_top40": NMS(sigma=2.0, min_score=0.05, max_segments=40),
    "soft_agnostic_vote075": NMS(sigma=0.5, min_score=0.01, per_class=False, voting_iou=0.75, max_segments=200),
    "hard_multi": NMS("hard", iou=0.3, min_score=0.01),
}


@pytest.mark.parametrize("factor", [2, 64])
@pytest.mark.parametrize("case", CASES)
def test_it_agrees_with_the_authors(case: str, factor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nms, "_INITIAL_FACTOR", factor)
    wanted = figures("actionformer_nms")
    found = suppress(Detections(wanted["segments"], wanted["labels"] + 1, wanted["scores"]), CASES[case])
    torch.testing.assert_close(found.scores, wanted[f"{case}_scores"], atol=1e-6, rtol=0)
    torch.testing.assert_close(found.segments, wanted[f"{case}_segments"], atol=1e-4, rtol=0)
    assert torch.equal(found.classes - 1, wanted[f"{case}_labels"])


def drawn(count: int, classes: int, seed: int = 0) -> Detections:
    noise = torch.Generator().manual_seed(seed)
    start = 100 * torch.rand(count, generator=noise)
    segments = torch.stack([start, start + 1 + 20 * torch.rand(count, generator=noise)], 1)
    return Detections(segments, torch.randint(1, classes + 1, (count,), generator=noise),
                      torch.rand(count, generator=noise))


def one_by_one(found: Detections, settings: NMS) -> list[tuple[float, int]]:
    """Scores and rows of what soft-NMS of each class keeps, a proposal at a time."""
    kept = []
    for label in found.classes.unique().tolist():
        left = {i: float(found.scores[i]) for i in (found.classes == label).nonzero()[:, 0].tolist()}
        for _ in range(settings.max_segments):
            if not left:
                break
            best = max(left, key=lambda i: left[i])
            kept.append((left.pop(best), best))
            for i in list(left):
                overlap = temporal_iou(found.segments[i].double().numpy(), found.segments[best].double().numpy())
                left[i] *= float(np.exp(-overlap**2 / settings.sigma))
                if left[i] < settings.min_score:
                    del left[i]
    return sorted(kept, reverse=True)[: settings.max_segments]


@pytest.mark.parametrize("settings", [NMS(), NMS(max_segments=7), NMS(sigma=0.3, min_score=0.2)])
def test_soft_nms_of_each_class_by_formula(settings: NMS) -> None:
    found = drawn(80, 5)
    wanted = one_by_one(found, settings)
    kept = suppress(found, settings)
    assert kept.scores.tolist() == pytest.approx([score for score, _ in wanted], abs=1e-6)
    assert torch.equal(kept.segments, found.segments[[i for _, i in wanted]])
    assert torch.equal(kept.classes, found.classes[[i for _, i in wanted]])


def test_classes_are_suppressed_apart_or_together() -> None:
    same = Detections(torch.tensor([[0.0, 4], [0, 4], [0, 4]]), torch.tensor([1, 2, 2]), torch.tensor([0.9, 0.8, 0.7]))
    hard = NMS("hard", iou=0.5)
    assert suppress(same, hard).classes.tolist() == [1, 2]
    assert suppress(same, NMS("hard", iou=0.5, per_class=False)).classes.tolist() == [1]


def test_without_proposals_nothing_is_kept() -> None:
    nothing = Detections(torch.empty(0, 2), torch.empty(0, dtype=torch.int64), torch.empty(0))
    for settings in CASES.values():
        assert suppress(nothing, settings).segments.shape == (0, 2)
    assert soft_nms(np.empty((0, 2)), np.empty(0), 0.5, 3)[2].shape == (0,)


@pytest.mark.parametrize(("options", "problem"), [
    ({"voting_iou": 0.5}, "nms.voting_iou=0.5 mixes classes: set nms.per_class to false"),
    ({"sigma": 0.0}, "nms.sigma=0.0, nms.max_segments=2000: give numbers above 0"),
    ({"max_segments": 0}, "nms.max_segments=0"),
])
def test_settings_that_do_not_fit_are_named(options: dict[str, float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        NMS(**options)

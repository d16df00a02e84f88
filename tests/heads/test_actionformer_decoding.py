"""ActionFormer's moments before and after suppression are its authors', in seconds."""

from collections.abc import Iterator

import pytest
import torch
from actionformer_figures import AUTHORS, clips, figures, released_head
from torch import Tensor

from egovlpv2.heads.actionformer import ActionFormerOutput, make_points
from egovlpv2.heads.actionformer_decoding import Decoding, decode_points, find_moments
from egovlpv2.heads.nms import NMS, Detections


@pytest.fixture(scope="module")
def outputs() -> Iterator[list[ActionFormerOutput]]:
    head = released_head(AUTHORS).eval()
    with torch.inference_mode():
        yield [head(*clips(i, length=head.padded_length(n))) for i, n in enumerate((1024, 700, 1300))]


def firm(scores: Tensor) -> Tensor:
    """Rows whose scores are not nearly those of their neighbours, so that their order is the same on all machines."""
    gap = (scores[1:] - scores[:-1]).abs() > 1e-6
    true = gap.new_ones(1)
    return torch.cat([true, gap]) & torch.cat([gap, true])


@pytest.mark.parametrize("i", range(3))
def test_decoded_moments_agree(outputs: list[ActionFormerOutput], i: int) -> None:
    wanted, found = figures(AUTHORS), decode_points(outputs[i], 0, Decoding())
    assert len(found.scores) == wanted[f"decoded{i}_count"]
    every = slice(None, None, int(wanted[f"decoded{i}_every"]))
    scores = found.scores[every]
    torch.testing.assert_close(scores, wanted[f"decoded{i}_scores"], atol=1e-6, rtol=0)
    clear = firm(found.scores)[every]
    assert clear.float().mean() > 0.3
    assert torch.equal(found.classes[every][clear] - 1, wanted[f"decoded{i}_labels"][clear])
    torch.testing.assert_close(found.segments[every][clear], wanted[f"decoded{i}_segments"][clear], atol=1e-3, rtol=0)
    sums = torch.stack([found.segments.double().sum(), found.scores.double().sum(), (found.classes - 1).double().sum()])
    torch.testing.assert_close(sums, wanted[f"decoded{i}_sums"], rtol=1e-6, atol=1e-2)


@pytest.mark.parametrize("i", range(3))
def test_moments_after_suppression_agree_in_seconds(outputs: list[ActionFormerOutput], i: int) -> None:
    wanted = figures(AUTHORS)
    found = find_moments(outputs[i], 0, 16 / 30, 8 / 30, float(wanted["durations"][i]), Decoding())
    assert len(found.scores) == wanted[f"final{i}_count"]
    assert found.segments.max() <= wanted["durations"][i] + 1e-4
    torch.testing.assert_close(found.scores[:400], wanted[f"final{i}_scores"], atol=5e-6, rtol=0)
    clear = firm(found.scores)[:400]
    assert clear.float().mean() > 0.9
    assert torch.equal(found.classes[:400][clear] - 1, wanted[f"final{i}_labels"][clear])
    torch.testing.assert_close(found.segments[:400][clear], wanted[f"final{i}_segments"][clear], atol=1e-3, rtol=0)


def drawn() -> ActionFormerOutput:
    """Two clips of 16 steps on two levels, four classes; the second clip has 9 steps."""
    torch.manual_seed(0)
    points, lengths = make_points([16, 8]), torch.tensor([[16], [9]])
    mask = torch.cat([torch.arange(16) < lengths, torch.arange(8) * 2 < lengths], 1)
    return ActionFormerOutput(torch.randn(2, 24, 4), 3 * torch.rand(2, 24, 2), points, mask)


def test_padding_and_unlikely_or_short_moments_are_left_out() -> None:
    out = drawn()
    assert len(decode_points(out, 0, Decoding()).scores) == 96
    with pytest.raises(ValueError, match="decoding.candidates=-1: give 1 or more"):
        Decoding(candidates=-1)
    assert len(decode_points(out, 1, Decoding()).scores) == (9 + 5) * 4
    likely = decode_points(out, 0, Decoding(min_score=0.5))
    assert len(likely.scores) == (out.class_logits[0] > 0).sum() and likely.scores.min() > 0.5
    long = decode_points(out, 0, Decoding(min_length=4))
    assert 0 < len(long.scores) < 96 and (long.segments[:, 1] - long.segments[:, 0]).min() > 4


def test_candidates_are_counted_for_each_level_or_for_the_clip() -> None:
    each, all_levels = (decode_points(drawn(), 0, Decoding(candidates=5, per_level=flag)) for flag in (True, False))
    assert len(each.scores) == 10 and len(all_levels.scores) == 5
    assert (each.scores[:5].diff() <= 0).all() and (each.scores[5:].diff() <= 0).all()
    assert torch.equal(each.scores.sort(descending=True).values[:1], all_levels.scores[:1])


def test_seconds_are_rounded_before_suppression_on_demand() -> None:
    """To 0.01 s and 0.0001, as OpenTAD has them."""
    settings = Decoding(rounded=True, nms=NMS(method="hard", iou=2.0, max_segments=96))
    found = find_moments(drawn(), 0, 16 / 30, 8 / 30, 8.0, settings)
    for values, unit in ((found.segments, 100), (found.scores, 10000)):
        torch.testing.assert_close(values * unit, (values * unit).round(), atol=1e-2, rtol=0)
    free = find_moments(drawn(), 0, 16 / 30, -2.0, 1e9, settings)
    assert found.segments.max() == 8.0 and free.segments.min() == 0.0 and free.segments.max() < 9  # within the clip


def test_a_clip_without_a_likely_moment_has_none() -> None:
    out = drawn()._replace(class_logits=torch.full((2, 24, 4), -20.0))
    for settings in (Decoding(), Decoding(per_level=False, rounded=True)):
        found = find_moments(out, 0, 1.0, 0.0, 16.0, settings)
        assert isinstance(found, Detections) and found.segments.shape == (0, 2) and found.classes.shape == (0,)

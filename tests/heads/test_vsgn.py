"""VSGN computes what the authors' computes, ignores padding, matches anchors without a loop, and learns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden.fill_state import fill_layout
from torch import Tensor

from egovlpv2.checkpoints import convert
from egovlpv2.heads import VSGN
from egovlpv2.heads.vsgn import GraphLayer, VSGNOutput, decode, make_anchors
from egovlpv2.heads.vsgn_losses import (
    MomentLabels,
    balanced_cross_entropy,
    label_bands,
    match,
    vsgn_losses,
)
from egovlpv2.metrics.temporal import temporal_iou

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    arrays = {k: torch.from_numpy(np.asarray(v)) for k, v in np.load(GOLDEN / "vsgn.npz").items()}
    features = np.random.RandomState(int(arrays["input_seed"])).standard_normal((2, 64, 928)).astype(np.float32)
    features[1, :, 500:] = 0
    boxes = arrays["gt_boxes"]
    labels = MomentLabels(boxes[..., :2] * 928, boxes[..., 2].long())
    return arrays | {"features": torch.from_numpy(features), "labels": labels}


@pytest.fixture(scope="module")
def released() -> VSGN:
    net = VSGN(64).eval()
    net.load_state_dict(convert("vsgn", fill_layout(json.loads((GOLDEN / "vsgn_state_layout.json").read_text()))))
    return net


def disagreement(out: VSGNOutput, golden: dict[str, Tensor]) -> float:
    """The largest share of an output's values that is off by more than rounding.

    Two steps that are nearly as far from a third may swap their places among its neighbours where float32 sums fall
    differently. That moves the few values around it, so a small share may be off, by little; a wrong rule moves most.
    """
    pairs = [(out.actionness, "actionness", 1e-4), (out.startness, "startness", 1e-4), (out.endness, "endness", 1e-4),
             (out.segments, "loc", 1e-3), (out.adjusted_segments, "loc_adjusted", 1e-3),  # up to 1,000 steps
             (out.scores.topk(5).values, "score_top", 1e-5)]
    return max(1 - torch.isclose(ours, golden[name], atol=atol, rtol=1e-4).float().mean().item()
               for ours, name, atol in pairs)


@torch.inference_mode()
def test_it_agrees_with_the_authors(golden: dict[str, Tensor], released: VSGN) -> None:
    out = released(golden["features"], golden["num_frames"])
    assert disagreement(out, golden) < 0.02
    for ours, name in ((out.segments, "loc"), (out.adjusted_segments, "loc_adjusted"), (out.actionness, "actionness")):
        torch.testing.assert_close(ours, golden[name], atol=2e-2, rtol=1e-3)
    assert (out.scores.topk(5).indices == golden["label_top"]).float().mean() > 0.98
    assert torch.equal(out.scores, out.class_logits.softmax(-1))


@torch.inference_mode()
@pytest.mark.parametrize("wrong", ["one neighbour less", "one neighbour more", "cosine", "taxicab"])
def test_another_rule_for_neighbours_does_not_agree(golden: dict[str, Tensor], released: VSGN, wrong: str,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    if wrong in ("cosine", "taxicab"):
        def nearest(layer: GraphLayer, steps: Tensor) -> Tensor:
            unit = torch.nn.functional.normalize(steps.double(), dim=2)
            distance = -unit @ unit.mT if wrong == "cosine" else torch.cdist(steps, steps, p=1)
            return distance.topk(layer.num_neighbours, largest=False).indices
        monkeypatch.setattr(GraphLayer, "_nearest", nearest)
    else:
        for layer in released.pyramid.down:
            monkeypatch.setattr(layer, "num_neighbours", layer.num_neighbours + (1 if "more" in wrong else -1))
    assert disagreement(released(golden["features"], golden["num_frames"]), golden) > 0.1


def test_neighbours_are_the_nearest_and_ties_go_by_index() -> None:
    layer = GraphLayer(2, 3)
    steps = torch.tensor([[[0.0, 0], [3, 0], [0, 1], [1, 0], [-1, 0], [0, 0]]])  # (1, T, D)
    assert layer._nearest(steps)[0, 0].tolist() == [0, 5, 2]  # itself, its copy, the first of three at distance 1
    assert layer._nearest(steps)[0, 1].tolist() == [1, 3, 0]
    near = torch.full((1, 4, 2), 4096.0)
    near[0, 1:, 0] += torch.tensor([3e-3, 2e-3, 1e-3])  # in float32 the differences of squares would all be zero
    assert layer._nearest(near)[0, 0].tolist() == [0, 3, 2]


@torch.inference_mode()
def test_losses_agree_with_the_authors(golden: dict[str, Tensor], released: VSGN) -> None:
    bands = label_bands(golden["labels"], 928)
    for name, ours in (("gt_action", "actionness"), ("gt_start", "startness"), ("gt_end", "endness")):
        assert torch.equal(golden[name] > 0, bands[ours])
    losses = vsgn_losses(released(golden["features"], golden["num_frames"]), released.anchors, golden["labels"])
    for name, ours in (("action", "actionness"), ("start", "startness"), ("end", "endness"), ("cls_dec", "class"),
                       ("reg_dec", "segment"), ("bd_adjust", "boundary")):
        torch.testing.assert_close(losses[ours], golden[f"loss_{name}"], atol=1e-4, rtol=1e-4)


def test_wrong_lengths_are_named(released: VSGN) -> None:
    with pytest.raises(ValueError, match="num_steps=100 can't be halved 4 times"):
        VSGN(8, num_steps=100)
    with pytest.raises(ValueError, match="the features have 90 steps; pad or sample them to 928"):
        released(torch.zeros(1, 64, 90), torch.tensor([90]))


def test_anchors_lie_where_they_should() -> None:
    anchors = make_anchors(8, 3)
    assert anchors.shape == ((8 + 4 + 2) * 2, 2)
    assert anchors[:4].tolist() == [[0.5, 1], [0.5, 10], [1.5, 1], [1.5, 10]]
    assert anchors[-2:].tolist() == [[6, 4], [6, 40]]
    assert decode(torch.zeros(1, 28, 2), anchors)[0, 1].tolist() == [-4, 5]


def test_matching_is_the_same_clip_by_clip() -> None:
    noise = np.random.default_rng(0)
    start = torch.from_numpy(noise.uniform(0, 100, (4, 5)))
    instances = torch.stack([start, start + torch.from_numpy(noise.uniform(20, 60, (4, 5)))], 2).float()
    classes = torch.tensor([[1, 2, 3, 4, 5], [1, 0, 0, 0, 0], [0] * 5, [7, 8, 9, 0, 0]])
    segments = decode(torch.zeros(4, 620, 2), make_anchors(160, 5))
    together = match(segments, MomentLabels(instances, classes)).at(0.5)
    assert not together.classes[2].any()
    for i, count in ((0, 5), (1, 1), (3, 3)):
        labels = MomentLabels(instances[i : i + 1, :count], classes[i : i + 1, :count])
        alone = match(segments[i : i + 1], labels).at(0.5)
        assert torch.equal(alone.classes[0], together.classes[i]) and alone.classes.any()
        stands = alone.classes[0] > 0
        assert torch.equal(alone.segments[0, stands], together.segments[i, stands])


def test_a_segment_stands_for_what_it_overlaps_most() -> None:
    labels = MomentLabels(torch.tensor([[[0.0, 20], [10, 30]]]), torch.tensor([[1, 2]]))
    matched = match(torch.tensor([[[0.0, 20], [9, 30], [40, 60], [0, 40]]]), labels).at(0.5)
    assert matched.classes.tolist() == [[1, 2, 0, 0]]  # 20/21, 20/22, 0, 20/41
    assert matched.segments[0, :2].tolist() == [[0, 20], [10, 30]]


def test_an_instance_that_nothing_fits_keeps_its_best_segments_with_ties() -> None:
    labels = MomentLabels(torch.tensor([[[4.0, 6], [0, 40], [9, 9], [0, 0]]]), torch.tensor([[3, 5, 7, 0]]))
    segments = torch.tensor([[[0.0, 8], [2, 10], [-1, 9], [0, 24], [30, 40], [50, 60]]])
    matched = match(segments, labels).at(0.7)
    # 2/9, 2/9 and 2/11 of the short one; the long one's best, 24/41, overlaps it by less than 0.7; nothing overlaps
    # an instance without length, so nothing stands for it.
    assert matched.classes.tolist() == [[3, 3, 0, 5, 0, 0]]
    assert matched.best.tolist() == [[True, True, False, True, False, False]]


def test_the_best_segment_of_an_instance_stands_for_what_it_overlaps_itself() -> None:
    """The short instance's best segments overlap the long one more, as the authors' rule has it."""
    labels = MomentLabels(torch.tensor([[[0.0, 20], [8, 9]]]), torch.tensor([[1, 2]]))
    matched = match(torch.tensor([[[4.0, 12], [0, 14], [15, 20]]]), labels).at(0.5)
    assert matched.classes.tolist() == [[1, 1, 0]]  # 8/21 and 1/9, the short one's best; 14/21 and 1/15; 5/21 and 0
    assert matched.best.tolist() == [[True, True, False]]


MATCHING = json.loads((GOLDEN / "vsgn_matching.json").read_text())


@pytest.mark.parametrize("case", MATCHING["cases"], ids=lambda case: f"seed {case['seed']}")
def test_matching_agrees_with_the_authors_for_instances_of_any_length(case: dict[str, Any]) -> None:
    """Anchors at IoU 0.5, decoded segments at 0.5 and at 0.7, and the losses over them."""
    anchors, draw = make_anchors(64, 5), np.random.RandomState(case["seed"])
    assert len(anchors) == MATCHING["num_anchors"] and MATCHING["thresholds"] == [0.5, 0.5, 0.7]
    deltas, logits, offsets = (torch.from_numpy(draw.standard_normal((2, len(anchors), n)).astype(np.float32))
                               for n in (2, 7, 2))
    segments = decode(0.3 * deltas, anchors)
    rows = [torch.tensor(instances) for instances in case["instances"]]  # (G, 3) each
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (2, G, 3)
    labels = MomentLabels(padded[..., :2], padded[..., 2].long())
    untouched = decode(torch.zeros_like(deltas), anchors)
    for name, places, threshold in (("anchors_05", untouched, 0.5), ("decoded_05", segments, 0.5),
                                    ("decoded_07", segments, 0.7)):
        classes = match(places, labels).at(threshold).classes
        found = [[[i, int(one[i])] for i in one.nonzero()[:, 0].tolist()] for one in classes]
        assert found == case["positives"][name], name
    curves = torch.full((3, 2, 64), 0.5)
    losses = vsgn_losses(VSGNOutput(*curves, segments, segments + offsets, logits, torch.tensor([64, 64])), anchors,
                         labels)
    wanted = {"class": case["losses"]["loss_cls_dec"], "segment": case["losses"]["loss_reg_dec"],
              "boundary": case["boundary_loss"]}
    assert {name: losses[name].item() for name in wanted} == pytest.approx(wanted, abs=1e-4)


def test_balanced_cross_entropy_without_positives_is_finite() -> None:
    loss = balanced_cross_entropy(torch.full((1, 4), 0.5), torch.zeros(1, 4, dtype=torch.bool))
    torch.testing.assert_close(loss, torch.tensor(0.5 * np.log(2)).float(), atol=1e-4, rtol=1e-4)


def test_moments_can_be_learned() -> None:
    torch.manual_seed(0)
    net = VSGN(8, num_steps=32, num_levels=3, dim=32, num_classes=4)
    features = 0.1 * torch.randn(4, 8, 32)
    segments = torch.tensor([[[4.0, 12]], [[10, 18]], [[16, 28]], [[2, 8]]])
    classes = torch.tensor([[1], [2], [3], [1]])
    for i, (start, end) in enumerate(segments[:, 0].int().tolist()):
        features[i, int(classes[i, 0]), start:end] += 1.0
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    for _ in range(80):
        out = net(features, torch.full((4,), 32))
        optimizer.zero_grad()
        sum(vsgn_losses(out, net.anchors, MomentLabels(segments, classes)).values()).backward()
        optimizer.step()
    best = out.scores[..., 1:].amax(-1).argmax(1)  # (4,)
    assert torch.equal(out.scores[range(4), best, 1:].argmax(-1) + 1, classes[:, 0])
    found = out.adjusted_segments[range(4), best].detach().numpy()
    assert (temporal_iou(found, segments[:, 0].numpy()) > 0.6).all()

"""Targets and losses of ActionFormer are its authors', and its normaliser goes on after a resume."""

import math

import numpy as np
import pytest
import torch
from actionformer_figures import AUTHORS, GOLDEN, OPENTAD, clips, figures, moments, released_head, released_state
from torch import Tensor

from egovlpv2.checkpoints import convert
from egovlpv2.heads.actionformer import ActionFormer, ActionFormerOutput, make_points
from egovlpv2.heads.actionformer_losses import ActionFormerLoss, diou_loss, focal_loss
from egovlpv2.heads.actionformer_targets import assign_targets


def indices(where: Tensor) -> list[list[int]]:
    return where.nonzero().tolist()


@pytest.mark.parametrize(("name", "levels", "all_classes"), [("authors", 8, False), ("opentad", 9, True),
                                                             ("opentad_filtered", 9, False)])
def test_targets_of_many_moments_agree_exactly(name: str, levels: int, all_classes: bool) -> None:
    wanted = figures("actionformer_targets")
    targets = assign_targets(make_points([1024 >> level for level in range(levels)]), wanted["segments"][None],
                             wanted["labels"][None] + 1, 110, all_classes)
    positive = targets.classes[0].any(1)
    assert indices(positive) == wanted[f"{name}_points"][:, None].tolist()
    assert indices(targets.classes[0]) == wanted[f"{name}_classes"].tolist()
    assert torch.equal(targets.offsets[0][positive], wanted[f"{name}_offsets"])
    assert not targets.offsets[0][~positive].any()


@pytest.mark.parametrize("name", [AUTHORS, OPENTAD])
def test_losses_and_gradients_agree_with_the_released_code(name: str) -> None:
    wanted, head = figures(name), released_head(name)
    segments, classes = moments(figures(AUTHORS))
    loss = ActionFormerLoss(all_classes=name == OPENTAD)
    features, mask = clips(0, 1)
    out = head(features, mask)
    targets = assign_targets(out.points, segments, classes, 110, loss.all_classes)
    positive = targets.classes.any(2) & out.mask
    assert indices(positive) == wanted["positive_index"].tolist()
    assert indices(targets.classes * out.mask[..., None]) == wanted["positive_classes"].tolist()
    assert torch.equal(targets.offsets[positive], wanted["positive_offsets"])
    losses = loss(head, out, segments, classes)
    for part, key in (("class", "cls_loss"), ("offset", "reg_loss")):
        assert losses[part].item() == pytest.approx(wanted[key].item(), abs=1e-5)
    assert losses["loss"].item() == pytest.approx((losses["class"] + losses["offset"]).item())
    assert head.loss_normalizer.item() == pytest.approx(wanted["loss_normalizer_after"].item(), abs=1e-4)
    if name == AUTHORS:
        losses["loss"].backward()
        check_gradients(head)
        second = loss(head, head(features, mask), segments, classes)
        assert second["class"].item() == pytest.approx(wanted["cls_loss_2"].item(), abs=1e-5)
        assert head.loss_normalizer.item() == pytest.approx(wanted["loss_normalizer_after_2"].item(), abs=1e-4)


def check_gradients(head: ActionFormer) -> None:
    with np.load(GOLDEN / "actionformer.npz") as arrays:
        norms = dict(zip(arrays["grad_keys"].tolist(), arrays["grad_norms"].tolist(), strict=True))
    blank = {key: torch.zeros_like(value) for key, value in released_state(AUTHORS).items()}
    parameters = dict(head.named_parameters())
    for key, norm in norms.items():
        marked = convert("actionformer", blank | {key: torch.ones_like(blank[key])})
        (name,) = [name for name, value in marked.items() if value.any() and name in parameters]
        gradient = parameters[name].grad
        assert gradient is not None
        assert gradient[marked[name] > 0].norm().item() == pytest.approx(norm, rel=1e-5), key


def outputs(head: ActionFormer, steps: int = 16) -> ActionFormerOutput:
    return head(torch.randn(2, 4, steps), torch.ones(2, steps, dtype=torch.bool))


def small() -> ActionFormer:
    torch.manual_seed(0)
    return ActionFormer(4, 3, dim=8, num_levels=2, num_heads=2, max_steps=16)


@pytest.mark.parametrize("count", [0, 1])
def test_a_batch_without_positives_has_a_finite_loss_and_gradients(count: int) -> None:
    """With no moment at all, and with one outside of the clip."""
    head = small()
    segments = torch.tensor([[[40.0, 44.0]]] * 2)[:, :count]
    losses = ActionFormerLoss()(head, outputs(head), segments, torch.ones(2, count, dtype=torch.int64))
    losses["loss"].backward()
    assert losses["offset"] == 0 and losses["class"] > 0
    assert head.loss_normalizer.item() == pytest.approx(0.9 * 100 + 0.1)
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_the_normaliser_is_in_the_state_and_stays_in_evaluation() -> None:
    head, segments, classes = small(), torch.tensor([[[2.0, 5.0]]] * 2), torch.ones(2, 1, dtype=torch.int64)
    loss = ActionFormerLoss()
    loss(head, outputs(head), segments, classes)
    resumed = small()
    resumed.load_state_dict(head.state_dict())
    assert resumed.loss_normalizer == head.loss_normalizer != 100
    before = head.loss_normalizer.clone()
    torch.manual_seed(1)
    evaluated = loss(head.eval(), outputs(head), segments, classes)
    assert head.loss_normalizer == before
    head.train()
    torch.manual_seed(1)
    trained = loss(head, outputs(head.eval()), segments, classes)  # divided by the batch's own number
    assert evaluated["class"] == trained["class"]


def test_the_weight_of_offsets_may_make_both_losses_equal() -> None:
    head, segments, classes = small(), torch.tensor([[[2.0, 5.0]]] * 2), torch.ones(2, 1, dtype=torch.int64)
    losses = ActionFormerLoss(offset_weight=0)(head, outputs(head), segments, classes)
    assert losses["loss"].item() == pytest.approx(2 * losses["class"].item())
    twice = ActionFormerLoss(offset_weight=2)(head, outputs(head), segments, classes)
    assert twice["loss"].item() == pytest.approx((twice["class"] + 2 * twice["offset"]).item())


def test_losses_by_formula() -> None:
    logits, targets = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    p = 1 / (1 + math.exp(-2))
    wanted = [0.25 * 0.5**2 * math.log(2), 0.75 * p**2 * -math.log(1 - p)]
    assert focal_loss(logits, targets)[0].tolist() == pytest.approx(wanted)
    # (-1, 3) and (-2, 2) around the point: 3 of 5 in common, middles 1 apart, hull 5
    offsets = torch.tensor([[1.0, 3.0], [1.0, 2.0], [0.0, 0.0]])
    found = diou_loss(offsets, torch.tensor([[2.0, 2.0], [1.0, 2.0], [0.0, 0.0]]))
    assert found.tolist() == pytest.approx([1 - 3 / 5 + (1 / 5) ** 2, 0, 1])


@pytest.mark.parametrize(("second", "wanted"), [([2.0, 6.0], [1]), ([2.0, 5.0], [1, 2])])
def test_the_shortest_moment_is_predicted_and_of_equals_both_classes(second: list[float], wanted: list[int]) -> None:
    segments, classes = torch.tensor([[[2.0, 5.0], second]]), torch.tensor([[1, 2]])
    targets = assign_targets(make_points([8]), segments, classes, 2)
    assert (targets.classes[0, 3].nonzero()[:, 0] + 1).tolist() == wanted
    assert targets.offsets[0, 3].tolist() == [1.0, 2.0]
    assert not targets.classes[0, [0, 1, 2, 6, 7]].any()  # a point on the start is outside
    every = assign_targets(make_points([8]), segments, classes, 2, all_classes=True)
    assert every.classes[0, 3].tolist() == [1, 1] and torch.equal(every.offsets, targets.offsets)

"""Backward passes of one objective at a time, and of batches in parts, give the gradients of the whole graph."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import KINDS, draw_parameters, make_clips
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from egovlpv2 import gradients
from egovlpv2.gradients import Cut
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.bench_step import OneGraph
from egovlpv2.tasks.pretrain import Pretrain

CLIPS = 12


@pytest.fixture
def make_task(small_config: Callable[..., Any], tokenizer: str) -> Callable[..., Pretrain]:
    def make(dropout: float = 0.0, **changes: Any) -> Pretrain:
        torch.manual_seed(0)
        config = small_config(tokenizer, **changes)
        config.text.arch |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        config.video.drop_path = dropout
        task = Pretrain(config, OptimizerConfig(), masked_share=0.4)
        draw_parameters(task)
        return task.train()

    return make


def run(task: Pretrain, at_a_time: int | None = None) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses and gradients of a step."""
    torch.manual_seed(1)
    batch = make_clips(CLIPS)
    total, losses = task.objectives(batch, torch.Generator().manual_seed(2), at_a_time)
    total.backward()
    found = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    return {name: loss.item() for name, loss in losses.items()}, found


def same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    least = 1e-2 * max(grad.norm() for grad in expected.values())  # biases of keys have no gradient but noise
    for name, grad in expected.items():
        error = (found[name] - grad).norm() / grad.norm().clamp(min=least)
        assert error < tolerance, (name, float(error))
    errors, norms = (torch.stack([grad.norm() for grad in grads]).norm()
                     for grads in ([found[name] - expected[name] for name in expected], expected.values()))
    assert errors / norms < tolerance / 2


@pytest.mark.parametrize("again", [False, "trunk", True])
@pytest.mark.parametrize("changes", KINDS)
def test_one_objective_at_a_time_gives_the_gradients_of_the_whole_graph(
        make_task: Callable[..., Pretrain], monkeypatch: pytest.MonkeyPatch, changes: dict[str, str],
        again: bool | str) -> None:
    losses, found = run(make_task(0.1, **changes, gradient_checkpointing=again))
    monkeypatch.setattr(Pretrain, "cut", OneGraph)
    plain, expected = run(make_task(0.1, **changes))
    assert losses == plain
    same(found, expected)


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize("at_a_time", [4, 5, 12])
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(make_task: Callable[..., Pretrain], changes: dict[str, str],
                                                           at_a_time: int) -> None:
    # In float32 a projector's bias, which nearly cancels over the batch, would differ by up to 4e-5, by the seed.
    losses, found = run(make_task(**changes).double(), at_a_time)
    plain, expected = run(make_task(**changes).double())
    assert losses == pytest.approx(plain, rel=1e-6)  # losses are summed in float32
    same(found, expected, tolerance=1e-7)


def test_parts_that_are_computed_anew_draw_the_same_dropout(make_task: Callable[..., Pretrain],
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    losses, found = run(make_task(0.3), 4)
    monkeypatch.setattr(gradients, "checkpoint", lambda function, *inputs, use_reentrant: function(*inputs))
    plain, expected = run(make_task(0.3), 4)
    assert losses == plain
    same(found, expected)


def test_gradients_of_several_batches_add_up(make_task: Callable[..., Pretrain]) -> None:
    once, twice = make_task(), make_task()
    _, expected = run(once)
    run(twice)
    _, found = run(twice)
    same(found, {name: 2 * grad for name, grad in expected.items()})


def test_gradients_that_share_memory_are_not_added_to_each_other() -> None:
    a, b, x = (torch.nn.Parameter(torch.full((3,), value)) for value in (1.0, 2.0, 3.0))
    cut = Cut([a, b, x])
    y = cut.share(2 * x)
    for weight in (1.0, 0.5):
        cut.backward((a + b + y).sum(), weight)  # autograd gives all three one tensor
    cut.backward((a * a).sum() + y.sum(), 1.0)
    total = cut.total()
    total.backward(torch.tensor(2.0))
    assert total.item() == 1.5 * 27 + 3 + 18
    for parameter, expected in ((a, 7.0), (b, 3.0), (x, 10.0)):
        assert torch.equal(parameter.grad, torch.full((3,), expected))


def test_frozen_parameters_get_no_gradient(make_task: Callable[..., Pretrain]) -> None:
    task = make_task()
    for name, parameter in task.named_parameters():
        parameter.requires_grad_(not name.startswith(("backbone.video_tower.blocks.0", "backbone.video_projector")))
    _, found = run(task)
    assert found.keys() == {name for name, p in task.named_parameters() if p.requires_grad}


def test_losses_without_gradients(make_task: Callable[..., Pretrain]) -> None:
    task = make_task()
    with torch.no_grad():
        total, losses = task.objectives(make_clips(4), torch.Generator().manual_seed(2), 2)
    assert not total.requires_grad and all(loss.isfinite() for loss in losses.values())


class Watch:
    """Bytes of the tensors that autograd keeps, now and at most; parameters and repeated tensors don't count twice."""

    def __init__(self, task: torch.nn.Module) -> None:
        self.now = self.most = 0
        self.alive = {p.untyped_storage().data_ptr(): 1 for p in task.parameters()}

    def pack(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        place = storage.data_ptr()
        if place not in self.alive:
            self.alive[place] = 0
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
        kept = x.detach()
        self.alive[place] += 1
        weakref.finalize(kept, self.drop, place, storage.nbytes())
        return kept

    def drop(self, place: int, size: int) -> None:
        self.alive[place] -= 1
        if not self.alive[place]:
            del self.alive[place]
            self.now -= size


def most_kept(task: Pretrain, at_a_time: int | None = None) -> int:
    watch = Watch(task)
    with saved_tensors_hooks(watch.pack, lambda x: x):
        run(task, at_a_time)
    return watch.most


def test_two_objectives_activations_are_never_kept_together(make_task: Callable[..., Pretrain],
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"depth": 6, "num_fused_layers": 4}
    ours = most_kept(make_task(**changes))
    monkeypatch.setattr(Pretrain, "cut", OneGraph)
    assert ours < 0.6 * most_kept(make_task(**changes))


def test_parts_keep_one_parts_activations(make_task: Callable[..., Pretrain]) -> None:
    changes = {"depth": 6, "num_fused_layers": 4}
    assert most_kept(make_task(**changes), 2) < 0.4 * most_kept(make_task(**changes))


def test_gradients_of_the_trunk_wait_for_its_one_backward_pass(make_task: Callable[..., Pretrain],
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    task, waiting = make_task(), []

    class Watched(Cut):
        def total(self) -> Tensor:
            waiting.extend(self._receivers[i] for i in self._gradients)
            return super().total()

    monkeypatch.setattr(Pretrain, "cut", Watched)
    run(task)
    names = {id(p): name for name, p in task.named_parameters()}
    found = {names.get(id(x), "shared") for x in waiting}
    assert "shared" in found and any(".fusion." in name for name in found)
    assert not [name for name in found if "embed" in name or ".blocks.0." in name]

"""Compiled layers compute the same as others, without graph breaks, and a machine that can't compile is told so."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import KINDS, draw_parameters, make_clips, make_config
from torch._dynamo.utils import counters

from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.model import compilation
from egovlpv2.model.backbone import Backbone
from egovlpv2.model.space_time_block import SpaceTimeBlock
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.pretrain import Pretrain


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()
    counters.clear()


def make_task(tokenizer: str, compiled: bool, **changes: object) -> Pretrain:
    torch.manual_seed(0)
    task = Pretrain(make_config(tokenizer, compile=compiled, **changes), OptimizerConfig(), masked_share=0.4)
    draw_parameters(task)
    return task.eval()  # no dropout, whose random numbers a compiled layer draws otherwise


def step(task: Pretrain, clips: int = 4, length: int = 7) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    batch = make_clips(clips)
    batch["text"] = {name: value[:, :length] for name, value in batch["text"].items()}
    total, losses = task.objectives(batch, torch.Generator().manual_seed(2))
    total.backward()
    return ({name: loss.item() for name, loss in losses.items()},
            {name: p.grad for name, p in task.named_parameters() if p.grad is not None})


@pytest.mark.slow
@pytest.mark.parametrize("changes", KINDS)
def test_a_compiled_step_gives_the_losses_and_gradients_of_a_plain_one(tokenizer: str, changes: dict[str, str]) -> None:
    losses, found = step(make_task(tokenizer, True, **changes))
    plain, expected = step(make_task(tokenizer, False, **changes))
    assert losses == pytest.approx(plain, rel=1e-5)
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, atol=1e-4 * float(grad.norm()) + 1e-6, rtol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"num_fused_layers": 1}])
def test_no_part_of_a_video_layer_runs_uncompiled(tokenizer: str, monkeypatch: pytest.MonkeyPatch,
                                                  changes: dict[str, int]) -> None:
    for name in ("_attend", "_join"):
        monkeypatch.setattr(SpaceTimeBlock, name, only_compiled(getattr(SpaceTimeBlock, name)))
    task = make_task(tokenizer, False, **changes)
    with pytest.raises(AssertionError, match="uncompiled"):
        step(task)
    compilation.compile_layers([*task.backbone.video_tower.blocks, *task.backbone.text_tower.blocks], "aot_eager")
    step(task)


def only_compiled(method: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def checked(*args: object) -> torch.Tensor:
        assert torch.compiler.is_compiling(), "uncompiled"
        return method(*args)

    return checked


@pytest.mark.parametrize("changes", [KINDS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])])
def test_layers_compile_whole_and_once_for_each_shape(tokenizer: str, changes: dict[str, str]) -> None:
    task = make_task(tokenizer, False, **changes)
    backbone = task.backbone
    stack = [backbone.stack] if backbone.stack else []
    compilation.compile_layers([*backbone.video_tower.blocks, *backbone.text_tower.blocks, *stack], "aot_eager")
    losses, _ = step(task)
    assert losses == pytest.approx(step(make_task(tokenizer, False, **changes))[0], rel=1e-5)
    compiled = counters["stats"]["unique_graphs"]
    assert compiled and not counters["graph_break"]
    step(task)
    assert counters["stats"]["unique_graphs"] == compiled
    step(task, length=5)  # compiled anew, for any length
    again = counters["stats"]["unique_graphs"]
    assert again <= 2 * compiled
    step(task, length=6)
    assert counters["stats"]["unique_graphs"] == again


def test_checkpoints_are_those_of_a_plain_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = Backbone(make_config())
    compiled = Backbone(make_config(compile=True, gradient_checkpointing="trunk"))
    compiled.load_state_dict(plain.state_dict())
    for name, backbone in (("a", plain), ("b", compiled)):
        save_backbone(backbone, tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("missing, message", [("compiler", r"needs the C\+\+ compiler nowhere/g\+\+"),
                                              ("headers", "needs Python's headers")])
def test_a_machine_that_cannot_compile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str, message: str
                                       ) -> None:
    if missing == "compiler":
        monkeypatch.setenv("CXX", "nowhere/g++")
    else:
        monkeypatch.setenv("CXX", sys.executable)
        monkeypatch.setattr(compilation.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(ValueError, match=f"^backbone.compile: torch.compile {message}"):
        Backbone(make_config(compile=True))

"""Steps of training on a GPU: under DDP, compiled, timed, and in a run that goes on from a checkpoint."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers import ROOT, draw_parameters, make_clips, make_config
from lightning import Callback
from lightning.pytorch.utilities import move_data_to_device
from torch.nn.parallel import DistributedDataParallel
from training.small_run import EPOCHS, STEPS, fit, outcome

from egovlpv2.bench.measure import UTILISATION
from egovlpv2.cli import main as cli
from egovlpv2.device import autocast
from egovlpv2.model.compilation import check_compiler
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks import bench_step
from egovlpv2.tasks.pretrain import Pretrain

pytestmark = pytest.mark.gpu


class Step(torch.nn.Module):
    """A step of pre-training as a forward pass, as Lightning's DDP has it."""

    def __init__(self, tokenizer: str, device: torch.device, **changes: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.task = Pretrain(make_config(tokenizer, **changes), OptimizerConfig(), masked_share=0.4,
                             negative_temperature=float("inf")).eval()
        draw_parameters(self.task)
        self.to(device)

    def forward(self) -> torch.Tensor:
        torch.manual_seed(1)
        device = next(self.parameters()).device  # Lightning's `device` knows only moves of the task itself
        batch = move_data_to_device(make_clips(8), device)
        return self.task.objectives(batch, torch.Generator().manual_seed(2)).total


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The loss and the gradients of a step."""
    loss = module()
    loss.backward()
    step = module.module if isinstance(module, DistributedDataParallel) else module
    return {"loss": loss.detach(), **{name: p.grad for name, p in step.named_parameters() if p.grad is not None}}


def check_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys() and len(expected) > 50
    for name, value in expected.items():
        atol = tolerance * float(value.norm()) + 1e-6
        torch.testing.assert_close(found[name], value, atol=atol, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture
def one_process(device: torch.device, tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_step_under_ddp_is_a_plain_one(precision: Any, tokenizer: str, device: torch.device, one_process: None
                                         ) -> None:
    with autocast(precision, device):
        plain = gradients(Step(tokenizer, device))
        found = gradients(DistributedDataParallel(Step(tokenizer, device)))
    check_same(found, plain, 1e-3 if precision == "32" else 0.02)


def test_a_compiled_step_is_a_plain_one(tokenizer: str, device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("compilation on a CPU takes long: tests/model/test_compilation.py has it")
    try:
        check_compiler()
    except ValueError as error:
        pytest.skip(str(error))
    check_same(gradients(Step(tokenizer, device, compile=True)), gradients(Step(tokenizer, device)), 5e-3)


class Crash(Callback):
    """Breaks a run off in its second epoch, between two checkpoints."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == STEPS + 3:
            raise RuntimeError("crash")


def test_a_run_that_goes_on_from_a_checkpoint_is_the_uninterrupted_one(device: torch.device, tmp_path: Path) -> None:
    options: dict[str, Any] = {"accelerator": "gpu" if device.type == "cuda" else "cpu", "devices": 1}
    fit(tmp_path / "whole", 4, **options)
    with pytest.raises(RuntimeError, match="crash"):
        fit(tmp_path / "broken", 4, Crash(), **options)
    trainer = fit(tmp_path / "broken", 4, **options)
    assert trainer.strategy.root_device.type == device.type
    whole, resumed = outcome(tmp_path / "whole"), outcome(tmp_path / "broken")
    assert whole["last"]["steps"] == resumed["last"]["steps"] == STEPS * EPOCHS
    for tag in ("train/loss", "val/score"):
        assert resumed[tag] == pytest.approx(whole[tag], rel=1e-4, abs=1e-5)
    for name, weights in whole["last"]["weights"].items():
        torch.testing.assert_close(torch.tensor(resumed["last"]["weights"][name]), torch.tensor(weights))


def test_a_timed_step_has_its_share_of_the_peak(device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                ) -> None:
    monkeypatch.setattr(bench_step, "alone", lambda measure, *args: measure(*args))  # on a CPU too, which is faster
    config = str(ROOT / "conf" / "model" / "tiny.yaml")
    cli(["bench", "step", "--config", config, "--device", device.type, "--precision", "bf16", "--batch-size", "2",
         "--repeats", "1", "--variants", "one_graph", "--peak-tflops", "100", "--out", str(tmp_path / "step.json")])
    content = json.loads((tmp_path / "step.json").read_text())
    assert content["precision"] == "bf16" and UTILISATION in {row["what"] for row in content["figures"]}

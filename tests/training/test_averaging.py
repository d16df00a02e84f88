"""The average of the weights is what is validated, kept and tested, and a resumed run goes on with both."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from training.small_run import EPOCHS, STEPS, RowsDataModule, SmallTask, fit, make_trainer, outcome
from training.test_resume import HOOKS, Crash

from egovlpv2.training.averaging import WeightAverage

DECAY = 0.8


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of an uninterrupted run with the average, and the weights that it goes on with."""
    return run(tmp_path_factory.mktemp("whole") / "run")


def run(folder: Path, *callbacks: Any) -> dict[str, Any]:
    fit(folder, 4, WeightAverage(DECAY), *callbacks)
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return outcome(folder) | {"current": {k: v.tolist() for k, v in last["current_model_state"].items()}}


@pytest.mark.parametrize("hook", HOOKS)
def test_a_run_broken_off_in_any_hook_goes_on_as_if_nothing_had_been(hook: str, whole: dict, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="crash"):
        run(tmp_path / "run", Crash(hook, 1 if hook in ("on_train_end", "on_fit_end") else 2))
    assert run(tmp_path / "run") == whole


class Recorder(WeightAverage):
    """Keeps the weights of each step, and those of each validation."""

    def __init__(self) -> None:
        super().__init__(DECAY)
        self.steps: list[Tensor] = []
        self.validated: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        self.steps.append(pl_module.net[0].weight.detach().clone())

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.validated.append(pl_module.net[0].weight.detach().clone())


def test_a_checkpoint_has_the_average_by_formula_and_the_weights_beside_it(tmp_path: Path) -> None:
    recorder = Recorder()
    fit(tmp_path / "run", 100, recorder)
    average, after_epochs = recorder.steps[0], []
    for i, weights in enumerate(recorder.steps[1:], 2):
        average = DECAY * average + (1 - DECAY) * weights
        after_epochs += [average] if i % STEPS == 0 else []
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    torch.testing.assert_close(last["state_dict"]["net.0.weight"], average)
    assert torch.equal(last["current_model_state"]["net.0.weight"], recorder.steps[-1])
    for i, wanted in enumerate(after_epochs):
        torch.testing.assert_close(recorder.validated[2 * i], wanted)
    assert len(after_epochs) == EPOCHS


def test_after_a_fit_the_loaded_weights_are_validated(tmp_path: Path) -> None:
    """Lightning's own callback would exchange them with the last average."""
    average = WeightAverage(DECAY)
    trainer = make_trainer(tmp_path / "run", 100, average)
    torch.manual_seed(0)
    task, data = SmallTask(), RowsDataModule()
    trainer.fit(task, data)
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    state = next(value for key, value in best["callbacks"].items() if key.startswith("BestCheckpoint"))
    (again,) = trainer.validate(task, data, ckpt_path=tmp_path / "run" / "checkpoints" / "best.ckpt", verbose=False)
    assert again["val/score"] == pytest.approx(float(state["best_model_score"]))
    assert torch.equal(task.net[0].weight, best["state_dict"]["net.0.weight"])


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_is_no_share_is_named(decay: float) -> None:
    with pytest.raises(ValueError, match=f"WeightAverage: decay is {decay}, give a number from 0 to less than 1"):
        WeightAverage(decay)

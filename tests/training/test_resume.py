"""A run that is interrupted anywhere, any number of times, equals an uninterrupted one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from training.small_run import EPOCHS, STEPS, RowsDataModule, SmallTask, fit, outcome

from egovlpv2.training.resume import settle

HOOKS = ("on_train_epoch_start", "on_train_batch_start", "on_train_batch_end", "on_train_step_end",
         "on_validation_epoch_start", "on_validation_batch_end", "on_validation_end", "on_train_epoch_end",
         "on_train_end", "on_fit_end")


class Crash(Callback):
    """Breaks a run off at the n-th call of a hook."""

    def __init__(self, hook: str, at: int) -> None:
        self.left = at

        def count(*_: Any, **__: Any) -> None:
            self.left -= 1
            if self.left == 0:
                raise RuntimeError("crash")

        setattr(self, hook, count)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    fit(folder, 100)
    found = outcome(folder)
    assert found["last"]["steps"] == STEPS * EPOCHS and len(found["train/loss"]) == STEPS * EPOCHS
    assert len(set(found["val/score"].values())) == len(found["bias"]) == EPOCHS
    assert found["best"]["best"] == pytest.approx(max(found["val/score"].values()))
    return found


def crash(folder: Path, every: int, hook: str, at: int, **options: Any) -> None:
    """Run, or go on, up to the n-th call of a hook."""
    with pytest.raises(RuntimeError, match="crash"):
        fit(folder, every, Crash(hook, at), **options)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_run_broken_off_in_any_hook_goes_on_as_if_nothing_had_been(hook: str, whole: dict, tmp_path: Path) -> None:
    for every in (4, 6):
        folder = tmp_path / str(every)
        crash(folder, every, hook, 1 if hook in ("on_train_end", "on_fit_end") else 2)
        fit(folder, every)
        assert outcome(folder) == whole, every


def test_a_run_broken_off_many_times_goes_on_as_if_nothing_had_been(whole: dict, tmp_path: Path) -> None:
    for hook, at in (("on_validation_epoch_start", 1), ("on_validation_end", 1), ("on_train_batch_start", 3),
                     ("on_train_epoch_end", 1), ("on_train_step_end", 4), ("on_validation_batch_end", 2),
                     ("on_train_end", 1)):
        crash(tmp_path / "run", 6, hook, at)
    fit(tmp_path / "run", 6)
    assert outcome(tmp_path / "run") == whole
    fit(tmp_path / "run", 6)  # a run that has ended stays as it is
    assert outcome(tmp_path / "run") == whole


@pytest.mark.parametrize("options", [
    {"val_check_interval": 2}, {"check_val_every_n_epoch": 2}, {"accumulate_grad_batches": 2},
    {"limit_train_batches": 5}, {"max_epochs": EPOCHS, "max_steps": 16},
])
def test_other_rhythms_go_on_too(options: dict[str, Any], tmp_path: Path) -> None:
    fit(tmp_path / "whole", 100, **options)
    expected = outcome(tmp_path / "whole")
    for number, (hook, at) in enumerate((("on_train_batch_start", 6), ("on_validation_batch_end", 2),
                                         ("on_train_epoch_end", 2))):
        folder = tmp_path / str(number)
        crash(folder, 2, hook, at, **options)
        fit(folder, 2, **options)
        assert outcome(folder) == expected, hook


@pytest.mark.parametrize("every", [2, 6])
def test_checkpoints_of_lightnings_own_callback_go_on_too(every: int, whole: dict, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    save = ModelCheckpoint(save_top_k=0, save_last=True, every_n_train_steps=every, enable_version_counter=False)
    crash(folder, every, "on_validation_batch_end", 3, save_last=save)
    fit(folder, 100)
    found = outcome(folder)
    assert {key: found[key] for key in ("best", "last", "val/score")} == {
        key: whole[key] for key in ("best", "last", "val/score")}


def test_a_best_checkpoint_goes_on_too(whole: dict, tmp_path: Path) -> None:
    fit(tmp_path / "run", 100, max_epochs=EPOCHS)
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "best.ckpt").replace(checkpoints / "last.ckpt")
    (checkpoints / "last.ckpt").with_name("best.ckpt").write_bytes((checkpoints / "last.ckpt").read_bytes())
    fit(tmp_path / "run", 100)
    assert outcome(tmp_path / "run") == whole


def test_the_best_of_a_renamed_run_stays_the_best(whole: dict, tmp_path: Path) -> None:
    crash(tmp_path / "run", 2, "on_train_batch_start", 2 * STEPS + 4)
    (tmp_path / "run").rename(tmp_path / "renamed")
    fit(tmp_path / "renamed", 2)
    assert outcome(tmp_path / "renamed") == whole


def test_counters_of_any_hook_settle_in_one_form() -> None:
    def tracker(*numbers: int) -> dict[str, int]:
        return dict(zip(("ready", "started", "processed", "completed"), numbers, strict=True))

    def state(epoch: tuple[int, ...], batch: tuple[int, ...]) -> dict[str, Any]:
        both = {"total": tracker(*(6 * epoch[3] + n for n in batch)), "current": tracker(*batch)}
        return {"epoch_progress": {"total": tracker(*epoch), "current": tracker(*epoch)},
                "epoch_loop.batch_progress": both | {"is_last_batch": batch[2] == 6},
                "epoch_loop.val_loop.batch_progress": both, "state_dict": {"combined_loader": [1]}}

    for epoch, batch, started, done in (
        ((2, 2, 1, 1), (4, 3, 3, 3), 2, 3),  # on_train_batch_start
        ((2, 2, 1, 1), (3, 3, 3, 2), 2, 3),  # on_train_batch_end
        ((2, 2, 1, 1), (6, 6, 6, 5), 2, 6),  # the same after an epoch's last step
        ((2, 2, 1, 1), (6, 6, 6, 6), 2, 6),  # in validation
        ((2, 2, 2, 1), (6, 6, 6, 6), 2, 0),  # on_train_epoch_end
        ((3, 2, 2, 2), (6, 6, 6, 6), 2, 0),  # on_train_epoch_start
        ((2, 2, 2, 2), (6, 6, 6, 6), 2, 0),  # after the last epoch
    ):
        settled = settle(state(epoch, batch))
        finished = epoch[2]
        assert settled["epoch_progress"]["current"] == tracker(started, started, finished, finished)
        assert settled["epoch_loop.batch_progress"]["current"] == tracker(done, done, done, done)
        assert settled["state_dict"] == {} and not any(".val_loop." in key for key in settled)


def test_a_resumed_run_follows_its_present_settings(tmp_path: Path) -> None:
    crash(tmp_path / "run", 2, "on_train_batch_start", 9)
    trainer = fit(tmp_path / "run", 2, task=SmallTask(lr=0.01), max_epochs=5)
    rates = [event for event in trainer.optimizers[0].param_groups]
    assert {group["initial_lr"] for group in rates} == {0.01}
    assert trainer.global_step == 5 * STEPS and rates[0]["lr"] == pytest.approx(1e-7)


@pytest.mark.parametrize("options, words", [
    ({"max_epochs": 1}, "last.ckpt is in epoch 2 and trainer.max_epochs is 1"),
    ({"max_steps": 5}, "last.ckpt has 8 steps behind it and trainer.max_steps is 5"),
    ({"task": SmallTask(width=9)}, r"last.ckpt does not fit SmallTask as it is configured: net.0.weight is \(8, 4\) in "
                                   r"the file and \(9, 4\) here; it looks like a checkpoint of SmallTask"),
    ({"data": RowsDataModule(rows=20)}, "in the middle of epoch 1 of other training data"),
    ({"limit_train_batches": 1}, "written after batch 2 of an epoch, and epochs have 1 batches now"),
])
def test_a_run_that_cannot_go_on_says_why(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    crash(tmp_path / "run", 2, "on_train_batch_start", 9)
    before = (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes()
    with pytest.raises(ValueError, match=words):
        fit(tmp_path / "run", 2, **options)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes() == before


def test_counts_go_on_where_they_were(tmp_path: Path) -> None:
    data = RowsDataModule()
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    data.trainer = trainer
    data.train_dataloader()
    data.counts |= {"train_clips": 12, "replaced_clips": 1}
    again = RowsDataModule()
    again.load_state_dict(data.state_dict())
    assert again.counts["train_clips"] == 12 and again.counts["replaced_clips"] == 1
    assert torch.initial_seed() is not None

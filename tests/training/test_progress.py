"""A run whose output is not a terminal shows its progress as lines."""

import logging
import re
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from torch.optim import SGD
from torch.utils.data import DataLoader
from training.small_run import EPOCHS, RowsDataModule, SmallTask, fit, make_trainer
from training.test_killed_fits import arguments

from egovlpv2.train_cli import EgoCLI, run
from egovlpv2.training import progress
from egovlpv2.training.progress import ProgressLines
from egovlpv2.training.report import ParameterSummary


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == progress.__name__]


def test_a_training_has_a_line_at_each_tenth_and_after_each_validation(tmp_path: Path, caplog: pytest.LogCaptureFixture
                                                                       ) -> None:
    with caplog.at_level(logging.INFO):
        fit(tmp_path / "run", 100, ProgressLines(), data=RowsDataModule(rows=28), max_epochs=EPOCHS)  # of 14 steps
    steps = [line for line in lines(caplog) if line.startswith("step ")]
    assert [int(re.findall(r"\d+", line)[0]) for line in steps] == [*range(4, 41, 4), 42]
    for line in steps:
        assert re.fullmatch(r"step \d+ of 42, epoch [123], train/loss \d+\.\d{4}, [\d.e+]+ rows/s, about 0:\d\d:\d\d "
                            "left", line)
    validated = [line for line in lines(caplog) if line.startswith("validated ")]
    assert [line.partition(":")[0] for line in validated] == [
        f"validated after step {14 * epoch}, epoch {epoch}" for epoch in (1, 2, 3)]
    assert all(re.search(r": val/score -?\d\.\d{4} \(\d+ s\)$", line) for line in validated)


def test_a_slow_training_has_lines_between(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LONGEST", 0.0)
    with caplog.at_level(logging.INFO):
        fit(tmp_path / "run", 100, ProgressLines(), data=RowsDataModule(rows=48), max_epochs=1)
    assert len([line for line in lines(caplog) if line.startswith("step ")]) == 24


def test_a_training_without_an_end_has_lines_without_one(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(SmallTask):
        def configure_optimizers(self) -> Any:
            return SGD(self.parameters(), 0.1)

    class Ends(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
            trainer.should_stop = trainer.global_step == 3

    monkeypatch.setattr(progress, "_LONGEST", 0.0)
    with caplog.at_level(logging.INFO):
        fit(tmp_path / "run", 100, ProgressLines(), Ends(), task=Endless(), data=RowsDataModule(rows=28), max_epochs=-1)
    steps = [line for line in lines(caplog) if line.startswith("step ")]
    assert len(steps) == 3
    assert re.fullmatch(r"step 3, epoch 1, train/loss \d+\.\d{4}, [\d.e+]+ rows/s", steps[-1])


def test_a_schedule_needs_an_end(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^the learning rate's schedule needs trainer.max_epochs"):
        fit(tmp_path / "run", 100, max_epochs=-1)


def test_rows_are_those_of_a_step(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
                                  ) -> None:
    task = SmallTask()
    task.contrastive_batch = 4  # of two computed at a time
    monkeypatch.setattr(progress, "_LONGEST", 0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=count().__next__))  # a second from step to step
    with caplog.at_level(logging.INFO):
        fit(tmp_path / "run", 100, ProgressLines(), task=task, data=RowsDataModule(rows=12), max_epochs=1)
    steps = [line for line in lines(caplog) if line.startswith("step ")]
    assert len(steps) == 3 and all(", 4 rows/s, " in line for line in steps)


def test_an_evaluation_has_lines_if_it_is_long(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    class Long(RowsDataModule):
        def val_dataloader(self) -> DataLoader:
            return self.train_dataloader()

    trainer = make_trainer(tmp_path / "run", 100, ProgressLines())
    with caplog.at_level(logging.INFO):
        trainer.validate(SmallTask(), Long(rows=40), verbose=False)
        assert not lines(caplog)
        monkeypatch.setattr(progress, "_SHORTEST", 0.0)
        trainer.validate(SmallTask(), Long(rows=40), verbose=False)
    assert lines(caplog) == [f"batch {number} of 20" for number in range(2, 21, 2)]


@pytest.mark.parametrize(("terminal", "asked"), [(True, True), (False, True), (False, False)])
def test_lines_stand_in_for_a_bar_where_it_does_not_show(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         terminal: bool, asked: bool) -> None:
    found: list[EgoCLI] = []

    def stop(self: EgoCLI, subcommand: str) -> None:
        found.append(self)

    monkeypatch.setattr(EgoCLI, "_run_subcommand", stop)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    options = [option for option in arguments(toy, 2) if "enable_progress_bar" not in option]
    run([*options, f"--trainer.logger.init_args.save_dir={tmp_path}", f"--trainer.enable_progress_bar={asked}",
         "--trainer.callbacks+=lightning.pytorch.callbacks.ModelSummary", "--trainer.callbacks.init_args.max_depth=3"])
    summary, = (one for one in found[0].trainer.callbacks if isinstance(one, ParameterSummary))
    assert summary._max_depth == 3
    kinds = {type(one) for one in found[0].trainer.callbacks}
    assert bool(kinds & {RichProgressBar, TQDMProgressBar}) == terminal
    assert (ProgressLines in kinds) == (asked and not terminal)

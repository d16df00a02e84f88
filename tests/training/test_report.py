"""The report of a run is written after each stage and printed once."""

import json
from pathlib import Path

import pytest
from training.small_run import RowsDataModule, SmallTask, fit, make_trainer

from egovlpv2.training.report import FinalReport


def test_each_stage_writes_and_the_end_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, run = FinalReport(), tmp_path / "run"
    trainer = fit(run, 100, report, max_epochs=1)
    assert json.loads((run / "metrics.json").read_text())["protocol"]["command"] == "fit"
    best = run / "checkpoints" / "best.ckpt"
    trainer.validate(SmallTask(), RowsDataModule(), ckpt_path=str(best), verbose=False, weights_only=True)
    assert json.loads((run / "metrics.json").read_text())["protocol"]["command"] == "validate"
    assert "Metrics" not in capsys.readouterr().out
    report.show()
    printed = capsys.readouterr().out
    assert printed.startswith(f"\nMetrics at the end of training; val/ and test/ are of {best}:\n")
    assert "  train/loss" in printed and "\nProtocol:\n  command validate, " in printed
    assert printed.endswith(f"\nwritten: {run / 'metrics.json'}\n")


def test_the_report_of_an_evaluation_names_its_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = FinalReport()
    report.show()  # nothing was run
    assert not capsys.readouterr().out
    make_trainer(tmp_path / "run", 100, report).validate(SmallTask(), RowsDataModule(), verbose=False)
    report.show()
    assert capsys.readouterr().out.startswith("\nMetrics of validate, of new weights:\n  val/score ")

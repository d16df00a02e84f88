"""A sweep runs each overlay once, keeps finished rows with the same settings, and collects their numbers."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from egovlpv2.analysis import sweep as module
from egovlpv2.analysis.sweep import sweep
from egovlpv2.cli import main as cli


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three overlays, beside a base."""
    (tmp_path / "gate").mkdir()
    (tmp_path / "base.yaml").write_text("model: {init_args: {alpha: null}}")
    for name, alpha in (("a", 0.1), ("b", 0.5), ("c", 1.0)):
        (tmp_path / "gate" / f"{name}.yaml").write_text(f"model: {{init_args: {{alpha: {alpha}}}}}")
    return tmp_path / "gate"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The command lines of rows that a stand-in for `egovlpv2 fit` has run."""
    done: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        options = dict(part.removeprefix("--").split("=", 1) for part in command[4:] if "=" in part)
        overlay = [part for part in command if part.startswith("--config=")][-1].partition("=")[2]
        settings = yaml.safe_load(Path(overlay).read_text()) | {"trainer": {"max_epochs": options.get("epochs", "1")}}
        if "--print_config" in command:
            return SimpleNamespace(returncode=0, stdout=yaml.safe_dump(settings), stderr="")
        done.append(command[3:])
        if options.get("fails") == Path(overlay).stem:
            return SimpleNamespace(returncode=3)
        run_folder = Path(options["trainer.logger.init_args.save_dir"], options["trainer.logger.init_args.name"])
        run_folder.mkdir(parents=True, exist_ok=True)
        (run_folder / "config.yaml").write_text(yaml.safe_dump(settings))
        alpha = settings["model"]["init_args"]["alpha"]
        (run_folder / "metrics.json").write_text(json.dumps({"metrics": {"test/x": alpha or 0.0}, "protocol": {}}))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=run))
    return done


def start(folder: Path, *options: str, **more: Any) -> module.SweepReport:
    return sweep(folder, [str(folder.parent / "base.yaml")], "gate", runs=folder.parent / "runs",
                 options=list(options), **more)


def test_each_overlay_is_a_row_and_finished_rows_stay(folder: Path, calls: list[list[str]]) -> None:
    report = start(folder, "seed={row}", full="all/full", out=folder.parent / "x.json")
    assert report.done == ["full", "a", "b", "c"] and not report.kept
    assert calls[1] == ["fit", f"--config={folder.parent / 'base.yaml'}", f"--config={folder / 'a.yaml'}", "--seed=a",
                        f"--trainer.logger.init_args.save_dir={folder.parent / 'runs'}",
                        "--trainer.logger.init_args.name=gate/a"]
    assert report.numbers.table["test/x"].tolist() == [0.0, 0.1, 0.5, 1.0]
    assert json.loads((folder.parent / "x.json").read_text())["mean"]["test/x"] == pytest.approx(0.4)
    again = start(folder, "seed={row}", full="all/full")
    assert again.kept == ["full", "a", "b", "c"] and len(calls) == 4
    assert "rows run: none, kept as they were: full, a, b, c" in str(again)


def test_a_row_with_other_settings_is_run_again(folder: Path, calls: list[list[str]],
                                                capsys: pytest.CaptureFixture[str]) -> None:
    start(folder)
    (folder / "b.yaml").write_text("model: {init_args: {alpha: 0.7}}")
    report = start(folder)
    assert report.done == ["b"] and report.kept == ["a", "c"]
    assert "model.init_args.alpha is 0.7 from here on; it was 0.5" in capsys.readouterr().err
    assert start(folder, "epochs=2").done == ["a", "b", "c"]


def test_rows_are_run_again_when_their_weights_are_new(folder: Path, calls: list[list[str]]) -> None:
    weights = folder.parent / "w.ckpt"
    weights.write_text("first")
    (folder / "a.yaml").write_text(f"model: {{init_args: {{alpha: 0.1, weights: {weights}}}}}")
    start(folder)
    os.utime(weights, (2e9, 2e9))
    assert start(folder).done == ["a"]


def test_a_row_that_fails_is_named_and_the_others_stay(folder: Path, calls: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="row b has failed with exit code 3; rows before it are finished"):
        start(folder, "fails=b")
    assert start(folder).kept == ["a"]


def test_a_folder_without_overlays_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="^egovlpv2 sweep: error: .* holds no overlays"):
        cli(["sweep", str(tmp_path), "--base", "conf/qfvs.yaml", "--name", "x"])


def test_settings_that_cannot_be_read_are_named(folder: Path, calls: list[list[str]],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    start(folder)
    monkeypatch.setattr(module, "subprocess", subprocess)
    with pytest.raises(ValueError, match="the settings of .*gate/a can't be read: egovlpv2 fit: error: "):
        start(folder, "no.such.key=1")


def test_a_row_that_was_killed_or_ran_another_command_is_run_again(folder: Path, calls: list[list[str]]) -> None:
    start(folder)
    (folder.parent / "runs" / "gate" / "a" / "sweep.json").unlink()  # killed after the numbers of its validation
    assert start(folder).done == ["a"]
    assert start(folder, command="test").done == ["a", "b", "c"]


def test_a_row_with_another_checkpoint_or_other_monitoring_is_run_again(folder: Path, calls: list[list[str]]) -> None:
    start(folder)
    for row, more in (("a", "best_checkpoint: {monitor: val/loss}"), ("b", "ckpt_path: last.ckpt")):
        with (folder / f"{row}.yaml").open("a") as file:
            file.write(f"\n{more}\n")
    assert start(folder).done == ["a", "b"]


def test_the_base_does_not_share_the_run_of_a_row(folder: Path, calls: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="--full gate/a is the run of a row"):
        start(folder, full="gate/a")
    assert not calls


@pytest.mark.parametrize(("more", "problem"), [
    ({"metrics": "["}, r"--metrics '\[' is not a regular expression"),
    ({"out": "."}, "--out . is a folder: give the name of a file"),
    ({"plot": "."}, "--plot . is a folder"), ({"out": "x/metrics.json"}, "the name of a run's own report"),
])
def test_options_are_refused_before_the_rows_run(folder: Path, calls: list[list[str]], more: dict[str, str],
                                                 problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        start(folder, **more)
    (folder.parent / "base.yaml").unlink()
    with pytest.raises(ValueError, match=r"--base .*base.yaml is missing: .*`egovlpv2 configs --out conf`"):
        start(folder)
    assert not calls


@pytest.mark.parametrize("option", ["trainer.logger.init_args.name=other", "trainer.logger.init_args.save_dir=x"])
def test_runs_that_would_lie_elsewhere_than_they_are_read_are_refused(folder: Path, calls: list[list[str]],
                                                                      option: str) -> None:
    with pytest.raises(ValueError, match=f"--options {option}: a row's numbers are read from RUNS/NAME/ROW"):
        start(folder, option)
    assert not calls


def test_rows_do_not_import_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sys, "executable", str(tmp_path / "python"))
    assert module._program((3, 10))[1:] == module._program((3, 11))[1:] == ["-m", "egovlpv2.cli"]
    (tmp_path / "egovlpv2").touch()
    assert module._program((3, 10))[1:] == [str(tmp_path / "egovlpv2")]  # its folder is searched, not the current one
    assert module._program((3, 11))[1:] == ["-m", "egovlpv2.cli"] and module._environment()["PYTHONSAFEPATH"] == "1"

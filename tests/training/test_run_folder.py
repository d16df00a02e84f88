"""A run has its folder to itself, and doesn't overwrite an earlier run."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from egovlpv2.io.files import write_report
from egovlpv2.training.run_folder import give_back, take_folder
from egovlpv2.training.settings import changed_settings


def claim(folder: Path, started, end) -> None:  # noqa: ANN001 (events of another process)
    take_folder(folder, keep=False)
    (folder / "metrics.json").write_text(str(os.getpid()))
    started.set()
    end.wait(60)


def race(folder: Path, number: int) -> None:
    try:
        take_folder(folder, keep=False)
        (folder / "metrics.json").write_text(str(number))
    except ValueError as error:
        (folder.parent / f"refused{number}").write_text(str(error))


def test_an_earlier_run_is_set_aside_under_the_first_free_number(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for number in range(3):
        take_folder(folder, keep=False)
        (folder / "metrics.json").write_text(str(number))
    assert [(tmp_path / name / "metrics.json").read_text() for name in ("run.1", "run.2", "run")] == ["0", "1", "2"]
    take_folder(folder, keep=True)
    assert (folder / "metrics.json").read_text() == "2" and not (tmp_path / "run.3").exists()


def test_an_earlier_run_comes_back_unless_there_are_results(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert take_folder(folder, keep=False) is None
    (folder / "metrics.json").write_text("earlier")
    aside = take_folder(folder, keep=False)
    assert aside == tmp_path / "run.1"
    (folder / "config.yaml").write_text("of a run that was refused")
    give_back(folder, aside)
    assert (folder / "metrics.json").read_text() == "earlier" and not aside.exists()
    aside = take_folder(folder, keep=False)
    assert aside is not None
    (folder / "checkpoints").mkdir()
    give_back(folder, aside)
    assert (folder / "checkpoints").exists() and (aside / "metrics.json").read_text() == "earlier"


def test_a_folder_in_use_is_refused_to_others(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    started, end = context.Event(), context.Event()
    process = context.Process(target=claim, args=(tmp_path / "run", started, end))
    process.start()
    assert started.wait(60)
    for keep in (True, False):
        with pytest.raises(ValueError, match="run is in use by another run"):
            take_folder(tmp_path / "run", keep)
    end.set()
    process.join()
    take_folder(tmp_path / "run", keep=False)  # its process has ended
    assert (tmp_path / "run.1" / "metrics.json").is_file()


def test_runs_that_start_together_lose_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.json").write_text("earlier")
    processes = [multiprocessing.get_context("fork").Process(target=race, args=(folder, n)) for n in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    left = {path.read_text() for path in tmp_path.glob("run*/metrics.json")}
    refused = {path.name.removeprefix("refused") for path in tmp_path.glob("refused*")}
    assert left | refused == {"earlier", *map(str, range(6))} and not left & refused


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(OSError, match="runs"):
        take_folder(tmp_path / "runs" / "run", keep=False)


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_report(path, {"metrics": {"a": float("nan"), "b": [1.5, float("inf")]}, "c": (float("-inf"), 2)})
    text = path.read_text()
    assert json.loads(text) == {"metrics": {"a": None, "b": [1.5, None]}, "c": [None, 2]}
    assert "NaN" not in text and "Infinity" not in text


def test_settings_that_differ_are_named_with_both_values(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("model: {init_args: {optimizer: {lr: 0.1}}}\ntrainer: {max_epochs: 2, logger: {a: 1}}\n")
    now = "model: {init_args: {optimizer: {lr: 0.2}}}\ntrainer: {max_epochs: 3, logger: {a: 2}}\n"
    assert list(changed_settings(path, now)) == [
        f"model.init_args.optimizer.lr is 0.2 from here on; it was 0.1 in {path}",
        f"trainer.max_epochs is 3 from here on; it was 2 in {path}"]
    assert not list(changed_settings(path, path.read_text()))
    assert not list(changed_settings(tmp_path / "missing.yaml", now))
    path.write_text("a: [")
    with pytest.raises(ValueError, match="config.yaml is not YAML"):
        list(changed_settings(path, now))

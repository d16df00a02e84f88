"""Run a folder of overlays on one configuration, and collect the numbers: `egovlpv2 sweep`.

Ablations and leave-one-out evaluations are such folders: each YAML file in it is a row.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from tqdm import tqdm

from egovlpv2.analysis.collect import RunTable, check_pattern, check_targets, collect
from egovlpv2.io.files import write_json
from egovlpv2.io.schema import read_json
from egovlpv2.training.command_line import check_config_exists
from egovlpv2.training.settings import changed_settings

_DONE = "sweep.json"  # in a row's folder once its command has ended well
_MORE = ("best_checkpoint", "last_checkpoint", "ckpt_path")


@dataclass(frozen=True)
class SweepReport:
    """The rows of a sweep.

    Args:
        kept: Rows that had finished before with the same settings.
        done: Rows that were run.
        numbers: Of all rows.
    """

    kept: list[str]
    done: list[str]
    numbers: RunTable

    def __str__(self) -> str:
        kept = f", kept as they were: {', '.join(self.kept)}" if self.kept else ""
        return f"rows run: {', '.join(self.done) or 'none'}{kept}\n{self.numbers}"


def sweep(folder: str | Path, base: Sequence[str], name: str, *, command: Literal["fit", "test"] = "fit",
          full: str | None = None, runs: str | Path = "runs", options: Sequence[str] | None = None,
          metrics: str = "^test/", no_mean: bool = False, out: str | Path | None = None,
          plot: str | Path | None = None) -> SweepReport:
    """Run a folder of overlays on one configuration, and collect the numbers.

    Each row is a run in `RUNS/NAME/ROW`. A row that has finished with the same resolved settings is kept; one that
    has finished with others is run again, beside what was there.

    Args:
        folder: of overlays, a YAML file for each row
        base: configs in front of each overlay
        name: of the sweep's folder
        command: what each row runs
        full: also run the base alone, as the run of this name
        runs: folder of all runs
        options: more settings, KEY=VALUE as of `egovlpv2 fit --KEY=VALUE`; {row} stands for the row's name
        metrics: part of the metrics' names to collect, as a regular expression
        no_mean: leave out the mean of the rows
        out: write the numbers as JSON too
        plot: draw them as points, a line for each row

    Raises:
        ValueError: An option can't be used, the folder holds no overlays, or a row has failed.
    """
    check_pattern(metrics)
    check_targets(out, plot)
    for option in options or []:
        if option.startswith("trainer.logger"):
            raise ValueError(f"--options {option}: a row's numbers are read from RUNS/NAME/ROW, where the sweep puts "
                             "its run: name the sweep by --name, and their folder by --runs")
    for path in base:
        check_config_exists(path, "--base")
    rows = {path.stem: path for path in sorted(Path(folder).glob("*.yaml"))}
    if not rows:
        raise ValueError(f"{folder} holds no overlays (*.yaml): give a folder such as conf/ablation/gate (`egovlpv2 "
                         "configs --out conf` copies those that ship)")
    plan = [] if full is None else [_Row("full", full, None)]
    plan += [_Row(row, f"{name}/{row}", path) for row, path in rows.items()]
    if full in [row.run for row in plan[1:]]:
        raise ValueError(f"--full {full} is the run of a row of {folder}: give it another name")
    kept, done = [], []
    bar = tqdm(plan, unit="row")
    for row in bar:
        bar.set_description(row.name)
        arguments = _arguments(row, base, command, Path(runs), options or [])
        if _is_finished(Path(runs, row.run), arguments):
            kept.append(row.name)
            continue
        _call(row, arguments)
        write_json(Path(runs, row.run, _DONE), {"command": command})
        done.append(row.name)
    folders = [str(Path(runs, row.run)) for row in plan]
    return SweepReport(kept, done, collect(folders, metrics=metrics, no_mean=no_mean, out=out, plot=plot))


@dataclass(frozen=True)
class _Row:
    name: str
    run: str  # the folder in `runs`
    overlay: Path | None


def _arguments(row: _Row, base: Sequence[str], command: str, runs: Path, options: Sequence[str]) -> list[str]:
    """The command line of a row."""
    configs = [*base, *([str(row.overlay)] if row.overlay else [])]
    settings = [f"--{option.replace('{row}', row.name)}" for option in options]
    return [command, *(f"--config={path}" for path in configs), *settings,
            f"--trainer.logger.init_args.save_dir={runs}", f"--trainer.logger.init_args.name={row.run}"]


def _is_finished(folder: Path, arguments: Sequence[str]) -> bool:
    """Tell if a run has finished with the settings of a command line; says what differs if not."""
    if not ((folder / "metrics.json").is_file() and (folder / _DONE).is_file()):
        return False  # a killed run may have numbers of its validation
    read_json(folder / "metrics.json", dict[str, Any])
    if (before := read_json(folder / _DONE, dict[str, Any]).get("command")) != arguments[0]:
        tqdm.write(f"{folder} is run again: its command was {before}", file=sys.stderr)
        return False
    now = subprocess.run([*_program(), *arguments, "--print_config"], capture_output=True,
                         text=True, env=_environment())
    if now.returncode:
        lines = [line for line in now.stderr.splitlines() if "error" in line.lower()] or ["the command failed"]
        raise ValueError(f"the settings of {folder} can't be read: {lines[0]}")
    settings = yaml.safe_load(now.stdout)
    changed = list(changed_settings(folder / "config.yaml", yaml.safe_dump(settings), _MORE))
    changed += _newer_files(settings, (folder / "metrics.json").stat().st_mtime)
    for line in changed:
        tqdm.write(f"{folder} is run again: {line}", file=sys.stderr)
    return not changed and (folder / "config.yaml").is_file()


def _program(version: tuple[int, ...] = sys.version_info[:2]) -> list[str]:
    """The beginning of a row's command line; before Python 3.11 the script, as `-m` looks in the current folder."""
    script = Path(sys.executable).with_name("egovlpv2")
    if version < (3, 11) and script.is_file():
        return [sys.executable, str(script)]
    return [sys.executable, "-m", "egovlpv2.cli"]


def _environment() -> dict[str, str]:
    """This process's environment; Python files of the current folder don't take the place of modules (Python 3.11)."""
    return {**os.environ, "PYTHONSAFEPATH": "1"}


def _newer_files(settings: Any, when: float) -> Iterator[str]:
    """A line for each file in the settings, such as weights, that was written after a run ended."""
    if isinstance(settings, dict | list):
        for value in settings.values() if isinstance(settings, dict) else settings:
            yield from _newer_files(value, when)
    elif isinstance(settings, str) and len(settings) < 1000 and Path(settings).is_file():
        if Path(settings).stat().st_mtime > when:
            yield f"{settings} is newer"


def _call(row: _Row, arguments: Sequence[str]) -> None:
    tqdm.write(f"$ egovlpv2 {' '.join(arguments)}", file=sys.stderr)
    if code := subprocess.run([*_program(), *arguments], env=_environment()).returncode:
        raise ValueError(f"row {row.name} has failed with exit code {code}; rows before it are finished and stay: give "
                         "the same command to go on")

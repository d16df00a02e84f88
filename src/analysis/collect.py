"""Put the numbers of several runs side by side: `egovlpv2 collect`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import pandas as pd
from matplotlib.figure import Figure

from egovlpv2.io.files import atomic_write, finite, write_json
from egovlpv2.io.schema import read_json
from egovlpv2.viz.figures import drawable, png


class Report(TypedDict):
    """The part of a run's `metrics.json` that is read."""

    metrics: dict[str, float | None]


def check_pattern(pattern: str) -> None:
    """Refuse what is not a regular expression.

    Raises:
        ValueError: It isn't one; says what is wrong.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--metrics {pattern!r} is not a regular expression: {error}") from error


def check_targets(out: str | Path | None, plot: str | Path | None) -> None:
    """Refuse files to write that are folders, a run's own report, or one file.

    Raises:
        ValueError: One is; names the option.
    """
    for option, path in (("--out", out), ("--plot", plot)):
        if path is not None and Path(path).name == "metrics.json":
            raise ValueError(f"{option} {path}: that is the name of a run's own report: give another one")
        if path is not None and Path(path).is_dir():
            raise ValueError(f"{option} {path} is a folder: give the name of a file")
    if out is not None and plot is not None and Path(out).resolve() == Path(plot).resolve():
        raise ValueError(f"--out and --plot are both {out}: give two files")


def collect_table(runs: Sequence[Path], pattern: str) -> pd.DataFrame:
    """Make a table with a row for each run and a column for each of its metrics.

    Args:
        runs: Folders with a `metrics.json`.
        pattern: Part of the metrics' names, as a regular expression.

    Raises:
        ValueError: A run has not ended, its report is damaged, or no metric of theirs has such a name.
    """
    check_pattern(pattern)
    rows = {}
    for run in runs:
        path = run / "metrics.json"
        if not path.is_file():
            raise ValueError(f"{path} is missing: the run has not ended, or it is not the folder of a run")
        rows[str(run)] = {name: float("nan") if value is None else value
                          for name, value in read_json(path, Report)["metrics"].items()}
    table = pd.DataFrame.from_dict(rows, orient="index").filter(regex=pattern)
    if table.empty:
        raise ValueError(f"no metric of these runs is named like {pattern!r}; {runs[0]} has "
                         f"{', '.join(sorted(rows[str(runs[0])]))}")
    return table


@dataclass(frozen=True)
class RunTable:
    """Numbers of several runs.

    Args:
        table: A row for each run, a column for each metric.
        mean: Over the runs, of the metrics that all have; None where it was not asked for.
        written: Files that hold the table.
    """

    table: pd.DataFrame
    mean: pd.Series | None
    written: list[Path]

    def __str__(self) -> str:
        rows = self.table if self.mean is None else pd.concat([self.table, self.mean.to_frame("mean").T])
        return "\n".join([rows.round(2).to_string(na_rep="-"), *(f"written: {path}" for path in self.written)])


def collect(runs: Sequence[str], *, metrics: str = "^test/", no_mean: bool = False, out: str | Path | None = None,
            plot: str | Path | None = None) -> RunTable:
    """Collect the numbers of several runs side by side, and their mean.

    Args:
        runs: folders with a metrics.json
        metrics: part of the metrics' names, as a regular expression
        no_mean: leave out the mean of the runs
        out: write them as JSON too
        plot: draw them as points, a line for each run

    Raises:
        ValueError: A run has not ended, its report is damaged, or it has no such metric.
    """
    check_targets(out, plot)
    table = collect_table([Path(run) for run in runs], metrics)
    mean = None if no_mean else table.mean(skipna=False)
    written = [Path(path) for path in (out, plot) if path is not None]
    if out is not None:
        means = {} if mean is None else {"mean": mean.dropna().to_dict()}
        write_json(Path(out), finite({"runs": without_gaps(table), **means}))
    if plot is not None:
        save_plot(table, Path(plot))
    return RunTable(table, mean, written)


def without_gaps(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Convert the rows of a table for JSON, which has no NaN: None stands for what a run lacks."""
    return table.astype(object).where(table.notna(), None).to_dict("index")


def save_plot(table: pd.DataFrame, path: Path) -> None:
    """Draw a line for each row of a table and a point for each of its numbers, as a PNG."""
    figure = Figure(figsize=(9, 1.2 + 0.35 * len(table)), layout="constrained")
    axes = figure.subplots()
    for i, (name, values) in enumerate(table.items()):
        axes.plot(values, range(len(table)), "os^Dv<>p*h"[i % 10], label=name)
    axes.set_yticks(range(len(table)), [drawable(str(name)) for name in table.index])
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    axes.legend(bbox_to_anchor=(1, 1), loc="upper left", fontsize=8)
    with atomic_write(path) as draft:
        draft.write_bytes(png(figure))

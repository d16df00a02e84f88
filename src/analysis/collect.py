"""`egovlpv2 collect`: the numbers of several runs side by side, and their mean."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import pandas as pd
from matplotlib.figure import Figure

from egovlpv2.command.parser import CommandParser
from egovlpv2.io.files import atomic_write, write_report
from egovlpv2.io.schema import read_json
from egovlpv2.viz.figures import drawable, png


class Report(TypedDict):
    """What is read of a run's `metrics.json`."""

    metrics: dict[str, float | None]


def collect(runs: Sequence[Path], pattern: str) -> pd.DataFrame:
    """A row for each run and a column for each of its metrics.

    Args:
        runs: Folders with a `metrics.json`.
        pattern: Part of the metrics' names, as a regular expression.

    Raises:
        ValueError: A run has not ended, its report is damaged, or no metric of theirs has such a name.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--metrics {pattern!r} is not a regular expression: {error}") from error
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


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = CommandParser(prog="egovlpv2 collect", description="Numbers of several runs, and their mean.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders with a metrics.json")
    parser.add_argument("--metrics", default="^test/", help="which, by a regular expression (default: %(default)s)")
    parser.add_argument("--no-mean", action="store_true", help="where a mean of the runs says nothing")
    parser.add_argument("--out", type=Path, help="write them as JSON too")
    parser.add_argument("--plot", type=Path, help="draw them as points, a line for each run")
    args = parser.parse_args(argv)
    table = collect(args.runs, args.metrics)
    mean = {} if args.no_mean else {"mean": table.mean(skipna=False)}  # of what all runs have
    print(pd.concat([table, pd.DataFrame(mean).T]).round(2).to_string(na_rep="-"))
    if args.out:
        rows = {"runs": without_gaps(table), **{name: row.dropna().to_dict() for name, row in mean.items()}}
        write_report(args.out, rows)
    if args.plot:
        save_plot(table, args.plot)


def without_gaps(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The rows of a table for JSON, which has no NaN: what a run lacks is None."""
    return table.astype(object).where(table.notna(), None).to_dict("index")


def save_plot(table: pd.DataFrame, path: Path) -> None:
    """Draws a line for each row of a table and a point for each of its numbers, and writes it as PNG."""
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

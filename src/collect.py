"""`egovlpv2 collect`: the numbers of several runs side by side, and their mean."""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from egovlpv2.callbacks import write_json


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
        raise ValueError(f"--metrics {pattern!r} is no regular expression: {error}") from error
    rows = {}
    for run in runs:
        path = run / "metrics.json"
        if not path.is_file():
            raise ValueError(f"{path} is missing: the run has not ended, or it is no run's folder")
        try:
            rows[str(run)] = json.loads(path.read_text(encoding="utf-8"))["metrics"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no report of a run ({error!r})") from error
    table = pd.DataFrame.from_dict(rows, orient="index").filter(regex=pattern)
    if table.empty:
        raise ValueError(f"no metric of these runs is named like {pattern!r}; {runs[0]} has "
                         f"{', '.join(sorted(rows[str(runs[0])]))}")
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="egovlpv2 collect", description="Numbers of several runs, and their mean.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders with a metrics.json")
    parser.add_argument("--metrics", default="^test/", help="which, by a regular expression (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write them as JSON too")
    args = parser.parse_args(argv)
    table = collect(args.runs, args.metrics)
    mean = table.mean(skipna=False)  # of what all runs have
    shown = pd.concat([table, mean.to_frame("mean").T])
    print(shown.round(2).to_string())
    if args.out:
        known = table.astype(object).where(table.notna(), None)  # a run may lack a metric, and NaN is no JSON
        write_json(args.out, {"runs": known.to_dict("index"), "mean": mean.dropna().to_dict()})

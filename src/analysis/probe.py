"""Compare a model's answers for clips in several orders of time: `egovlpv2 probe-time`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, get_args

import pandas as pd
from matplotlib.figure import Figure

from egovlpv2.analysis.collect import check_targets, collect_table, without_gaps
from egovlpv2.io.files import atomic_write, finite, write_json
from egovlpv2.io.schema import read_json
from egovlpv2.types import FrameOrder
from egovlpv2.viz.figures import drawable, png

ORDERS: tuple[FrameOrder, ...] = get_args(FrameOrder)
_WIDTH = 0.8 / len(ORDERS)  # of a bar, where a metric takes 1
_MAY_DIFFER = ("frame_order", "counts", "devices")  # in the protocols of runs that are compared


class _Report(TypedDict):
    protocol: dict[str, Any]


@dataclass(frozen=True)
class TimeProbe:
    """Numbers of evaluations whose clips were shown in several orders.

    Args:
        tables: By folder, a row for each order and a column for each metric.
        written: Files that hold them.
    """

    tables: dict[str, pd.DataFrame]
    written: list[Path]

    def __str__(self) -> str:
        parts = [f"{folder}\n{with_losses(table).round(2).to_string(na_rep='-')}"
                 for folder, table in self.tables.items()]
        return "\n\n".join([*parts, *(f"written: {path}" for path in self.written)])


def probe_time(runs: Sequence[str], *, metrics: str = "^test/.*(/inter|/intra|/map|_avg|/all)$",
               out: str | Path | None = None, plot: str | Path | None = None) -> TimeProbe:
    """Compare evaluations of clips played forward, backward, shuffled and frozen at one frame.

    What a model loses without the order of time, or without any motion, tells which of its answers need them.

    Args:
        runs: folders, each with four runs named after the orders, as `egovlpv2 sweep conf/probe_time` leaves them
        metrics: part of the metrics' names, as a regular expression; by default the main ones
        out: write the numbers as JSON too
        plot: draw them as bars, a panel for each folder

    Raises:
        ValueError: A run is missing, has shown its clips in another order than its name says, differs from the others
            in more than that, or has no such metric.
    """
    check_targets(out, plot)
    tables = {str(folder): _table(Path(folder), metrics) for folder in runs}
    if out is not None:
        write_json(Path(out), finite({folder: without_gaps(with_losses(table)) for folder, table in tables.items()}))
    if plot is not None:
        _save_bars(tables, Path(plot))
    return TimeProbe(tables, [Path(path) for path in (out, plot) if path is not None])


def with_losses(table: pd.DataFrame) -> pd.DataFrame:
    """Add a row for each order but `forward` with what it loses against that."""
    others = table.drop(index="forward")
    losses = table.loc["forward"] - others
    return pd.concat([table, losses.set_axis([f"lost by {order}" for order in others.index])])


def _table(folder: Path, metrics: str) -> pd.DataFrame:
    """The numbers of a folder's runs, a row for each order."""
    table = collect_table([folder / order for order in ORDERS], metrics)
    protocols = {order: read_json(folder / order / "metrics.json", _Report)["protocol"] for order in ORDERS}
    for order, protocol in protocols.items():
        shown = protocol.get("frame_order")
        if shown != order:
            raise ValueError(f"{folder / order} has shown its clips {shown or 'in no order that it names'}, not "
                             f"{order}: run it with --data.init_args.frame_order={order}")
        for name, value in protocols["forward"].items():
            if name not in _MAY_DIFFER and protocol.get(name) != value:
                raise ValueError(f"{folder / order} has {name} {protocol.get(name)}, and {folder / 'forward'} {value}: "
                                 "compare runs that differ in frame_order alone")
    return table.set_axis(list(ORDERS))


def _save_bars(tables: dict[str, pd.DataFrame], path: Path) -> None:
    """Draw a panel for each table, with a group of bars for each metric, as a PNG."""
    figure = Figure(figsize=(1.5 + 1.1 * max(len(table.columns) for table in tables.values()), 3.2 * len(tables)),
                    layout="constrained")
    panels = figure.subplots(len(tables), squeeze=False)[:, 0]
    for axes, (folder, table) in zip(panels, tables.items(), strict=True):
        for i, order in enumerate(ORDERS):
            places = [column + (i - (len(ORDERS) - 1) / 2) * _WIDTH for column in range(len(table.columns))]
            axes.bar_label(axes.bar(places, table.loc[order], _WIDTH, label=order), fmt="%.0f", fontsize=6)
        names = [drawable(str(name)).removeprefix("test/").replace("/", "\n") for name in table.columns]
        axes.set_xticks(range(len(names)), names, fontsize=7)
        axes.set_title(drawable(folder), fontsize=9)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    panels[0].legend(bbox_to_anchor=(1, 1), loc="upper left", fontsize=8)
    with atomic_write(path) as draft:
        draft.write_bytes(png(figure))

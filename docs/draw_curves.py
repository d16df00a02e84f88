"""Draw the learning curves of some runs, a thin line each, and their mean.

python docs/draw_curves.py runs/seed0 runs/seed1 runs/seed2 --out docs/learning_curves.png
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

LOSSES = {"ego_nce": "EgoNCE", "mlm": "masked tokens (MLM)", "vtm": "video-text matching (VTM)"}
KINDS = {"inter": "EgoMCQ inter, validation", "intra": "EgoMCQ intra, validation"}
SCORES = {"dual": "#4477aa", "fusion": "#228833", "ensemble": "#cc6644"}
CHANCE = 20.0  # %, one clip of five

Curve = dict[int, float]  # step -> value


def read_run(folder: Path) -> dict[str, Curve]:
    """Read all scalars of the event files of a run."""
    log = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: {event.step + 1: event.value for event in log.Scalars(tag)} for tag in log.Tags()["scalars"]}


def draw(ax: Axes, runs: list[dict[str, Curve]], tag: str, color: str, label: str | None = None) -> None:
    """Draw a thin line for each run and, over the steps that all of them have, their mean."""
    curves, values = [run[tag] for run in runs if tag in run], defaultdict(list)
    for curve in curves:
        if len(curves) > 1:
            ax.plot(list(curve), list(curve.values()), color=color, linewidth=0.8, alpha=0.45)
        for step, value in curve.items():
            values[step].append(value)
    mean = {step: sum(v) / len(v) for step, v in sorted(values.items()) if len(v) == len(curves)}
    marker = "o" if label else None
    ax.plot(list(mean), list(mean.values()), color=color, linewidth=2.2, marker=marker, markersize=4, label=label)


def style(ax: Axes, title: str, unit: str) -> None:
    ax.set_title(title, fontsize=11)
    ax.set_xlabel("step")
    ax.set_ylabel(unit)
    ax.set_xlim(left=0)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


def figure(runs: list[dict[str, Curve]]) -> plt.Figure:
    fig = plt.figure(figsize=(12, 6.8), dpi=100, layout="constrained")
    upper, lower = fig.subfigures(2, 1, height_ratios=(1, 1.25))
    for ax, (loss, title) in zip(upper.subplots(1, 3), LOSSES.items(), strict=True):
        draw(ax, runs, f"train/{loss}", "#555555")
        style(ax, title, "training loss")
    for ax, (kind, title) in zip(lower.subplots(1, 2), KINDS.items(), strict=True):
        for score, color in SCORES.items():
            draw(ax, runs, f"val/egomcq/{score}/{kind}", color, score)
        ax.axhline(CHANCE, color="black", linestyle=":", linewidth=1.2, label="chance")
        style(ax, title, "accuracy, %")
        ax.set_ylim(0, 100)
    ax.legend(frameon=False, ncols=4, loc="center right")
    return fig


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the learning curves of some runs.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, such as runs/seed0")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="default: curves.png")
    args = parser.parse_args()
    absent = [str(folder) for folder in args.runs if not folder.is_dir()]
    if absent:
        sys.exit(f"no such folder: {', '.join(absent)}")
    runs = [read_run(folder) for folder in args.runs]
    empty = [str(folder) for folder, run in zip(args.runs, runs, strict=True) if not run]
    if empty:
        sys.exit(f"no TensorBoard log in {', '.join(empty)}")
    figure(runs).savefig(args.out, facecolor="white")
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()

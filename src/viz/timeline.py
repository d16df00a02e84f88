"""Timelines: frames, true and predicted spans, and curves over one time axis."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

NUM_FRAMES = 12  # of a strip
_WIDTH = 13  # inches
_CHARACTER = 0.07  # inches at the labels' size, with room for the legend beside the axes
TRUE, PREDICTED, SEGMENT = "#2a7f62", "#c8553d", "#8a9aa8"  # colours


class Span(NamedTuple):
    """A labelled part of a clip."""

    label: str
    start: float  # seconds
    end: float  # seconds


class Drawing(NamedTuple):
    """Content of a timeline, without frames."""

    title: str
    duration: float  # seconds
    curves: dict[str, NDArray[np.float32]]  # sampled uniformly over the clip, 0 to 1
    ground_truth: list[Span]
    predicted: list[Span]  # best first


def draw(drawings: Sequence[Drawing], frames: Tensor | None) -> Figure:
    """Draw timelines of a clip: frames, and below them the spans and curves of each, over a common time axis.

    Args:
        drawings: Contents of the timelines, at least one.
        frames: (n, 3, H, W) uint8 at the centres of n equal parts of the clip; None without a video.
    """
    duration, heights = drawings[0].duration, [1.1] * (frames is not None) + [1.0, 1.6] * len(drawings)
    figure = Figure(figsize=(_WIDTH, 1.7 + 3.3 * len(drawings)), layout="constrained")
    axes = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    if frames is not None:
        draw_strip(axes.pop(0), frames, duration)
    if len(drawings) == 1:
        figure.suptitle(drawings[0].title, fontsize=11)
    for drawing, spans, curves in zip(drawings, axes[::2], axes[1::2], strict=True):
        if len(drawings) > 1:
            spans.set_title(drawing.title, fontsize=11)
        _draw_spans(spans, drawing)
        _draw_curves(curves, drawing)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right lower", fontsize=8)
    axes[-1].set(xlabel="seconds")
    return figure


def _draw_curves(axes: Axes, drawing: Drawing) -> None:
    for name, values in drawing.curves.items():
        centres = (np.arange(len(values)) + 0.5) * drawing.duration / len(values)
        axes.plot(centres, values, label=name, linewidth=1.2)
    axes.set(xlim=(0, drawing.duration), ylim=(0, None))


def draw_strip(axes: Axes, frames: Tensor, duration: float) -> None:
    """Draw frames side by side."""
    width = duration / len(frames)
    for i, frame in enumerate(frames.permute(0, 2, 3, 1).numpy()):
        axes.imshow(frame, extent=(i * width, (i + 1) * width, 0, 1), aspect="auto")
    axes.set(ylim=(0, 1), yticks=[])


def _draw_spans(axes: Axes, drawing: Drawing) -> None:
    """Draw true spans above predicted ones, whose opacity falls with their rank."""
    ground_truth, predicted = _lanes(drawing.ground_truth), _lanes(drawing.predicted)
    best = max(len(predicted), 1)
    lanes = max(ground_truth, default=0) + 1  # of the true spans
    rows = [(-float(lane), TRUE, 0.8, span) for lane, span in zip(ground_truth, drawing.ground_truth, strict=True)]
    rows += [(-lane - lanes - 0.4, PREDICTED, 0.2 + 0.6 * (best - rank) / best, span)
             for rank, (lane, span) in enumerate(zip(predicted, drawing.predicted, strict=True))]
    for height, colour, alpha, span in rows:
        bar = axes.barh(height, span.end - span.start, 0.8, left=span.start, color=colour, alpha=alpha,
                        edgecolor="white")
        label = _shortened(span.label, int((span.end - span.start) / drawing.duration * _WIDTH / _CHARACTER))
        text = axes.text((span.start + span.end) / 2, height, label, ha="center", va="center", fontsize=7,
                         clip_on=True)
        text.set_clip_path(bar.patches[0])
    ticks = {-lanes - 0.4: "predicted"} | ({0.0: "true"} if drawing.ground_truth else {})
    axes.set(yticks=list(ticks), yticklabels=list(ticks.values()))


def _shortened(label: str, room: int) -> str:
    """Cut a label to so many characters; nothing of it, where few would be left."""
    return label if len(label) <= room else f"{label[:room - 1]}…" if room > 3 else ""


def _lanes(spans: Sequence[Span]) -> list[int]:
    """Assign a lane to each span so that no two spans overlap in a lane."""
    lanes: list[list[Span]] = []
    assigned = []
    for span in spans:
        free = (i for i, lane in enumerate(lanes) if all(s.end <= span.start or span.end <= s.start for s in lane))
        lane = next(free, len(lanes))
        if lane == len(lanes):
            lanes.append([])
        lanes[lane].append(span)
        assigned.append(lane)
    return assigned

"""Timelines: frames, true and predicted spans, and curves over one time axis."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

_TRUE, _FOUND, _SEGMENT = "#2a7f62", "#c8553d", "#8a9aa8"


class Span(NamedTuple):
    """Something from here to there."""

    label: str
    start: float  # seconds of the clip
    end: float


class Drawing(NamedTuple):
    """All of a picture but the frames."""

    title: str
    duration: float  # seconds
    curves: dict[str, NDArray[np.float32]]  # of equal steps over the clip, 0 to 1
    ground_truth: list[Span]
    found: list[Span]  # the best first


def draw(drawing: Drawing, frames: Tensor | None) -> Figure:
    """A figure: frames on top, then the true and the found spans, then the curves, all over one axis of time.

    Args:
        drawing: What to show.
        frames: (n, 3, H, W) uint8 at the centres of equal parts of the clip; None where the video isn't at hand.
    """
    figure = Figure(figsize=(13, 5), layout="constrained")
    heights = [1.1, 1.0, 1.6] if frames is not None else [1.0, 1.6]
    *strip, spans, curves = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    figure.suptitle(drawing.title, fontsize=11)
    if frames is not None:
        _draw_strip(strip[0], frames, drawing.duration)
    _draw_spans(spans, drawing)
    for name, values in drawing.curves.items():
        centres = (np.arange(len(values)) + 0.5) * drawing.duration / len(values)
        curves.plot(centres, values, label=name, linewidth=1.2)
    curves.legend(loc="upper right", fontsize=8)
    curves.set(xlim=(0, drawing.duration), ylim=(0, None), xlabel="seconds")
    return figure


def _draw_strip(axes: Axes, frames: Tensor, duration: float) -> None:
    width = duration / len(frames)
    for i, frame in enumerate(frames.permute(0, 2, 3, 1).numpy()):
        axes.imshow(frame, extent=(i * width, (i + 1) * width, 0, 1), aspect="auto")
    axes.set(ylim=(0, 1), yticks=[])


def _draw_spans(axes: Axes, drawing: Drawing) -> None:
    best, ground_truth, found = max(len(drawing.found), 1), _lanes(drawing.ground_truth), _lanes(drawing.found)
    lanes = max(ground_truth, default=0) + 1  # of the true ones, which lie on top
    rows = [(-float(lane), _TRUE, 0.8, span) for lane, span in zip(ground_truth, drawing.ground_truth, strict=True)]
    rows += [(-lane - lanes - 0.4, _FOUND, 0.2 + 0.6 * (best - rank) / best, span)
             for rank, (lane, span) in enumerate(zip(found, drawing.found, strict=True))]
    for height, colour, alpha, span in rows:
        bar = axes.barh(height, span.end - span.start, 0.8, left=span.start, color=colour, alpha=alpha,
                        edgecolor="white")
        text = axes.text((span.start + span.end) / 2, height, span.label, ha="center", va="center", fontsize=7,
                         clip_on=True)
        text.set_clip_path(bar.patches[0])
    axes.set(yticks=[0, -lanes - 0.4], yticklabels=["true", "found"])


def _lanes(spans: Sequence[Span]) -> list[int]:
    """A lane for each span, so that no two overlap in one."""
    lanes: list[list[Span]] = []
    places = []
    for span in spans:
        free = (i for i, lane in enumerate(lanes) if all(s.end <= span.start or span.end <= s.start for s in lane))
        place = next(free, len(lanes))
        if place == len(lanes):
            lanes.append([])
        lanes[place].append(span)
        places.append(place)
    return places

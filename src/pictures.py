"""Pictures of grounding: a clip's frames, what is true, what was found, and the curves that led to it."""

import logging
from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

log = logging.getLogger(__name__)

NUM_FRAMES = 12  # of a strip
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
    told: list[Span]
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


def draw_summary(title: str, duration: float, shot_seconds: float, scores: NDArray[np.float32], bounds: Sequence[int],
                 chosen: Sequence[tuple[float, float]]) -> Figure:
    """A figure of a summary: the score of each shot over time, segments by shade, and what was chosen.

    Args:
        title: Of the figure.
        duration: Of the video, seconds.
        shot_seconds: Length of a shot.
        scores: (n,) of the shots, 0 to 1.
        bounds: The first shot of each segment, and n.
        chosen: Start and end of each chosen part, seconds.
    """
    figure = Figure(figsize=(13, 3.2), layout="constrained")
    axes = figure.subplots()
    for i, (first, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        axes.axvspan(first * shot_seconds, min(end * shot_seconds, duration), color=_SEGMENT,
                     alpha=0.1 + 0.15 * (i % 2), linewidth=0, label="segments" if not i else None)
    for i, (start, end) in enumerate(chosen):
        axes.axvspan(start, end, color=_FOUND, alpha=0.45, linewidth=0, label="chosen" if not i else None)
    edges = np.minimum(np.arange(len(scores) + 1) * shot_seconds, duration)
    axes.stairs(scores, edges, color="black", linewidth=1.0, label="score")
    axes.set(xlim=(0, duration), ylim=(0, None), xlabel="seconds", title=title)
    axes.legend(loc="upper right", fontsize=8)
    return figure


def _draw_strip(axes: Axes, frames: Tensor, duration: float) -> None:
    width = duration / len(frames)
    for i, frame in enumerate(frames.permute(0, 2, 3, 1).numpy()):
        axes.imshow(frame, extent=(i * width, (i + 1) * width, 0, 1), aspect="auto")
    axes.set(ylim=(0, 1), yticks=[])


def _draw_spans(axes: Axes, drawing: Drawing) -> None:
    best, told, found = max(len(drawing.found), 1), _lanes(drawing.told), _lanes(drawing.found)
    lanes = max(told, default=0) + 1  # of the true ones, which lie on top
    rows = [(-lane, _TRUE, 0.8, span) for lane, span in zip(told, drawing.told, strict=True)]
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


def png(figure: Figure) -> bytes:
    """The picture as a PNG file's content."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


class Pictures(Callback):
    """Writes pictures of the first clips of each validation to TensorBoard.

    The task gives `drawings(batch, count)`, the data module `strip(split, row, num_frames)`.

    Args:
        count: How many.
    """

    def __init__(self, count: int = 4) -> None:
        self.count = count

    def _frames(self, trainer: Trainer, row: int) -> Tensor | None:
        """A picture without frames is better than no training."""
        try:
            return trainer.datamodule.strip("val", row, NUM_FRAMES)
        except ValueError as error:
            log.warning("Pictures without frames: %s", error)
            return None

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any,
                                batch_idx: int, dataloader_idx: int = 0) -> None:
        logger = trainer.logger
        if batch_idx or not trainer.is_global_zero or not isinstance(logger, TensorBoardLogger):
            return
        drawings: Sequence[Drawing] = pl_module.drawings(batch, self.count)
        for i, (row, drawing) in enumerate(zip(batch["index"][: self.count].tolist(), drawings, strict=True)):
            frames = self._frames(trainer, row)
            logger.experiment.add_figure(f"val/{i}", draw(drawing, frames), trainer.global_step)

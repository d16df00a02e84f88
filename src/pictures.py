"""Pictures of what a head finds in time, and of what words look at in the frames of a clip."""

import logging
import textwrap
from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import torch.nn.functional as F
from egovlpv2.batch import ChoiceBatch
from egovlpv2.figures import DPI, show_on_board
from egovlpv2.model.attention_maps import attend_words, read_words, text_layers
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

NUM_FRAMES = 12  # of a strip
_TRUE, _FOUND, _SEGMENT = "#2a7f62", "#c8553d", "#8a9aa8"
_HEAT, _OPAQUE, _DIMMED = "inferno", 0.8, 0.7  # colours of attention, how much the strongest hides of a darkened frame
_LEGEND = ("A word's attention over all patches of all frames and the video's CLS token sums to 100 %: each frame's "
           "share is written on it, that of CLS above. Colours go from none to the strongest patch of the strip, whose "
           "height is given as a multiple of evenly spread attention. The text's special tokens are left out.")


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


class Strip(NamedTuple):
    """The attention of something over the frames of a clip."""

    label: str
    cls: float  # share of the video's CLS token
    patches: Tensor  # (T, h, w) shares of the patches; with `cls` they sum to one

    @property
    def peak(self) -> float:
        """The strongest patch, as a multiple of evenly spread attention."""
        return self.patches.max().item() * (self.patches.numel() + 1)


def draw_attention(title: str, frames: Tensor, times: Sequence[float] | None, strips: Sequence[Strip],
                   per_row: int = 1, across: float = 9) -> Figure:
    """A figure of frames under heat, a strip for each word.

    Args:
        title: Of the figure.
        frames: (T, 3, H, W) uint8.
        times: Of the frames, seconds; None leaves them out.
        strips: One at least.
        per_row: Strips beside each other.
        across: How wide a row should be, inches; a frame keeps a legible size.
    """
    alone = len(frames) == 1
    width = float(np.clip(across / (per_row * len(frames)), 2.3 if alone else 1.3, 4.5))  # inches, as all below
    height, above, gap = width * frames.shape[2] / frames.shape[3], 0.42 if alone else 0.24, 0.05
    across = max(per_row * len(frames) * (width + gap) + gap, 6.5)
    title = "\n".join(textwrap.fill(line, int(across * 11)) for line in title.splitlines())
    legend = textwrap.fill(_LEGEND, int(across * 17))
    head, foot = 0.15 + 0.2 * title.count("\n") + 0.2, 0.5 + 0.14 * legend.count("\n")
    size = across, head + ceil(len(strips) / per_row) * (height + above) + foot
    figure = Figure(figsize=size, dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.text(gap, 0.08, title, fontsize=11, va="top")
    places = [(i % per_row * len(frames) * (width + gap) + gap, head + i // per_row * (height + above) + above)
              for i in range(len(strips))]
    for strip, (left, top) in zip(strips, places, strict=True):
        numbers = f"CLS {strip.cls:.0%}, peak {strip.peak:.3g} × even"
        label = f"{strip.label}\n{numbers}" if alone else f"{strip.label}   ({numbers})"
        axes.text(left, top - 0.05, label, fontsize=8)
        lefts = [left + t * (width + gap) for t in range(len(frames))]
        _draw_heat(axes, strip.patches, frames, times, [(x, x + width, top + height, top) for x in lefts])
    _draw_legend(axes, legend, gap, size[1] - foot + 0.12)
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="auto")
    axes.axis("off")
    return figure


def _draw_heat(axes: Axes, patches: Tensor, frames: Tensor, times: Sequence[float] | None,
               boxes: Sequence[tuple[float, float, float, float]]) -> None:
    """Draws the frames of a strip, with their shares, into boxes (left, right, bottom, top) in inches."""
    left, right, bottom, top = boxes[0]
    size = [ceil(round(side * DPI, 2)) for side in (bottom - top, right - left)]  # pixels
    shown = overlay(frames, patches / patches.max().clamp(min=1e-12), tuple(size))
    for t, (box, picture) in enumerate(zip(boxes, shown, strict=True)):
        axes.imshow(picture, extent=box)
        when = "" if times is None else f"{times[t]:.2f} s: "
        axes.text(box[0] + 0.04, box[2] - 0.05, f"{when}{patches[t].sum().item():.0%}", fontsize=7, color="white",
                  bbox={"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1.5})


def _draw_legend(axes: Axes, legend: str, left: float, top: float) -> None:
    axes.imshow(np.linspace(0, 1, 100)[None], cmap=_HEAT, extent=(left, left + 1.2, top + 0.12, top))
    axes.text(left, top + 0.16, legend, fontsize=7, va="top")
    axes.text(left + 1.25, top + 0.06, "none to strongest", fontsize=7, va="center")


def overlay(frames: Tensor, heat: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Frames under heat: the hotter a place, the more of it is coloured.

    Args:
        frames: (T, 3, H, W) uint8.
        heat: (T, h, w), 0 to 1.
        size: Height and width to show them at, pixels.

    Returns:
        (T, *size, 3).
    """
    picture = F.interpolate(frames.float(), size, mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()
    warm = F.interpolate(heat[:, None], size, mode="bicubic").clamp(0, 1)[:, 0].numpy()  # (T, *size)
    opaque = _OPAQUE * warm[..., None]
    mixed = (1 - opaque) * _DIMMED * picture + opaque * 255 * colormaps[_HEAT](warm)[..., :3]
    return mixed.clip(0, 255).round().astype(np.uint8)


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
        board = _board(trainer)
        if batch_idx or board is None:
            return
        drawings: Sequence[Drawing] = pl_module.drawings(batch, self.count)
        for i, (row, drawing) in enumerate(zip(batch["index"][: self.count].tolist(), drawings, strict=True)):
            frames = self._frames(trainer, row)
            show_on_board(board, f"val/{i}", draw(drawing, frames), trainer.global_step)


class AttentionPictures(Callback):
    """Writes to TensorBoard what the words of a validation's first question look at in its right clip: the mean of the
    heads of the last fused layer.
    """

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ChoiceBatch,
                                batch_idx: int, dataloader_idx: int = 0) -> None:
        board, layers = _board(trainer), text_layers(pl_module.backbone)
        learned = "fusion" in pl_module.scores
        if batch_idx or dataloader_idx or board is None or not (layers and learned and len(batch["answer"])):
            return
        tokenizer, ids = trainer.datamodule.tokenizer, batch["text"]["input_ids"]  # (Q, L)
        text, last = tokenizer.decode(ids[0], skip_special_tokens=True).strip(), max(layers)
        words = read_words(tokenizer, text, ids.shape[1])
        if not words.labels:
            return
        clip = batch["video"][0, batch["answer"][0]]  # (T, 3, H, W)
        with trainer.precision_plugin.forward_context():
            seen = attend_words(pl_module.backbone, clip, words, {last: layers[last]}, None)
        strips = list(map(Strip, words.labels, seen.cls[:, 0].tolist(), seen.patches[:, 0]))
        title = f"{text}: layer {last}, mean of all heads, match {seen.match:.2f}"
        figure = draw_attention(title, clip.cpu(), None, strips, across=5)
        show_on_board(board, "val/attention", figure, trainer.global_step)


def _board(trainer: Trainer) -> SummaryWriter | None:
    """Where pictures go: TensorBoard, from the first process."""
    logger = trainer.logger
    return logger.experiment if trainer.is_global_zero and isinstance(logger, TensorBoardLogger) else None

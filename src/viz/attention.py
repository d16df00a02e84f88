"""Figures of attention maps over the frames of a clip."""

import textwrap
from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from egovlpv2.viz.figures import DPI

_HEAT, _OPAQUE, _DIMMED = "inferno", 0.8, 0.7  # colour map, opacity of the strongest patch, brightness of frames
_LEGEND = ("A word's attention over all patches of all frames and the video's CLS token sums to 100 %: each frame's "
           "share is written on it, that of CLS above. Colours go from none to the strongest patch of the strip, whose "
           "height is given as a multiple of evenly spread attention. The text's special tokens are left out.")


class Strip(NamedTuple):
    """Attention of a word over the frames of a clip."""

    label: str
    cls: float  # weight of the video's CLS token
    patches: Tensor  # (T, h, w) weights of the patches; with `cls` they sum to one

    @property
    def peak(self) -> float:
        """Weight of the strongest patch, as a multiple of uniform attention."""
        return self.patches.max().item() * (self.patches.numel() + 1)


def draw_attention(title: str, frames: Tensor, times: Sequence[float] | None, strips: Sequence[Strip],
                   per_row: int = 1, across: float = 9) -> Figure:
    """Draw attention as a heat map over the frames, with a strip of frames for each word.

    Args:
        title: Title of the figure.
        frames: (T, 3, H, W) uint8.
        times: Times of the frames, seconds; None leaves them out.
        strips: Attention of one word or more.
        per_row: Number of strips side by side.
        across: Preferred width of a row, inches; frames keep a legible size.
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
    corners = [(i % per_row * len(frames) * (width + gap) + gap, head + i // per_row * (height + above) + above)
               for i in range(len(strips))]
    for strip, (left, top) in zip(strips, corners, strict=True):
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
    """Draw the frames of a strip, with their weights, into boxes (left, right, bottom, top) in inches."""
    left, right, bottom, top = boxes[0]
    height, width = (ceil(round(side * DPI, 2)) for side in (bottom - top, right - left))  # pixels
    shown = overlay(frames, patches / patches.max().clamp(min=1e-12), (height, width))
    for t, (box, picture) in enumerate(zip(boxes, shown, strict=True)):
        axes.imshow(picture, extent=box)
        time = "" if times is None else f"{times[t]:.2f} s: "
        axes.text(box[0] + 0.04, box[2] - 0.05, f"{time}{patches[t].sum().item():.0%}", fontsize=7, color="white",
                  bbox={"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1.5})


def _draw_legend(axes: Axes, legend: str, left: float, top: float) -> None:
    """Draw the colour bar and the legend under it."""
    axes.imshow(np.linspace(0, 1, 100)[None], cmap=_HEAT, extent=(left, left + 1.2, top + 0.12, top))
    axes.text(left, top + 0.16, legend, fontsize=7, va="top")
    axes.text(left + 1.25, top + 0.06, "none to strongest", fontsize=7, va="center")


def overlay(frames: Tensor, heat: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Blend frames with a heat map whose opacity grows with the heat.

    Args:
        frames: (T, 3, H, W) uint8.
        heat: (T, h, w), 0 to 1.
        size: Height and width of the output, pixels.

    Returns:
        (T, *size, 3).
    """
    picture = F.interpolate(frames.float(), size, mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()
    warm = F.interpolate(heat[:, None], size, mode="bicubic").clamp(0, 1)[:, 0].numpy()  # (T, *size)
    opaque = _OPAQUE * warm[..., None]
    mixed = (1 - opaque) * _DIMMED * picture + opaque * 255 * colormaps[_HEAT](warm)[..., :3]
    return mixed.clip(0, 255).round().astype(np.uint8)

"""Figure of a video summary."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from egovlpv2.viz.timeline import PREDICTED, SEGMENT, draw_strip


def draw_summary(title: str, duration: float, shot_seconds: float, scores: NDArray[np.float32], bounds: Sequence[int],
                 chosen: Sequence[tuple[float, float]], frames: Tensor) -> Figure:
    """Draw a summary: frames, scores of shots over time, segments in alternating shades, and the selected parts.

    Args:
        title: Title of the figure.
        duration: Length of the video, seconds.
        shot_seconds: Length of a shot.
        scores: (n,) of the shots, 0 to 1.
        bounds: First shot of each segment, and `n`.
        chosen: Start and end of each selected part, seconds.
        frames: (n, 3, H, W) uint8 at the centres of n equal parts of the video.
    """
    figure = Figure(figsize=(13, 4.3), layout="constrained")
    strip, axes = figure.subplots(2, 1, sharex=True, height_ratios=[1.1, 3.0])
    draw_strip(strip, frames, duration)
    for i, (first, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        axes.axvspan(first * shot_seconds, min(end * shot_seconds, duration), color=SEGMENT,
                     alpha=0.1 + 0.15 * (i % 2), linewidth=0, label="segments" if not i else None)
    for i, part in enumerate(chosen):
        axes.axvspan(*part, color=PREDICTED, alpha=0.45, linewidth=0, label="chosen" if not i else None)
    edges = np.minimum(np.arange(len(scores) + 1) * shot_seconds, duration)
    axes.stairs(scores, edges, color="black", linewidth=1.0, label="score")
    axes.set(xlim=(0, duration), ylim=(0, None), xlabel="seconds")
    figure.suptitle(title)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure

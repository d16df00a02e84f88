"""Features of clips, cut out of the files of their videos and laid out for heads.

Letters: `T` windows of a clip, `D` width, `B` clips.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from egovlpv2.features.files import FeatureFolder, Features


class ClipSpan(NamedTuple):
    """A clip of a video."""

    clip: str
    video: str
    start: float  # seconds of the video
    end: float

    @property
    def duration(self) -> float:
        return self.end - self.start


def read_clip_features(folder: FeatureFolder, span: ClipSpan) -> Features:
    """The features of a clip.

    Raises:
        ValueError: The video's features end before the clip begins.
    """
    if span.clip in folder.names:
        return folder.read(span.clip)
    whole, rate = folder.read(span.video), folder.recipe.rate
    first = round(span.start * rate)
    values = whole.values[first : max(round(span.end * rate), first + 1)]
    end = min(span.end, whole.duration)  # the video may be shorter than the annotations say
    if not len(values) or end <= span.start:
        raise ValueError(f"{folder.folder}: the features of {span.video} last {whole.duration:.1f} s, and clip "
                         f"{span.clip} begins at {span.start:.1f} s: extract the whole video")
    return whole._replace(values=values, duration=end - span.start)


def averaged(values: Tensor, max_positions: int) -> Tensor:
    """Features (T, D), averaged within equal parts if there are more than `max_positions`."""
    if len(values) <= max_positions:
        return values
    bounds = torch.linspace(0, len(values), max_positions + 1).round().long()  # (max_positions + 1,)
    sums = torch.cat([values.new_zeros(1, values.shape[1]), values]).double().cumsum(0)  # (T + 1, D)
    return ((sums[bounds[1:]] - sums[bounds[:-1]]) / (bounds[1:] - bounds[:-1])[:, None]).to(values.dtype)


def resized(values: Tensor, max_steps: int) -> Tensor:
    """Features (D, T), interpolated linearly to `max_steps` if there are more."""
    if values.shape[1] <= max_steps:
        return values
    return F.interpolate(values[None], max_steps, mode="linear", align_corners=False)[0]


def pad(rows: list[Tensor], length: int) -> tuple[Tensor, Tensor]:
    """Rows (n_i, D) -> (B, length, D) float32, zero at the end, and their mask (B, length)."""
    padded = torch.stack([F.pad(row.float(), (0, 0, 0, length - len(row))) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return padded, torch.arange(length) < lengths[:, None]

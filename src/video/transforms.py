"""Crops and output sizes, as descriptions that the reader passes to FFmpeg.

A transform is a function of the picture's size (and a random generator) that returns one `CropBox` per clip, so that
all frames of the clip show the same part. Pixels are processed elsewhere.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_TRIES = 10  # as in torchvision's RandomResizedCrop


class CropBox(NamedTuple):
    """A part of the upright picture, in its pixels, and its output size."""

    top: int
    left: int
    height: int
    width: int
    out_height: int
    out_width: int
    flip: bool = False  # mirrored left to right, after scaling
    rgb_first: bool = False  # converted to RGB before cropping and scaling, by FFmpeg's fast conversion


@dataclass(frozen=True)
class TrainTransform:
    """A random part of the picture at a random aspect ratio, mirrored at random (RandomResizedCrop and a flip).

    Args:
        size: Side of the square shown, in pixels.
        scale: Smallest and largest share of the picture's area.
        ratio: Smallest and largest width over height.
        flip: Probability of mirroring, 0 to 1.
        rgb_first: Convert to RGB first, as the readers of the released code do, which is darker by a level of 255.
    """

    size: int
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rgb_first: bool = False

    def __call__(self, height: int, width: int, rng: np.random.Generator) -> CropBox:
        """Draw a box in a picture of `height` x `width` pixels."""
        box_height, box_width = self._box_size(height, width, rng)
        top = int(rng.integers(height - box_height + 1))
        left = int(rng.integers(width - box_width + 1))
        flip = bool(rng.random() < self.flip)
        return CropBox(top, left, box_height, box_width, self.size, self.size, flip, self.rgb_first)

    def _box_size(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
        """Draw height and width of a box that fits; after ten misses, take the largest one within the aspect ratios."""
        for _ in range(_TRIES):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            box_height, box_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < box_height <= height and 0 < box_width <= width:
                return box_height, box_width
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        return max(min(height, round(width / ratio)), 1), max(min(width, round(height * ratio)), 1)


@dataclass(frozen=True)
class WholePicture:
    """The whole picture, not enlarged, with even sides as 4:2:0 colours need them.

    Args:
        short_side: Maximum short side, in pixels.
    """

    short_side: int

    def __call__(self, height: int, width: int) -> CropBox:
        """Return the box in a picture of `height` x `width` pixels."""
        scale = min(self.short_side / min(height, width), 1.0)
        out_height, out_width = (max(round(side * scale / 2) * 2, 2) for side in (height, width))
        return CropBox(0, 0, height, width, out_height, out_width)


@dataclass(frozen=True)
class EvalTransform:
    """The largest centred square of the picture.

    The released code scales the short side to 256, crops 256 from the centre and scales that to 224: this is the
    same square, including the rounding of its position.

    Args:
        size: Side of the output, in pixels.
        short_side: Short side of the scaled picture, in whose pixels the position is rounded.
        rgb_first: Convert to RGB first, as the readers of the released code do, which is darker by a level of 255.
    """

    size: int
    short_side: int = 256
    rgb_first: bool = False

    def __call__(self, height: int, width: int, rng: np.random.Generator | None = None) -> CropBox:
        """Return the box in a picture of `height` x `width` pixels; `rng` is not used."""
        side = min(height, width)
        return CropBox(self._begin(height, side), self._begin(width, side), side, side, self.size, self.size,
                       rgb_first=self.rgb_first)

    def _begin(self, length: int, side: int) -> int:
        """Compute the first pixel of the square on one axis of the picture."""
        scaled = self.short_side * length // side
        return min(round(round((scaled - self.short_side) / 2) * length / scaled), length - side)

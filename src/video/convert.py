"""Conversion of decoded frames to RGB planes: FFmpeg turns frames upright, crops and scales before it converts."""

from collections.abc import Callable

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from egovlpv2.video.filters import FrameFilter, Step
from egovlpv2.video.transforms import CropBox

_FLAGS = "bilinear+accurate_rnd"  # without the second, unscaled pictures lack their last columns (FFmpeg 8.0)
# Without `accurate_rnd` FFmpeg rounds down: pictures are some 1.3 levels of 255 darker, as OpenCV and decord give them.
_QUICK_RGB = (("scale", "flags=bilinear"), ("format", "rgb24"))
_PLANES = (2, 0, 1)  # positions of red, green and blue in FFmpeg's gbrp


class FrameConverter:
    """A converter of one part of every frame of a clip to RGB.

    The output size is the same for all frames, even where they differ in size or pixel format.

    Args:
        crop: Returns the part to show of an upright picture, given its height and width. It is called again for
            pictures of another size, which are shown at the size of the first, and mirrored if the first is.
        height: Of the first upright picture, in pixels.
        width: Likewise.

    Raises:
        ValueError: The box does not lie within the picture.
    """

    def __init__(self, crop: Callable[[int, int], CropBox], height: int, width: int) -> None:
        self._crop = crop
        self._boxes: dict[tuple[int, int], CropBox] = {}
        box = self._box(height, width)
        self.size = (box.out_height, box.out_width)
        self._flips = box.flip
        self._filter = FrameFilter(self._steps)

    def convert(self, frame: VideoFrame, out: NDArray[np.uint8]) -> None:
        """Write a frame's part as RGB into `out` `(3, H, W)`."""
        planes = self._filter(frame).planes
        for target, plane in zip(out, (planes[i] for i in _PLANES), strict=True):
            stored = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
            rows = stored[:, : plane.width]  # (H, W)
            target[:] = rows[:, ::-1] if self._flips else rows

    def _box(self, height: int, width: int) -> CropBox:
        """Return the part to show of upright pictures of a size."""
        if (height, width) not in self._boxes:
            self._boxes[height, width] = _within(self._crop(height, width), height, width)
        return self._boxes[height, width]

    def _steps(self, height: int, width: int) -> list[Step]:
        box = self._box(height, width)
        return [
            *(_QUICK_RGB if box.rgb_first else ()),
            ("crop", f"{box.width}:{box.height}:{box.left}:{box.top}:exact=1"),
            ("scale", f"{self.size[1]}:{self.size[0]}:flags={_FLAGS}"),
            ("format", "gbrp"),
        ]


def _within(box: CropBox, height: int, width: int) -> CropBox:
    inside = 0 <= box.top <= height - box.height and 0 <= box.left <= width - box.width
    if not inside or min(box[2:6]) < 1:
        raise ValueError(f"{box} does not lie within a picture of {width}x{height} px")
    return box

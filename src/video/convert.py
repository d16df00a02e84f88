"""Conversion of decoded frames to RGB planes, in FFmpeg filter graphs that turn, crop and scale frames before it."""

from collections.abc import Callable, Sequence

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from egovlpv2.video.orientation import Turn, swaps_sides, upright
from egovlpv2.video.transforms import CropBox

Step = tuple[str, str]
"""Name and arguments of a filter."""

_FLAGS = "bilinear+accurate_rnd"  # without the second, unscaled pictures lack their last columns (FFmpeg 8.0)
# Without `accurate_rnd` FFmpeg rounds down: pictures are some 1.3 levels of 255 darker, as OpenCV and decord give them.
_QUICK_RGB = (("scale", "flags=bilinear"), ("format", "rgb24"))
_PLANES = (2, 0, 1)  # positions of red, green and blue in FFmpeg's gbrp


class FrameFilter:
    """A chain of filters, rebuilt for each size, pixel format, colour space and rotation that frames come in.

    Args:
        steps: Returns the filters that follow the rotation, given the upright frame's height and width in pixels.
    """

    def __init__(self, steps: Callable[[int, int], Sequence[Step]]) -> None:
        self._steps = steps
        self._graphs: dict[tuple[int | str | Turn, ...], Graph] = {}

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """Filter one frame."""
        turn = upright(frame)
        key = (frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range), turn)
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._graphs[key] = self._build(frame, turn)
        graph.push(frame)
        picture = graph.pull()
        assert isinstance(picture, VideoFrame), "a graph of video filters gives video"
        return picture

    def _build(self, frame: VideoFrame, turn: Turn) -> Graph:
        """Build the graph for frames like this one; it has no clock, so times are set on the frames it gives."""
        graph = Graph()
        graph.threads = 1  # a pool of threads costs more than it saves
        source = f"width={frame.width}:height={frame.height}:pix_fmt={frame.format.name}:time_base=1/1"
        colour = f":colorspace={int(frame.colorspace)}:range={int(frame.color_range)}"
        size = (frame.width, frame.height) if swaps_sides(turn) else (frame.height, frame.width)
        steps = [("buffer", source + colour), *turn, *self._steps(*size), ("buffersink", "")]
        graph.link_nodes(*(graph.add(name, args or None) for name, args in steps)).configure()
        return graph


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

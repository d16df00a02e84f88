"""From a decoded frame to RGB planes: FFmpeg turns upright, crops and scales before it converts."""

from collections.abc import Callable

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from egovlpv2.video.orientation import Turn, swaps_sides, upright
from egovlpv2.video.transforms import CropBox

_FLAGS = "bilinear+accurate_rnd"  # without the second, unscaled pictures lack their last columns (FFmpeg 8.0)
# Without `accurate_rnd` FFmpeg rounds down: pictures are some 1.3 levels of 255 darker, as OpenCV and decord give them.
_QUICK_RGB = (("scale", "flags=bilinear"), ("format", "rgb24"))
_PLANES = (2, 0, 1)  # where red, green and blue lie in FFmpeg's gbrp


class FrameConverter:
    """A painter of one part of every frame of a clip, at one size even where frames differ in size or pixel format.

    Args:
        crop: Gives the part to show of an upright picture, by its height and width. It is asked again for pictures of
            another size, and shows them at the first size, mirrored if the first is.
        height: Of the first upright picture, in pixels.
        width: Likewise.

    Raises:
        ValueError: The box does not lie within the picture.
    """

    def __init__(self, crop: Callable[[int, int], CropBox], height: int, width: int) -> None:
        self._crop = crop
        self._boxes = {(height, width): _within(crop(height, width), height, width)}
        box = self._boxes[height, width]
        self.size = (box.out_height, box.out_width)
        self._flips = box.flip
        self._graphs: dict[tuple[int | str | Turn, ...], Graph] = {}

    def paint(self, frame: VideoFrame, out: NDArray[np.uint8]) -> None:
        """Write a frame's part as RGB into `out` `(3, H, W)`."""
        turn = upright(frame)
        key = (frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range), turn)
        if key not in self._graphs:
            self._graphs[key] = self._graph(frame, turn)
        self._graphs[key].push(frame)
        planes = self._graphs[key].pull().planes
        for target, plane in zip(out, (planes[i] for i in _PLANES), strict=True):
            rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]  # (H, W)
            target[:] = rows[:, ::-1] if self._flips else rows

    def _box(self, height: int, width: int) -> CropBox:
        """The part of upright pictures of a size."""
        if (height, width) not in self._boxes:
            self._boxes[height, width] = _within(self._crop(height, width), height, width)
        return self._boxes[height, width]

    def _graph(self, frame: VideoFrame, turn: Turn) -> Graph:
        """The filters for frames like this one."""
        size = (frame.width, frame.height) if swaps_sides(turn) else (frame.height, frame.width)
        box, graph = self._box(*size), Graph()
        graph.threads = 1  # a pool of threads costs more than it saves
        source = f"width={frame.width}:height={frame.height}:pix_fmt={frame.format.name}:time_base=1/1"
        colour = f":colorspace={int(frame.colorspace)}:range={int(frame.color_range)}"
        steps = [
            ("buffer", source + colour),
            *turn,
            *(_QUICK_RGB if box.rgb_first else ()),
            ("crop", f"{box.width}:{box.height}:{box.left}:{box.top}:exact=1"),
            ("scale", f"{self.size[1]}:{self.size[0]}:flags={_FLAGS}"),
            ("format", "gbrp"),
            ("buffersink", ""),
        ]
        nodes = [graph.add(name, args or None) for name, args in steps]
        graph.link_nodes(*nodes).configure()
        return graph


def _within(box: CropBox, height: int, width: int) -> CropBox:
    inside = 0 <= box.top <= height - box.height and 0 <= box.left <= width - box.width
    if not inside or min(box[2:6]) < 1:
        raise ValueError(f"{box} does not lie within a picture of {width}x{height} px")
    return box

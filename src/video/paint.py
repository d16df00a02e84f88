"""From a decoded frame to RGB planes: FFmpeg turns upright, crops and scales before it converts."""

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from egovlpv2.video.transforms import CropBox
from numpy.typing import NDArray

_TURNS = {0: [], 270: [("transpose", "clock")], 90: [("transpose", "cclock")], 180: [("hflip", ""), ("vflip", "")]}
_FLAGS = "bilinear+accurate_rnd"  # without the second, unscaled pictures lack their last columns (FFmpeg 8.0)
_PLANES = (2, 0, 1)  # where red, green and blue lie in FFmpeg's gbrp


class Painter:
    """Shows one part of every frame of a clip at one size.

    Args:
        box: The part; None for the whole picture.
        height: Of the upright picture, in pixels.
        width: Likewise.

    Raises:
        ValueError: The box does not lie within the picture.
    """

    def __init__(self, box: CropBox | None, height: int, width: int) -> None:
        self.box = box or CropBox(0, 0, height, width, height, width)
        inside = 0 <= self.box.top <= height - self.box.height and 0 <= self.box.left <= width - self.box.width
        if not inside or min(self.box[2:6]) < 1:
            raise ValueError(f"{self.box} does not lie within a picture of {width}x{height} px")
        self.size = (self.box.out_height, self.box.out_width)
        self._graphs: dict[tuple[int | str, ...], Graph] = {}

    def paint(self, frame: VideoFrame, rotation: int, out: NDArray[np.uint8]) -> None:
        """Writes a frame's part as RGB into `out` `(3, H, W)`; `rotation` is in degrees counterclockwise."""
        key = (frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range), rotation)
        if key not in self._graphs:
            self._graphs[key] = self._graph(frame, rotation)
        self._graphs[key].push(frame)
        planes = self._graphs[key].pull().planes
        for target, plane in zip(out, (planes[i] for i in _PLANES), strict=True):
            rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]  # (H, W)
            target[:] = rows[:, ::-1] if self.box.flip else rows

    def _graph(self, frame: VideoFrame, rotation: int) -> Graph:
        """The filters for frames like this one."""
        box, graph = self.box, Graph()
        graph.threads = 1  # a pool of threads costs more than it saves
        source = f"width={frame.width}:height={frame.height}:pix_fmt={frame.format.name}:time_base=1/1"
        colour = f":colorspace={int(frame.colorspace)}:range={int(frame.color_range)}"
        steps = [
            ("buffer", source + colour),
            *_TURNS[rotation],
            ("crop", f"{box.width}:{box.height}:{box.left}:{box.top}:exact=1"),
            ("scale", f"{box.out_width}:{box.out_height}:flags={_FLAGS}"),
            ("format", "gbrp"),
            ("buffersink", ""),
        ]
        nodes = [graph.add(name, args or None) for name, args in steps]
        graph.link_nodes(*nodes).configure()
        return graph

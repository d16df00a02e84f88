"""FFmpeg filter graphs that take decoded frames, turn them upright and process them further."""

from collections.abc import Callable, Sequence

from av.filter import Graph
from av.video.frame import VideoFrame

from egovlpv2.video.orientation import Turn, swaps_sides, upright

Step = tuple[str, str]
"""Name and arguments of a filter."""


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

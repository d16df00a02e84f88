"""Filters that turn a decoded frame upright, as players and FFmpeg's own autorotation do."""

import math
import struct

from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame

Turn = tuple[tuple[str, str], ...]
"""FFmpeg filters, as names and arguments, that turn a stored picture upright; empty if it is upright already."""

_CLOCKWISE: dict[int, tuple[Turn, Turn]] = {  # by degrees: of plain and of mirrored pictures
    0: ((), (("vflip", ""),)),
    90: ((("transpose", "clock"),), (("transpose", "cclock_flip"),)),
    180: ((("hflip", ""), ("vflip", "")), (("hflip", ""),)),
    270: ((("transpose", "cclock"),), (("transpose", "clock_flip"),)),
}


def upright(frame: VideoFrame) -> Turn:
    """Choose the filters that turn a frame upright by its display matrix: quarter turns, mirrored or not."""
    try:
        matrix = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]  # av's stubs know `str` keys only
    except ValueError:  # av doesn't know another entry's type, and then lists none
        return _CLOCKWISE[-round(frame.rotation / 90) * 90 % 360][0]
    return () if matrix is None else turn_of(struct.unpack("=9i", bytes(matrix)[:36]))


def turn_of(matrix: tuple[int, ...]) -> Turn:
    """Choose the filters for a display matrix.

    Args:
        matrix: Nine numbers, row by row, as FFmpeg holds them. A singular one is ignored.
    """
    a, b, _, c, d = matrix[:5]
    area = a * d - b * c  # negative where the picture is mirrored
    if not area:
        return ()
    degrees = math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c)))
    return _CLOCKWISE[round(degrees / 90) * 90 % 360][area < 0]


def swaps_sides(turn: Turn) -> bool:
    """Tell if turning exchanges width and height."""
    return any(name == "transpose" for name, _ in turn)

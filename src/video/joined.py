"""Detection of files that hold several videos one behind the other, of which FFmpeg shows only the first."""

import mmap
from collections.abc import Sequence
from pathlib import Path

from egovlpv2.video.container import VideoError

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_NUT = b"nut/multimedia container\0"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_MOST_BOXES = 1_000_000


def check_single(path: Path, names: Sequence[str]) -> None:
    """Refuse a file in which another one of its kind begins after the first.

    In streams without such structure (MPEG-TS, MPEG-PS) it shows in their times: see `survey`.

    Args:
        path: The file.
        names: FFmpeg's names of its container.

    Raises:
        VideoError: There is one; the message gives the byte at which it begins.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if "mp4" in names:
            second = _second_movie(data)
        elif "matroska" in names:
            second = _second_segment(data)
        elif "avi" in names:
            second = _second_riff(data)
        elif "flv" in names:
            second = _second_flv(data)
        elif "nut" in names:
            second = data.find(_NUT, 1)
        elif "asf" in names:
            second = data.find(_ASF, 1)
        else:
            return
        if second > 0:
            raise VideoError(f"{path} holds another video behind the first, from byte {second} on: split or remux it")


def _second_movie(data: mmap.mmap) -> int:
    """Find where a second file of MP4 begins; -1 if none does."""
    place, seen = 0, set()
    for _ in range(_MOST_BOXES):
        if place > len(data) - 8:
            break
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if kind in (b"ftyp", b"moov"):
            if kind in seen:
                return place
            seen.add(kind)
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        if size < 8:  # this box extends to the end of the file
            break
        place += size
    return -1


def _second_riff(data: mmap.mmap) -> int:
    """Find where a second file of AVI begins; -1 if none does. Large files continue in chunks of kind AVIX."""
    place = 8 + int.from_bytes(data[4:8], "little")
    while 8 < place <= len(data) - 12:
        if data[place : place + 4] == b"RIFF" and data[place + 8 : place + 12] == b"AVI ":
            return place
        place += 8 + int.from_bytes(data[place + 4 : place + 8], "little")
    return -1


def _second_flv(data: mmap.mmap) -> int:
    """Find where a second file of Flash video begins; -1 if none does."""
    place = data.find(b"FLV\x01", 1)
    while place >= 0 and data[place + 5 : place + 13] != b"\0\0\0\t\0\0\0\0":
        place = data.find(b"FLV\x01", place + 1)
    return place


def _second_segment(data: mmap.mmap) -> int:
    """Find where a second file of Matroska begins; -1 if none does."""
    start = data.find(_SEGMENT, 0, 4096) + len(_SEGMENT)
    if start < len(_SEGMENT):
        return -1
    first = data[start] if start < len(data) else 0
    length = 8 - first.bit_length() + 1  # of the number in bytes, coded by its leading zero bits
    value = int.from_bytes(data[start : start + length], "big") & ((1 << 7 * length) - 1)
    known = value != (1 << 7 * length) - 1  # a live recording leaves it open
    end = start + length + value if known else start
    return _find_header(data, end)


def _find_header(data: mmap.mmap, start: int) -> int:
    """Find the next EBML header: its magic number, soon followed by its document type."""
    place = data.find(_EBML, start)
    while place >= 0:
        if any(kind in data[place : place + 64] for kind in (b"matroska", b"webm")):
            return place
        place = data.find(_EBML, place + 1)
    return -1

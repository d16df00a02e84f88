"""Survey of all packets of a stream, read without decoding, in place of the index that a container lacks."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.packet import Packet
from numpy.typing import NDArray

from egovlpv2.video.container import VideoError, as_fraction, open_video, reason_of

_BACK = 0.2  # seconds; decoding times that go back further belong to another video


class Survey(NamedTuple):
    """The packets of a stream."""

    stamps: NDArray[np.int64]  # (N,) presentation times, ascending, in ticks
    sizes: NDArray[np.int64]  # (N,) bytes of these packets
    complete: bool  # True if each packet has a presentation time of its own
    end: int  # of the last packet, in ticks

    def before(self, tick: int) -> int | None:
        """Return the presentation time of the last packet at or before a tick."""
        place = int(np.searchsorted(self.stamps, tick, "right"))
        return int(self.stamps[place - 1]) if place else None

    def holds(self, stamp: int, size: int) -> bool:
        """Tell if there is a packet of that presentation time and size."""
        place = int(np.searchsorted(self.stamps, stamp))
        return place < len(self.stamps) and self.stamps[place] == stamp and self.sizes[place] == size


@lru_cache(64)
def survey(path: Path, state: tuple[int, int]) -> Survey:
    """Read all packets of a file's first moving stream.

    Args:
        path: The file.
        state: Its modification time and size, so that a changed file is read anew.

    Raises:
        VideoError: The file can't be read, or its times restart in the middle, as in several files behind one another.
    """
    container, stream = open_video(path)
    tick = as_fraction(stream.time_base)
    period = max(round(1 / (as_fraction(stream.average_rate) or 25) / tick), 1) if tick else 1  # ticks
    back = int(_BACK / tick) if tick else 0  # ticks
    found: list[tuple[int, int]] = []
    complete, last, end = True, None, 0
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            last = _check_order(path, packet, last, back)
            complete &= packet.pts is not None
            begin = end if packet.pts is None else packet.pts
            end = max(end, begin + (packet.duration or period))
            found.append((begin, packet.size))
    except av.FFmpegError as error:
        if not found:
            raise VideoError(f"{path} can't be read ({reason_of(error)}): fetch or encode it again") from error
    finally:
        container.close()
    table = np.array(sorted(found), np.int64).reshape(-1, 2)
    complete &= bool((np.diff(table[:, 0]) > 0).all())
    return Survey(table[:, 0], table[:, 1], complete, end)


def _check_order(path: Path, packet: Packet, last: int | None, back: int) -> int | None:
    """Return the latest decoding time so far; refuse a packet whose time lies far before it."""
    if packet.dts is None:
        return last
    if last is not None and packet.dts < last - back:
        seconds = float(last * (as_fraction(packet.time_base) or 1))
        raise VideoError(f"{path} holds several videos behind one another: its times begin anew after {seconds:.3f} s. "
                         "Split it, or remux it to mp4")
    return packet.dts if last is None else max(last, packet.dts)

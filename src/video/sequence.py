"""Decoding from the beginning: slow, and right where a file's stamps, index or keyframes can't be relied on.

It is the arbiter: the reader's quick way shows what this shows.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from egovlpv2.video.container import VideoError, as_fraction, open_video, reason_of

_PROBED = 48  # frames that tell how a file counts time


class Counting(NamedTuple):
    """How the frames of a stream get their times."""

    by_dts: bool  # by decoding times, which come out ascending where the presentation times are not stored
    period: float  # ticks from frame to frame where there is no time at all


class Timed(NamedTuple):
    """A frame in the order of showing."""

    stamp: int  # when it is presented, in ticks
    end: int  # when the next one is, as far as the file tells
    frame: VideoFrame | None  # None: the frames from here on are damaged
    reason: str = ""


def _packets(packets: Iterable[Packet]) -> Iterator[Packet | str | None]:
    """The packets that hold something, what breaks their reading if something does, and None at the end."""
    try:
        for packet in packets:
            if packet.size:  # else a dropped frame, or the end
                yield packet
    except av.FFmpegError as error:
        yield reason_of(error)
    yield None


def _frames(packets: Iterable[Packet], stream: VideoStream) -> Iterator[VideoFrame | str]:
    """All frames that a decoder makes of a stream's packets, in its order, and for each damage what FFmpeg says of it.

    What can't be decoded before the first frame is passed over, and so are frames that lack what they refer to: those
    before the first that needs no other, at the beginning and after a damage.
    """
    codec = stream.codec_context
    started = False
    trusts: bool | None = None  # whether the first frame may be one that refers to others
    whole = False
    for item in _packets(packets):
        packet, damage = (None, item) if isinstance(item, str) else (item, "")
        frames: list[VideoFrame] = []
        if not damage:
            if trusts is None:
                trusts = codec.name == "h264" or (packet is not None and packet.is_keyframe)
            try:
                frames = codec.decode(packet)
            except av.FFmpegError as error:
                damage = reason_of(error)
        for frame in frames:
            if frame.is_corrupt or (packet is not None and packet.is_corrupt):
                damage = "the frame is damaged"
                break
            whole |= bool(frame.key_frame or (trusts and not started))
            if whole:
                started = True
                yield frame
        if damage and whole:
            whole = False
            yield damage


def probe(path: Path, stores_dts: bool = False) -> Counting | None:
    """Decode the first frames to see how the file counts time.

    Args:
        path: The file.
        stores_dts: Whether the container stores decoding times alone; then presentation times were made up, and are
            right only where they equal the times of decoding at which frames come out.

    Returns:
        None if the frames come out in the order of their presentation times; otherwise how to count.
    """
    container, stream = open_video(path)
    tick = as_fraction(stream.time_base) or 1
    period = max(float(1 / (as_fraction(stream.average_rate) or 25) / tick), 1.0)
    pairs: list[tuple[int | None, int | None]] = []
    for frame in _frames(container.demux(stream), stream):
        if isinstance(frame, str) or len(pairs) == _PROBED:
            break
        pairs.append((frame.pts, frame.dts))
    container.close()
    agree = not stores_dts or all(dts in (pts, None) for pts, dts in pairs)
    if agree and _ascend([pts for pts, _ in pairs]):
        return None
    known = [dts for _, dts in pairs if dts is not None]  # the last frames come out without a packet, and have none
    return Counting(len(known) > 1 and _ascend(known) and pairs[0][1] is not None, period)


def _ascend(stamps: Sequence[int | None]) -> bool:
    known = [stamp for stamp in stamps if stamp is not None]
    return len(known) == len(stamps) and all(a < b for a, b in pairwise(known))


def timed(packets: Iterable[Packet], stream: VideoStream, counting: Counting | None) -> Iterator[Timed]:
    """The frames of a stream in the order of showing; none is earlier than the one before.

    Args:
        packets: All of the stream, from its beginning.
        stream: Decodes them.
        counting: As `probe` says.
    """
    tick = as_fraction(stream.time_base) or 1
    period = counting.period if counting else max(float(1 / (as_fraction(stream.average_rate) or 25) / tick), 1.0)
    anchor = before = stream.start_time or 0  # the last time that the file tells, and the end of what was given out
    since = 0.0  # what has passed since the anchor, in ticks
    held: Timed | None = None  # until the next proves its time right
    for item in _frames(packets, stream):
        if isinstance(item, str):
            if held:
                yield held
            held = Timed(round(anchor + since), round(anchor + since), None, item)
            continue
        stamp = item.dts if counting and counting.by_dts else item.pts
        if stamp is not None and held and held.frame and stamp < held.stamp:
            if counting is None:
                held = held._replace(stamp=before, end=before, frame=None, reason="its times go back")
                break
            stamp = None
        if held:
            yield held
            before = held.end
        if stamp is not None:
            anchor, since = stamp, 0.0
        begin = round(anchor + since)
        since += item.duration or period
        held = Timed(begin, round(anchor + since), item)
    if held:
        yield held


class SequentialDecoder:
    """The place where decoding from the beginning stands. Going back begins anew.

    Args:
        path: The file.
        counting: As `probe` says.

    Raises:
        VideoError: No frame comes out at all.
    """

    def __init__(self, path: Path, counting: Counting | None) -> None:
        self._path, self._counting = path, counting
        self._start()
        self.first = self._best

    def _start(self) -> None:
        self._container, stream = open_video(self._path)
        self._frames = timed(self._container.demux(stream), stream, self._counting)
        first = next(self._frames, None)
        if first is None or first.frame is None:
            self.close()
            raise VideoError(f"{self._path} has no frame that can be decoded: fetch or encode it again")
        self._best, self._next = first, next(self._frames, None)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    @property
    def ended(self) -> bool:
        """True when the last frame is reached."""
        return self._next is None

    def at(self, tick: int) -> Timed:
        """The frame shown at a tick, or the first if it is later; the last if the video ends before.

        Its `end` is where the next one begins; a damage is returned as such.
        """
        if tick < self._best.stamp and self._best.stamp > self.first.stamp:
            self.close()
            self._start()
        while self._next is not None and self._next.stamp <= tick:
            self._best, self._next = self._next, next(self._frames, None)
        return self._best

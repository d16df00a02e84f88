"""Decoding from the beginning: slow, but correct for files whose times, index or keyframes are not reliable.

It is the reference: seeking must show the same frames.
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

_PROBED = 48  # frames that `probe` decodes


class Counting(NamedTuple):
    """Rule for the times of a stream's frames."""

    by_dts: bool  # use decoding times, which ascend where presentation times are not stored
    period: float  # ticks between frames without any time


class Timed(NamedTuple):
    """A frame with its time, in the order of presentation."""

    stamp: int  # presentation time, in ticks
    end: int  # time of the next frame, by the file
    frame: VideoFrame | None  # None: the frames from here on are damaged
    reason: str = ""


def _packets(packets: Iterable[Packet]) -> Iterator[Packet | str | None]:
    """Yield the packets with data, then the reason if reading fails, and None at the end."""
    try:
        for packet in packets:
            if packet.size:  # empty ones are dropped frames, or the end
                yield packet
    except av.FFmpegError as error:
        yield reason_of(error)
    yield None


def _frames(packets: Iterable[Packet], stream: VideoStream) -> Iterator[VideoFrame | str]:
    """Decode all frames of a stream's packets in decoder order; yield FFmpeg's message for each damage.

    Damage before the first frame is skipped, and so are frames that lack a reference: those before the first that
    needs none, at the beginning and after damage.
    """
    codec = stream.codec_context
    started = False
    trusts: bool | None = None  # True if the first frame may be one that refers to others
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
    """Decode the first frames to find the rule for the times of a file.

    Args:
        path: The file.
        stores_dts: True if the container stores decoding times only; then presentation times are made up, and correct
            only if they equal the decoding times.

    Returns:
        None if frames are decoded in the order of their presentation times; otherwise the rule.
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
    known = [dts for _, dts in pairs if dts is not None]  # the last frames are decoded without a packet, and have none
    return Counting(len(known) > 1 and _ascend(known) and pairs[0][1] is not None, period)


def _ascend(stamps: Sequence[int | None]) -> bool:
    known = [stamp for stamp in stamps if stamp is not None]
    return len(known) == len(stamps) and all(a < b for a, b in pairwise(known))


def timed(packets: Iterable[Packet], stream: VideoStream, counting: Counting | None) -> Iterator[Timed]:
    """Yield the frames of a stream in the order of presentation, with times that never go back.

    Args:
        packets: All packets of the stream, from its beginning.
        stream: Their stream.
        counting: Result of `probe`.
    """
    tick = as_fraction(stream.time_base) or 1
    period = counting.period if counting else max(float(1 / (as_fraction(stream.average_rate) or 25) / tick), 1.0)
    anchor = before = stream.start_time or 0  # the last time in the file, and the end of the frames yielded so far
    since = 0.0  # time since the anchor, in ticks
    held: Timed | None = None  # until the time of the next frame confirms its own
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
    """A decoder that starts at the beginning of a file; going back starts it anew.

    Args:
        path: The file.
        counting: Result of `probe`.

    Raises:
        VideoError: No frame can be decoded.
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
        """True once the last frame is reached."""
        return self._next is None

    def at(self, tick: int) -> Timed:
        """Decode the frame shown at a tick: the first if the tick is earlier, the last if the video ends before.

        Its `end` is the start of the next one. Damage is returned as a frame of None.
        """
        if tick < self._best.stamp and self._best.stamp > self.first.stamp:
            self.close()
            self._start()
        while self._next is not None and self._next.stamp <= tick:
            self._best, self._next = self._next, next(self._frames, None)
        return self._best

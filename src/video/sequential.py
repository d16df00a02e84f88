"""Decoding of a whole video once: every frame with the time it is shown at, in the video or in its chunks."""

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
from av.packet import Packet
from av.video.frame import VideoFrame

from egovlpv2.video.container import VideoError, as_fraction, open_video
from egovlpv2.video.reader import TAIL_SECONDS, open_file
from egovlpv2.video.sequence import timed

ROUNDING = Fraction(1, 1000)  # seconds to which Matroska rounds its times
_MAX_MISSING = 0.5  # seconds by which a video may be shorter than its header says
TICK = Fraction(1, 90_000)  # seconds


class TimedFrame(NamedTuple):
    """A frame and the time it is shown at, in seconds of the video or of a chunk."""

    start: Fraction
    end: Fraction
    frame: VideoFrame
    chunk: int = 0


class FullDecoder:
    """A decoder of a video from beginning to end, once.

    Args:
        path: Any video that FFmpeg opens.
        threads: Number of threads of the decoder.

    Raises:
        VideoError: The file is missing, empty, damaged or holds no picture.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        video = open_file(path)  # raises the reader's errors
        self.path, self.turn = path, video.turn  # the filters that turn the first picture upright
        self.height, self.width, self.duration = video.height, video.width, video.duration  # upright pixels; seconds
        self._origin, self._counting = video.origin, video.counting
        self._container, self.stream = open_video(path, threads)
        self.tick = as_fraction(self.stream.time_base) or Fraction(1)  # seconds
        self.rate = min(as_fraction(self.stream.average_rate) or Fraction(30), Fraction(240))  # frames a second
        self._end = 0.0  # of all streams' packets so far, in seconds
        self.seconds = Fraction(0)  # up to which it is decoded

    def frames(self) -> Iterator[TimedFrame]:
        """Yield all frames in ascending time.

        Raises:
            VideoError: The video can't be decoded to its end without damage; the message gives the time.
        """
        for item in timed(self._packets(), self.stream, self._counting):
            if item.frame is None:
                raise self._broken(item.reason)
            start = (item.stamp - self._origin) * self.tick
            if not self.seconds and start > TAIL_SECONDS:
                raise self._broken(f"the first frame that can be decoded comes at {float(start):.3f} s")
            if start > self.duration + TAIL_SECONDS:
                raise self._broken(f"a frame's time, {float(start):.3f} s, is past its end: remux it to mp4")
            end = start + ((item.end - item.stamp) * self.tick or 1 / self.rate)
            self.seconds = max(self.seconds, end)
            yield TimedFrame(start, end, item.frame)
        self._check_end(self._end)

    def _packets(self) -> Iterator[Packet]:
        """Yield the stream's packets; keeps track of the end of those of all streams."""
        for packet in self._container.demux():
            begins = packet.dts if packet.pts is None else packet.pts
            if packet.size and begins is not None:
                self._end = max(self._end, float((begins + (packet.duration or 0)) * packet.time_base))
            if packet.stream is self.stream:
                yield packet

    def _check_end(self, end: float) -> None:
        """Refuse a video that is shorter than its header says; `end` is the end of the last packet of all streams."""
        if not self.seconds:
            raise VideoError(f"{self.path} has no frame: fetch or encode it again")
        missing = 0.0
        if self.stream.duration:
            missing = float(self.stream.duration * self.tick - self.seconds)
        elif self._container.duration:
            # Some writers count it from the first frame, others, such as Matroska's, from 0.
            start = min(self._container.start_time or 0, 0)
            missing = (self._container.duration + start) / av.time_base - end
        if missing > _MAX_MISSING:
            raise self._broken(f"it ends {missing:.3f} s before it should")

    def _broken(self, reason: str) -> VideoError:
        return VideoError(f"{self.path} breaks at {float(self.seconds):.3f} s ({reason}): fetch or encode it again")


def cut(frames: Iterator[TimedFrame], chunk_seconds: Fraction, fps: float = 0.0) -> Iterator[TimedFrame]:
    """Divide frames into chunks, with times counted from each chunk's start.

    A frame is shown until the next one; it is repeated in a chunk that begins in between. The first frame is also shown
    before its time, as the reader does.

    Args:
        frames: Frames of the whole video, ascending.
        chunk_seconds: Length of a chunk.
        fps: Keeps the first frame of every `1 / fps` seconds; 0 keeps all.
    """
    held: TimedFrame | None = None
    since = end = Fraction(0)
    for item in frames:
        end = item.end
        if held and fps and _slot(item, fps) <= _slot(held, fps):
            continue
        if held:
            yield from _pieces(held.frame, since, item.start, chunk_seconds)
            since = max(item.start, Fraction(0))
        held = item
    if held:
        yield from _pieces(held.frame, since, end, chunk_seconds)


def _slot(item: TimedFrame, fps: float) -> int:
    return math.floor((item.start + ROUNDING) * Fraction(fps))


def _pieces(frame: VideoFrame, start: Fraction, end: Fraction, length: Fraction) -> Iterator[TimedFrame]:
    """Yield a frame once for each chunk that it is shown in."""
    for k in range(start // length, math.ceil(end / length)):
        piece = TimedFrame(max(start - k * length, Fraction(0)), min(end - k * length, length), frame, k)
        if piece.end - piece.start >= 2 * TICK:  # shorter ones are invisible, and rounding could leave them no time
            yield piece

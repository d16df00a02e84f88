"""A whole video, decoded once: each frame and when it is shown, also within chunks."""

import heapq
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from egovlpv2.video.open_files import open_file
from egovlpv2.video.reader import TAIL_SECONDS, VideoError

_LATE_FRAMES = 4  # frames that may come out before one that is shown earlier
ROUNDING = Fraction(1, 1000)  # seconds; Matroska rounds its times so
_MAY_LACK = 0.5  # seconds at the end of what the header says
TICK = Fraction(1, 90_000)  # seconds


class Shown(NamedTuple):
    """A frame and when it is shown, in seconds of the video or of a chunk."""

    start: Fraction
    end: Fraction
    frame: VideoFrame
    chunk: int = 0


class Source:
    """A video to be decoded once from beginning to end.

    Args:
        path: Any video that FFmpeg opens.
        threads: Of the decoder.

    Raises:
        VideoError: The file is missing, empty, damaged or holds no picture.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        video = open_file(path)  # refuses what the reader would
        self.path, self.rotation = path, video.rotation  # degrees counterclockwise
        self.height, self.width, self.duration = video.height, video.width, video.duration  # upright pixels; seconds
        self._container = av.open(str(path), metadata_errors="ignore")
        self.stream: VideoStream = self._container.streams.video[0]
        self.stream.thread_type = "AUTO" if threads > 1 else "NONE"
        self.stream.codec_context.thread_count = threads
        self.tick = self.stream.time_base or Fraction(1)  # seconds
        self.rate = min(self.stream.average_rate or Fraction(30), Fraction(240))  # frames a second
        self.seconds = Fraction(0)  # up to which it is decoded

    def frames(self) -> Iterator[Shown]:
        """All frames, ascending in time; one that comes out far too late, or twice, is left out.

        Raises:
            VideoError: The video can't be decoded unharmed to its end; says at which time.
        """
        waiting: list[tuple[Fraction, int, Shown]] = []
        last = Fraction(-(10**9))
        for number, item in enumerate(self._decode()):
            heapq.heappush(waiting, (item.start, number, item))
            if item.start < last - 1:
                raise self._broken(f"its times go back to {float(item.start):.3f} s: remux it to mp4")
            first = heapq.heappop(waiting)[2] if len(waiting) > _LATE_FRAMES else None
            if first and first.start > last:
                last = first.start
                yield first
        for start, _, item in sorted(waiting):
            if start > last:
                last = start
                yield item

    def _decode(self) -> Iterator[Shown]:
        """The frames as the decoder gives them."""
        end = 0.0  # of all streams' packets, in seconds
        origin, floor = self.stream.start_time or 0, None
        try:
            for packet in self._container.demux():
                begins = packet.dts if packet.pts is None else packet.pts
                if packet.size and begins is not None:
                    end = max(end, float((begins + (packet.duration or 0)) * packet.time_base))
                if packet.stream is not self.stream:
                    continue
                if floor is None and packet.is_keyframe and packet.size:
                    floor = begins  # frames before it lack what they refer to
                if floor is None:
                    continue
                for frame in packet.decode():
                    if item := self._shown(frame, origin, floor, packet.is_corrupt):
                        yield item
        except av.FFmpegError as error:
            raise self._broken(error.strerror or str(error)) from error
        self._check_end(end)

    def _shown(self, frame: VideoFrame, origin: int, floor: int, is_corrupt: bool) -> Shown | None:
        """When a frame is shown; None for one that is not."""
        stamp = frame.dts if frame.pts is None else frame.pts
        if stamp is None:
            raise VideoError(f"{self.path} doesn't say when its pictures are shown: remux it to mp4")
        if stamp < floor:
            return None
        if frame.is_corrupt or is_corrupt:
            raise self._broken("a frame is damaged")
        start = (stamp - origin) * self.tick
        if start > self.duration + TAIL_SECONDS:
            raise self._broken(f"a frame's time, {float(start):.3f} s, is past its end: remux it to mp4")
        end = start + (frame.duration * self.tick or 1 / self.rate)
        self.seconds = max(self.seconds, end)
        return Shown(start, end, frame)

    def _check_end(self, end: float) -> None:
        """Refuses a video that is shorter than it says; `end` is where its last packet ends, whatever it holds."""
        if not self.seconds:
            raise VideoError(f"{self.path} has no frame: fetch or encode it again")
        lacks = 0.0
        if self.stream.duration:
            lacks = float(self.stream.duration * self.tick - self.seconds)
        elif self._container.duration:
            # Some count this from the first frame on, others, as Matroska's writers, from 0.
            start = min(self._container.start_time or 0, 0)
            lacks = (self._container.duration + start) / av.time_base - end
        if lacks > _MAY_LACK:
            raise self._broken(f"it ends {lacks:.3f} s before it should")

    def _broken(self, reason: str) -> VideoError:
        return VideoError(f"{self.path} breaks at {float(self.seconds):.3f} s ({reason}): fetch or encode it again")


def cut(frames: Iterator[Shown], chunk_seconds: Fraction, fps: float = 0.0) -> Iterator[Shown]:
    """The frames of each chunk, ascending, in times of the chunk.

    A frame is shown until the next one; where a chunk begins meanwhile, it is repeated there. The first is also shown
    before its time, as the reader does.

    Args:
        frames: Of the whole video, ascending.
        chunk_seconds: Length of a chunk.
        fps: Keeps the first frame of every `1 / fps` seconds; 0 keeps all.
    """
    held: Shown | None = None
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


def _slot(item: Shown, fps: float) -> int:
    return math.floor((item.start + ROUNDING) * Fraction(fps))


def _pieces(frame: VideoFrame, start: Fraction, end: Fraction, length: Fraction) -> Iterator[Shown]:
    """One piece for each chunk that a frame is shown in."""
    for k in range(start // length, math.ceil(end / length)):
        piece = Shown(max(start - k * length, Fraction(0)), min(end - k * length, length), frame, k)
        if piece.end - piece.start >= 2 * TICK:  # nobody sees a shorter one, and rounding could give it no time
            yield piece

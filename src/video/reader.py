"""One open video file: finds, seeks and decodes the frame that is shown at a time, and nothing more.

Times are counted from the stream's first frame. The packets ahead are read without decoding them, up to the first
that can only hold later frames: that tells exactly which frame a time shows, at any frame rate and in any order.
"""

import math
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from egovlpv2.video.container import VideoError, open_video, reason_of

_EPSILON = 5e-4  # seconds; this or half a tick, whichever is less, absorbs the rounding of times
TAIL_SECONDS = 1.0  # a time up to so long after the end still shows the last frame
_SEEK_GAP = 1.0  # seconds ahead up to which packets are read on instead of asking the index
_LATE_FRAMES = 2  # frames after the wanted one that may come out before it


class VideoFile:
    """An open file and the place where its decoder stands.

    Args:
        path: Any file that FFmpeg opens.

    Raises:
        VideoError: The file holds no picture that can be decoded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()
        self._tick = float(self._stream.time_base or 0) or 1.0  # seconds
        self._origin = self._stream.start_time or 0  # ticks
        self._reset()
        self.duration = self._find_duration()  # seconds
        self._can_skip = False
        first = self.frame_at(0.0)
        self._can_skip = self._codec.name == "h264" and not first.interlaced_frame
        self.rotation = round(first.rotation / 90) * 90 % 360  # degrees counterclockwise
        upright = self.rotation % 180 == 0
        self.height, self.width = (first.height, first.width) if upright else (first.width, first.height)

    def _open(self) -> None:
        """Opens the container and its first video stream, to be decoded in one thread: workers are many."""
        self._container, self._stream = open_video(self.path)
        self._codec = self._stream.codec_context

    def close(self) -> None:
        """Closes the file."""
        self._container.close()

    def seconds(self, frame: VideoFrame) -> float:
        """When a frame is presented, in seconds from the stream's first frame."""
        return (_stamp(frame) - self._origin) * self._tick

    def frame_at(self, seconds: float) -> VideoFrame:
        """The frame shown at a time: the last that is presented at or before it, or else the first of all.

        Args:
            seconds: From the stream's first frame. Going forward decodes on, going back seeks.

        Raises:
            VideoError: The time lies past the last frame, or the frame can't be decoded unharmed.
        """
        tick = self._origin + math.floor(seconds / self._tick + min(0.5, _EPSILON / self._tick))
        try:
            return self._decode_to(self._locate(tick))
        except av.FFmpegError as error:
            raise self._broken(seconds, reason_of(error)) from error

    def _broken(self, seconds: float, reason: str) -> VideoError:
        return VideoError(f"{self.path} can't be decoded at {seconds:.3f} s ({reason}): fetch or encode it again")

    def _reset(self, packets: Iterator[Packet] | None = None) -> None:
        """Forgets all packets and frames, to read on from where the container stands."""
        self._packets = packets
        self._queue: deque[Packet] = deque()  # demuxed, not yet decoded
        self._stamps: list[int] = []  # sorted; of all packets since the last jump, in ticks
        self._ready: dict[int, VideoFrame] = {}  # decoded, later than what was wanted
        self._best: VideoFrame | None = None  # the frame shown last
        self._horizon: float = -math.inf  # frames not demuxed yet are presented after it, in ticks
        self._end = self._origin  # end of the latest frame demuxed, in ticks
        self._floor: float = -math.inf  # frames before it lack what they refer to, in ticks
        self._ended = self._drained = False

    def _seek(self, tick: int) -> None:
        """Moves the container to the keyframe that it holds for a tick, or to its start where it can't seek."""
        try:
            self._container.seek(tick, stream=self._stream)  # also empties the decoder
        except av.FFmpegError:
            self._container.close()
            self._open()
        self._reset(self._container.demux(self._stream))

    def _pull(self) -> None:
        """Demuxes one packet into the queue, from the first keyframe on, or notes the end."""
        packet = next(self._packets, None) if self._packets else None
        if packet is None:
            self._ended = True
        elif packet.size:
            stamp = _stamp(packet)
            if stamp is None:
                raise VideoError(f"{self.path} doesn't say when its pictures are shown: remux it to mp4")
            if not self._queue and not self._stamps and packet.is_keyframe:
                self._floor = stamp
            if self._floor > -math.inf:
                self._take(packet, stamp)

    def _take(self, packet: Packet, stamp: int) -> None:
        self._queue.append(packet)
        if packet.dts is not None:
            self._horizon = max(self._horizon, packet.dts)
        if stamp >= self._floor and not packet.is_discard:
            insort(self._stamps, stamp)
            self._end = max(self._end, stamp + (packet.duration or 0))

    def _demux_past(self, tick: int) -> None:
        while self._horizon <= tick and not self._ended:
            self._pull()

    def _find_duration(self) -> float:
        """The stream's length in seconds: from the header, or else from its last packets."""
        if self._stream.duration:
            return self._stream.duration * self._tick
        try:
            self._seek(self._origin + int((self._container.duration or 0) / av.time_base / self._tick))
            while not self._ended:
                self._pull()
                self._queue.clear()
        except av.FFmpegError as error:
            raise self._broken(0.0, reason_of(error)) from error
        seconds = (self._end - self._origin) * self._tick
        self._reset()
        return seconds or (self._container.duration or 0) / av.time_base

    def _is_ahead(self, tick: int) -> bool:
        """Whether to reach a tick by reading on: not when it is behind, or after a keyframe far ahead."""
        if not self._stamps or tick < (self._stamps[0] if self._best is None else _stamp(self._best)):
            return False
        if tick - self._horizon <= _SEEK_GAP / self._tick:
            return True
        index = self._stream.index_entries
        place = index.search_timestamp(tick)  # the keyframe before it; below 0: unknown
        return place < 0 or index[place].timestamp <= self._horizon

    def _seek_before(self, tick: int) -> None:
        """Moves to a keyframe that is presented at or before a tick; to the file's first if there is none."""
        lowest = self._origin - math.ceil(1 / self._tick)  # decoding begins somewhat before the first frame is shown
        place, step = max(tick, self._origin), math.ceil(0.1 / self._tick)
        while True:
            self._seek(place)
            self._demux_past(tick)
            if (self._stamps and self._stamps[0] <= tick) or place == lowest:
                return
            first = self._queue[0].dts if self._queue else None  # the container chose a keyframe that is shown later
            place = max(min(place - step, place if first is None else first - 1), lowest)
            step *= 4

    def _locate(self, tick: int) -> int:
        """The stamp of the frame shown at a tick; leaves the packets up to it in the queue."""
        if self._is_ahead(tick):
            self._demux_past(tick)
        else:
            self._seek_before(tick)
        if not self._stamps:
            raise VideoError(f"{self.path} has no frame: fetch or encode it again")
        if self._ended and (tick - self._end) * self._tick > TAIL_SECONDS:
            asked, end = ((x - self._origin) * self._tick for x in (tick, self._end))
            raise VideoError(f"{self.path} ends at {end:.3f} s, before {asked:.3f} s: cut the clip, fetch it "
                             "again, or set data.init_args.chunk_seconds to the length of your files")
        target = self._stamps[max(bisect_right(self._stamps, tick) - 1, 0)]
        self._jump(target)
        return target

    def _jump(self, target: int) -> None:
        """Drops the packets before the last keyframe that leads to the target."""
        keys = [i for i, packet in enumerate(self._queue) if packet.is_keyframe and _stamp(packet) <= target]
        if keys and keys[-1] > 0:
            for _ in range(keys[-1]):
                self._queue.popleft()
            self._codec.flush_buffers()
            self._floor = _stamp(self._queue[0])
            self._stamps = [stamp for stamp in self._stamps if stamp >= self._floor]
            self._ready.clear()
            self._best = None

    def _decode_to(self, target: int) -> VideoFrame:
        """Decodes on until the frame of that stamp is out, which it remembers and returns."""
        while True:
            for stamp in sorted(stamp for stamp in self._ready if stamp <= target):
                self._best = self._ready.pop(stamp)
            found = self._best is not None and _stamp(self._best) == target
            if found or self._drained or len(self._ready) > _LATE_FRAMES:
                break
            self._feed(target)
        if self._best is None or (target - _stamp(self._best)) * self._tick > TAIL_SECONDS:
            raise self._broken((target - self._origin) * self._tick, "no frame comes out")
        return self._best

    def _feed(self, target: int) -> None:
        """Decodes the next packet; before the target, frames that no other refers to are passed over."""
        if not self._queue and not self._ended:
            self._pull()
        packet = self._queue.popleft() if self._queue else None
        if packet is None and not self._ended:
            return
        if packet is not None and self._can_skip:
            stamp = _stamp(packet)
            self._codec.skip_frame = "NONREF" if stamp < target else "DEFAULT"
        self._drained = packet is None
        for frame in self._codec.decode(packet):
            stamp = _stamp(frame)
            if stamp is None or stamp < self._floor:
                continue
            if frame.is_corrupt or (packet is not None and packet.is_corrupt):
                raise self._broken((stamp - self._origin) * self._tick, "the frame is damaged")
            self._ready[stamp] = frame


def _stamp(item: Packet | VideoFrame) -> int | None:
    """Presentation time in ticks; decoding time where the container holds no other."""
    return item.dts if item.pts is None else item.pts

"""Fast access to a frame: seek to the keyframe before it and decode from there, if the file is reliable.

Packets are first read without decoding them, up to one that can only hold later frames. Their times show exactly which
frame belongs to a time, at any frame rate and in any order.
"""

import math
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import av
from av.packet import Packet
from av.video.frame import VideoFrame

from egovlpv2.video.container import as_fraction, open_video, presented_at, reason_of
from egovlpv2.video.survey import Survey

_SEEK_GAP = 1.0  # seconds ahead up to which packets are read without a look at the index
_LATE_FRAMES = 2  # later frames that may be decoded before the wanted one


class Doubt(Exception):
    """The frame shown at a time can't be found or decoded from where the decoder began."""


class Unreliable(Doubt):
    """The file's times are not those of its frames, so that results of seeking are not valid."""


class Damage(Doubt):
    """FFmpeg can't decode the data; the message gives its reason."""


class SeekingDecoder:
    """A decoder that seeks, with the state of its open file.

    Args:
        path: Any file that FFmpeg opens.
        packets: All packets of the stream if the container has no index; packets read later are checked against them.

    Raises:
        VideoError: As `open_video`.
    """

    def __init__(self, path: Path, packets: Survey | None = None) -> None:
        self.path, self._survey = path, packets
        self._open()
        self.tick = float(as_fraction(self.stream.time_base) or 1)  # seconds
        self.origin = self.stream.start_time or 0  # ticks
        self.can_skip = False  # True if frames that no other refers to may be skipped
        self._reset(self._container.demux(self.stream))

    def _open(self) -> None:
        """Open the file, to be decoded in one thread, as there are many workers."""
        self._container, self.stream = open_video(self.path)
        self.codec = self.stream.codec_context

    @property
    def format_name(self) -> str:
        """FFmpeg's names of the container format, separated by commas."""
        return self._container.format.name

    @property
    def header_seconds(self) -> float:
        """Length of the whole file by its header, in seconds; 0 if unknown."""
        return (self._container.duration or 0) / av.time_base

    def looks_reordered(self, by_dts: bool) -> bool:
        """Tell if frames are shown in another order than decoded without a sign of it in the first packet's times.

        Args:
            by_dts: True for a container that stores presentation times only, so that decoding times are made up.
        """
        if not self.codec.has_b_frames:
            return False
        try:
            while not self._queue and not self._ended:
                self._pull()
        except av.FFmpegError as error:
            raise Damage(reason_of(error)) from error
        first = self._queue[0] if self._queue else None
        return first is not None and first.dts is not None and (first.pts == first.dts or by_dts)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _reset(self, packets: Iterator[Packet] | None = None) -> None:
        """Forget all packets and frames; reading continues from the container's position."""
        self._packets = packets
        self._queue: deque[Packet] = deque()  # demuxed, not yet decoded
        self._stamps: list[int] = []  # sorted; of all packets since the last jump, in ticks
        self._ready: dict[int, VideoFrame] = {}  # decoded, later than the wanted frame
        self._best: VideoFrame | None = None  # the frame shown last
        self._horizon: float = -math.inf  # frames not demuxed yet are presented after it, in ticks
        self._end = self.origin  # end of the latest frame demuxed, in ticks
        self._floor: float = -math.inf  # frames before it lack references, in ticks
        self._latest: int | None = None  # time of the frame decoded last
        self._sound = False  # True if no frame from the floor on is missing
        self._ended = self._drained = False

    def _seek(self, tick: int) -> None:
        """Move the container to the keyframe in its index for a tick, or to its start if it can't seek."""
        try:
            self._container.seek(tick, stream=self.stream)  # also empties the decoder
        except av.FFmpegError:
            self._container.close()
            self._open()
        self._reset(self._container.demux(self.stream))

    def _pull(self) -> None:
        """Demux one packet into the queue, from the first keyframe on, or note the end."""
        packet = next(self._packets, None) if self._packets else None
        if packet is None:
            self._ended = True
        elif packet.size:
            stamp = packet.pts
            if stamp is None or (packet.dts is not None and packet.dts > stamp):
                raise Unreliable
            if not self._queue and not self._stamps and packet.is_keyframe:
                self._floor = stamp
            if self._floor > -math.inf:
                if self._survey and not self._survey.holds(stamp, packet.size):
                    raise Unreliable
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

    def find_end(self) -> int:
        """Read the end of the last packet, in ticks, from the last packets, or from all if the file can't seek."""
        try:
            self._seek(self.origin + int((self._container.duration or 0) / av.time_base / self.tick))
            while not self._ended:
                self._pull()
                self._queue.clear()
        except av.FFmpegError as error:
            raise Damage(reason_of(error)) from error
        end = self._end
        self._reset()
        return end

    def _is_ahead(self, tick: int) -> bool:
        """Tell if a tick is best reached by reading on: not if it is behind, or after a keyframe far ahead."""
        if not self._stamps or tick < (self._stamps[0] if self._best is None else presented_at(self._best)):
            return False
        if tick - self._horizon <= _SEEK_GAP / self.tick:
            return True
        index = self.stream.index_entries
        place = index.search_timestamp(tick)  # the keyframe before it; below 0: unknown
        return place < 0 or index[place].timestamp <= self._horizon

    def _seek_before(self, tick: int) -> None:
        """Move to a keyframe that is presented at or before a tick, or to the first of the file if there is none."""
        lowest = self.origin - math.ceil(1 / self.tick)  # decoding begins somewhat before the first frame is shown
        place, step = max(tick, lowest), math.ceil(0.1 / self.tick)
        while True:
            self._seek(place)
            self._demux_past(tick)
            if (self._stamps and self._stamps[0] <= tick) or place == lowest:
                return
            first = self._queue[0].dts if self._queue else None  # the container chose a keyframe shown later
            place = max(min(place - step, place if first is None else first - 1), lowest)
            step *= 4

    def _locate(self, tick: int, back: float | None) -> int:
        """Find the time of the frame shown at a tick; packets up to it stay in the queue."""
        if back is not None:
            self._seek_before(tick)
            self._seek_before((self._stamps[0] if self._stamps else tick) - max(int(back / self.tick), 1))
            self._demux_past(tick)
        elif self._is_ahead(tick):
            self._demux_past(tick)
        else:
            self._seek_before(tick)
        if not self._stamps or self._stamps[0] > tick:
            raise Doubt
        target = self._stamps[bisect_right(self._stamps, tick) - 1]
        if self._survey and target != self._survey.before(tick):
            raise Unreliable
        if back is None:
            self._jump(target)
        return target

    def _jump(self, target: int) -> None:
        """Drop the packets before the last keyframe from which the target can be decoded."""
        keys = [i for i, packet in enumerate(self._queue) if packet.is_keyframe and presented_at(packet) <= target]
        if keys and keys[-1] > 0:
            for _ in range(keys[-1]):
                self._queue.popleft()
            self.codec.flush_buffers()
            self._floor = presented_at(self._queue[0])
            self._stamps = [stamp for stamp in self._stamps if stamp >= self._floor]
            self._ready.clear()
            self._best = self._latest = None
            self._sound = False

    def at(self, tick: int, back: float | None = None) -> tuple[VideoFrame, int | None]:
        """Decode the frame shown at a tick; also return the end of the stream in ticks if it was reached.

        Args:
            tick: At or after the first frame.
            back: If given, decoding begins at another keyframe, at least `back` seconds before the usual one.

        Raises:
            Doubt: The frame can't be found or decoded that way.
        """
        try:
            target = self._locate(tick, back)
            return self._decode_to(target), self._end if self._ended else None
        except av.FFmpegError as error:
            self._reset()
            raise Damage(reason_of(error)) from error
        except Doubt:
            self._reset()
            raise

    def _decode_to(self, target: int) -> VideoFrame:
        """Decode until the frame of that time is out, and return it."""
        while True:
            for stamp in sorted(stamp for stamp in self._ready if stamp <= target):
                self._best = self._ready.pop(stamp)
            found = self._best is not None and self._best.pts == target
            if found or self._drained or len(self._ready) > _LATE_FRAMES:
                break
            self._feed(target)
        # A packet may give no frame of its own; then the frame before it is shown, unless that was skipped.
        if self._best is None or not (found or (self._sound and not self.can_skip)):
            raise Doubt
        return self._best

    def _feed(self, target: int) -> None:
        """Decode the next packet; before the target, frames that no other refers to are skipped."""
        if not self._queue and not self._ended:
            self._pull()
        packet = self._queue.popleft() if self._queue else None
        if packet is None and not self._ended:
            return
        if packet is not None and self.can_skip:
            self.codec.skip_frame = "NONREF" if presented_at(packet) < target else "DEFAULT"
        self._drained = packet is None
        for frame in self.codec.decode(packet):
            stamp = frame.pts
            if stamp is None or (self._latest is not None and stamp < self._latest):
                raise Unreliable
            if stamp < self._floor:
                continue
            if frame.is_corrupt or (packet is not None and packet.is_corrupt):
                raise Damage("the frame is damaged")
            if self._latest is None:
                self._begin(frame)
            self._latest = stamp
            self._ready[stamp] = frame

    def _begin(self, frame: VideoFrame) -> None:
        """Check the first frame decoded since the last jump."""
        if not frame.key_frame and self.codec.name != "h264":
            raise Doubt  # the frame refers to others although the container marks it as a keyframe
        self._sound = presented_at(frame) <= self._stamps[0]

"""Open video files that find and decode the frame shown at a given time.

Times are counted from the beginning of the stream, which is its first frame unless that is damaged or missing. The
reference is a decode of the whole file from its beginning; seeking is a fast way to the same frames. Where a file gives
reason to doubt that, decoding starts from further back, and finally from the beginning.
"""

import math
import os
import threading
from collections import OrderedDict
from pathlib import Path

from av.video.frame import VideoFrame

from egovlpv2.video.container import VideoError, as_fraction, presented_at, stat_file
from egovlpv2.video.joined import check_single
from egovlpv2.video.orientation import swaps_sides, upright
from egovlpv2.video.seeking import Damage, Doubt, SeekingDecoder, Unreliable
from egovlpv2.video.sequence import Counting, SequentialDecoder, Timed, probe
from egovlpv2.video.survey import Survey, survey

__all__ = ["TAIL_SECONDS", "VideoError", "VideoFile", "drop_file", "open_file"]

_EPSILON = 5e-4  # seconds; the tolerance for rounded times is this or half a tick, whichever is less
TAIL_SECONDS = 1.0  # a time up to so long after the end or before the first frame still shows the last or first frame
_BACK = (None, 0.0, 2.0, 10.0)  # seconds before the usual keyframe from which to decode, tried in this order
_FARTHEST = 2**62  # ticks
_USUAL_RATE = 30  # frames a second, for a file without a rate
_MAX_OPEN = 6  # files kept open by each thread


class VideoFile:
    """An open file with the state of its decoders.

    Args:
        path: Any file that FFmpeg opens.

    Attributes:
        height, width: Of the first picture, upright, in pixels.
        turn: Filters that turn it upright.
        duration: In seconds.
        origin: The time that counts as 0, in ticks.
        counting: Rule for the times of frames in a sequential decode; None for their presentation times.

    Raises:
        VideoError: The file holds no picture that can be decoded, or several videos behind one another.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._level = 0  # index in `_BACK` of the first that works for this file
        self._sequence: SequentialDecoder | None = None
        self.counting: Counting | None = None
        self._seeking, packets = self._open()
        self._tick = self._seeking.tick  # seconds
        self._is_sequential = self._needs_sequence(packets)
        first = self._first_frame()
        self.duration = self._find_duration(packets)  # seconds
        self._seeking.can_skip = self._seeking.codec.name == "h264" and not first.interlaced_frame
        self.turn = upright(first)
        self.height, self.width = size = (first.height, first.width)
        if swaps_sides(self.turn):
            self.width, self.height = size

    def _open(self) -> tuple[SeekingDecoder, Survey | None]:
        """Open the seeking decoder; also survey the packets of a file without an index."""
        decoder = SeekingDecoder(self.path)
        self._format = decoder.format_name.split(",")
        check_single(self.path, self._format)
        if {"mp4", "matroska"} & set(self._format) or ("avi" in self._format and not decoder.codec.has_b_frames):
            return decoder, None
        decoder.close()
        state = os.stat(self.path)
        packets = survey(self.path, (state.st_mtime_ns, state.st_size))
        return SeekingDecoder(self.path, packets), packets

    def _needs_sequence(self, packets: Survey | None) -> bool:
        """Tell if frame times in the file can't be right, so that it must be decoded sequentially; sets `counting`."""
        is_avi = "avi" in self._format
        if packets is not None and not packets.complete:
            self.counting = probe(self.path, is_avi)
            return True
        try:
            doubtful = packets is not None and is_avi or self._seeking.looks_reordered("matroska" in self._format)
        except Doubt:
            doubtful = True
        self.counting = probe(self.path, is_avi) if doubtful else None
        return self.counting is not None

    def _first_frame(self) -> VideoFrame:
        """Decode the first frame that can be decoded; sets `origin`."""
        self.origin = self._seeking.stream.start_time or 0  # ticks
        start: int | None = self.origin
        try:
            first = None if self._is_sequential else self._seeking.at(self.origin)[0]
        except Unreliable:
            self._distrust()
            first = None
        except Doubt:
            first = None
        shown = Timed(presented_at(first), presented_at(first), first) if first else self._from_beginning().first
        assert shown.frame is not None, "a sequence begins with a frame"
        stamp = shown.stamp
        if "avi" in self._format or (self.counting and self.counting.by_dts):
            # These are decoding times, whose first need not belong to the frame shown first.
            stamp = stamp if shown.frame.dts is None else shown.frame.dts
            start = None if abs(stamp - self.origin) * self._tick < TAIL_SECONDS else start
        if self._seeking.stream.start_time is None or start is None:
            self.origin = stamp
        return shown.frame

    def _find_duration(self, packets: Survey | None) -> float:
        """Return the stream's length in seconds, from the header or else from its last packets."""
        stream = self._seeking.stream
        if stream.duration and (packets is None or "avi" in self._format):
            return stream.duration * self._tick
        try:
            end = self._seeking.find_end() if packets is None else packets.end
        except Doubt:
            end = 0
        return max(end - self.origin, 0) * self._tick or self._seeking.header_seconds

    @property
    def rate(self) -> float:
        """Mean frame rate, in frames a second."""
        return float(as_fraction(self._seeking.stream.average_rate) or _USUAL_RATE)

    @property
    def num_frames(self) -> int:
        """Number of frames, from the header or else from length and rate."""
        return self._seeking.stream.frames or max(round(self.duration * self.rate), 1)

    def close(self) -> None:
        """Close the file."""
        self._seeking.close()
        if self._sequence:
            self._sequence.close()

    def seconds(self, frame: VideoFrame) -> float:
        """Return the presentation time of a frame, in seconds from the beginning of the stream."""
        return (presented_at(frame) - self.origin) * self._tick

    def frame_at(self, seconds: float) -> VideoFrame:
        """Decode the frame shown at a time: the last that is presented at or before it, or else the first.

        Args:
            seconds: From the beginning of the stream. Ascending times continue decoding, earlier times seek.

        Raises:
            VideoError: The time lies past the last frame, or the frame can't be decoded without damage.
        """
        tick = self._tick_at(seconds)
        if not self._is_sequential:
            try:
                return self._by_seeking(tick)
            except Damage as error:
                raise self._broken(seconds, str(error)) from error
            except Unreliable:
                self._distrust()
                tick = self._tick_at(seconds)
            except Doubt:
                pass
        return self._by_decoding_all(tick, seconds)

    def _tick_at(self, seconds: float) -> int:
        ticks = min(max(seconds, 0.0) / self._tick + min(0.5, _EPSILON / self._tick), _FARTHEST)
        return self.origin + math.floor(ticks)

    def _broken(self, seconds: float, reason: str) -> VideoError:
        return VideoError(f"{self.path} can't be decoded at {seconds:.3f} s ({reason}): fetch or encode it again")

    def _distrust(self) -> None:
        """Switch permanently to decoding from the beginning."""
        self._is_sequential, self.counting = True, probe(self.path, "avi" in self._format)
        if self._sequence:
            self._sequence.close()
            self._sequence = None

    def _from_beginning(self) -> SequentialDecoder:
        if self._sequence is None:
            self._sequence = SequentialDecoder(self.path, self.counting)
        return self._sequence

    def _by_seeking(self, tick: int) -> VideoFrame:
        """Decode the frame shown at a tick by seeking, from further back if need be; raises `Doubt` if that fails."""
        doubt: Doubt = Doubt()
        for level in range(self._level, len(_BACK)):
            try:
                frame, end = self._seeking.at(tick, _BACK[level])
            except Unreliable:
                raise
            except Doubt as error:
                doubt = error
                continue
            if level > self._level and not isinstance(doubt, Damage):
                self._level = level  # decoding from this file's keyframes doesn't suffice
            if end is not None:
                self._check_end(tick, end)
            return frame
        raise doubt

    def _by_decoding_all(self, tick: int, seconds: float) -> VideoFrame:
        """Decode the frame shown at a tick from the beginning."""
        decoder = self._from_beginning()
        shown = decoder.at(tick)
        if shown.frame is None:
            raise self._broken(seconds, shown.reason)
        self._check_begin(tick, shown)
        if decoder.ended:
            self._check_end(tick, shown.end)
        shown.frame.pts = shown.stamp  # where the file has none, or a wrong one
        return shown.frame

    def _check_begin(self, tick: int, shown: Timed) -> None:
        if (shown.stamp - tick) * self._tick > TAIL_SECONDS:
            wanted, begin = ((x - self.origin) * self._tick for x in (tick, shown.stamp))
            raise VideoError(f"{self.path} shows nothing at {wanted:.3f} s: the first frame that can be decoded comes "
                             f"at {begin:.3f} s: cut the clip, or fetch the file again")

    def _check_end(self, tick: int, last: int) -> None:
        if (tick - last) * self._tick > TAIL_SECONDS:
            wanted, end = ((x - self.origin) * self._tick for x in (tick, last))
            raise VideoError(f"{self.path} ends at {end:.3f} s, before {wanted:.3f} s: cut the clip, fetch it "
                             "again, or set data.init_args.chunk_seconds to the length of your files")


class _OpenFiles(threading.local):
    """Files by path, modification time and size, the last used last; each thread and process has its own.

    Opening a file costs about as much as decoding a short clip.
    """

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.files: OrderedDict[tuple[str, int, int], VideoFile] = OrderedDict()


_kept = _OpenFiles()


def open_file(path: Path) -> VideoFile:
    """Return the open file of a path from the cache, or open it. A changed file is opened anew.

    Raises:
        VideoError: The file is missing, empty, damaged or holds no picture.
    """
    if _kept.owner != os.getpid():  # a forked process shares the file positions of its parent
        _kept.owner, _kept.files = os.getpid(), OrderedDict()
    state = stat_file(path)
    key = (str(path), state.st_mtime_ns, state.st_size)
    if key not in _kept.files:
        _kept.files[key] = VideoFile(path)
        while len(_kept.files) > _MAX_OPEN:
            _kept.files.popitem(last=False)[1].close()
    _kept.files.move_to_end(key)
    return _kept.files[key]


def drop_file(video: VideoFile) -> None:
    """Close a file whose decoder has failed, so that the next use opens it anew."""
    _kept.files = OrderedDict((key, kept) for key, kept in _kept.files.items() if kept is not video)
    video.close()

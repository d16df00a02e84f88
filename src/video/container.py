"""Opening of video files for reading: local files only, at their first moving stream."""

import errno
import os
from fractions import Fraction
from pathlib import Path
from stat import S_ISREG
from typing import Any, Protocol

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

# Before av 19, metadata that is not UTF-8 is an error by default; since 19 it never is.
_LENIENT: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
NO_HANDLES = frozenset((errno.EMFILE, errno.ENFILE))  # limits of the machine, which affect every other file too
_ENOUGH = 256  # pictures of one stream, after which a stream with a single picture so far counts as a still
_STILL = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails


class VideoError(ValueError):
    """An error of a video file; its message is one line with the file, the fault and the remedy."""


class Rational(Protocol):
    """A ratio of two integers: a `Fraction`, or since av 19 an `AVRational`, which may be 0/0."""

    @property
    def numerator(self) -> int: ...
    @property
    def denominator(self) -> int: ...


def as_fraction(ratio: Rational | None) -> Fraction | None:
    """Convert a rate or time base of any version of av; None if it is unknown (absent, zero or undefined)."""
    return Fraction(ratio.numerator, ratio.denominator) if ratio else None


def presented_at(item: Packet | VideoFrame) -> int:
    """Return the presentation time of a packet or frame that is known to have one, in ticks."""
    assert item.pts is not None, "packets and frames without a time are sorted out before"
    return item.pts


def reason_of(error: Exception) -> str:
    """Return the message of FFmpeg or the system for an error, without the file's name."""
    return getattr(error, "strerror", None) or str(error)


def stat_file(path: Path) -> os.stat_result:
    """Return the status of a file, with its size and modification time.

    Raises:
        VideoError: It is missing, empty, can't be reached, or is not a regular file.
    """
    try:
        state = os.stat(path)
    except FileNotFoundError as error:
        target = f" (it links to {os.readlink(path)})" if path.is_symlink() else ""
        raise VideoError(f"{path} is missing{target}: check its path") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise VideoError(f"{path} can't be opened ({reason_of(error)}): check its name and permissions") from error
    if not S_ISREG(state.st_mode):
        raise VideoError(f"{path} is not a file: give the file that holds the pictures")
    if not state.st_size:
        raise VideoError(f"{path} is empty (0 bytes): fetch it again")
    return state


def open_container(path: Path) -> InputContainer:
    """Open a media file for reading.

    Args:
        path: A file; its name is never interpreted as a protocol or a network address.

    Raises:
        VideoError: As `stat_file`; or the file can't be read, or is not in a format that FFmpeg knows.
        OSError: The limit of open files is reached.
    """
    stat_file(path)
    try:
        # A playlist is a file too, and could name others.
        return av.open(f"file:{os.path.abspath(path)}", "r", container_options={"protocol_whitelist": "file"},
                       **_LENIENT)
    except (av.FFmpegError, OSError) as error:
        if error.errno in NO_HANDLES:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        hint = "change its permissions" if isinstance(error, PermissionError) else "fetch or encode it again"
        raise VideoError(f"{path} can't be opened ({reason_of(error)}): {hint}") from error


def open_video(path: Path, threads: int = 1) -> tuple[InputContainer, VideoStream]:
    """Open a media file and its first moving video stream, ready to be decoded.

    Args:
        path: As for `open_container`.
        threads: Number of threads of the decoder.

    Raises:
        VideoError: As for `open_container`; or the file has no video stream, or one in an unknown codec.
    """
    container = open_container(path)
    streams = [stream for stream in container.streams.video if not stream.disposition & _STILL]
    if len(streams) > 1:
        index = _first_moving(container, streams)
        if index is None:
            index = streams[0].index
        container.close()  # its packets have been read
        container = open_container(path)
        streams = [stream for stream in container.streams.video if stream.index == index]
    if not (streams := streams or list(container.streams.video)):
        container.close()
        raise VideoError(f"{path} has no video stream: give the file that holds the pictures")
    stream = streams[0]
    if stream.codec_context is None:
        container.close()
        raise VideoError(f"{path} is in a codec that FFmpeg can't decode here: encode it again, as H.264 for example")
    stream.thread_type = "AUTO" if threads > 1 else "NONE"
    stream.codec_context.thread_count = threads
    return container, stream


def _first_moving(container: InputContainer, streams: list[VideoStream]) -> int | None:
    """Return the index of the first stream with more than one picture, by the header or else by its packets."""
    counts = {stream.index: stream.frames for stream in streams}  # pictures; 0 where the header doesn't say
    unknown = {index for index, count in counts.items() if not count}
    try:
        for packet in container.demux(*streams) if unknown and streams[0].frames < 2 else ():
            if packet.stream.index in unknown and packet.size:
                counts[packet.stream.index] += 1
            if counts[streams[0].index] > 1 or max(counts[index] for index in unknown) > _ENOUGH:
                break
    except av.FFmpegError:
        pass  # the packets read before the damage are enough
    return next((index for index, count in counts.items() if count > 1), None)

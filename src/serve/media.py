"""Pictures and moments of videos for a browser: the video's own file where it can play that, else an encoded moment."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import av
from av.container import InputContainer

from egovlpv2.search.page import jpegs
from egovlpv2.serve.library import Video
from egovlpv2.video.container import VideoError, open_container, stat_file
from egovlpv2.video.excerpt import write_excerpt
from egovlpv2.video.transforms import WholePicture

LONGEST = 60.0
"""Seconds of a moment that is played or cut out, at most."""
SHORT_SIDE = 720  # pixels of an encoded moment, at most
_RATES = (1.0, 30.0)  # frames a second of an encoded moment
_LATEST_START = 0.05  # seconds after which a file's pictures may begin: browsers count from the file's own zero
_FORMATS: dict[str, tuple[Literal["video/mp4", "video/webm"], frozenset[str], frozenset[str]]] = {
    # Type, codecs of pictures and of sound by suffix: what Chromium, Firefox and Safari play alike.
    ".mp4": ("video/mp4", frozenset(("h264",)), frozenset(("aac", "mp3"))),
    ".m4v": ("video/mp4", frozenset(("h264",)), frozenset(("aac", "mp3"))),
    ".webm": ("video/webm", frozenset(("vp8", "vp9", "libvpx", "libvpx-vp9")), frozenset(("opus", "vorbis", "libopus",
                                                                                          "libvorbis"))),
}
_PIXELS = ("yuv420p", "yuvj420p")
_CONTAINERS = {"video/mp4": "mp4", "video/webm": "webm"}


class Playable(NamedTuple):
    """A file that a browser plays."""

    file: Path
    type: Literal["video/mp4", "video/webm"]
    offset: float  # seconds of the video at which the file begins


def find_playable(video: Video, start: float, end: float) -> Playable | None:
    """Find the file of a video that shows a moment, if browsers play it; None if the moment has to be encoded.

    Raises:
        VideoError: The file can't be read.
    """
    source = video.source
    if source.image_fps is not None:
        return None
    place = 0
    if source.chunked:
        chunk = video.entry.chunk_seconds
        place = min(int(start // chunk), len(source.files) - 1)
        if end > (place + 1) * chunk and place + 1 < len(source.files):
            return None  # it goes on in the next file
    file = source.files[place]
    try:
        state = stat_file(file)
        kind = _type_of(file, state.st_mtime_ns, state.st_size)
    except VideoError as error:
        raise VideoError(video.without_folders(str(error))) from error
    return None if kind is None else Playable(file, kind, place * video.entry.chunk_seconds)


@lru_cache(maxsize=4096)
def _type_of(file: Path, modified: int, size: int) -> Literal["video/mp4", "video/webm"] | None:
    """The media type of a file that browsers play; None of others. A changed file is looked at anew."""
    if file.suffix.lower() not in _FORMATS:
        return None
    kind, of_pictures, of_sound = _FORMATS[file.suffix.lower()]
    with open_container(file) as container:
        names = container.format.name.split(",")
        return kind if _CONTAINERS[kind] in names and _plays(container, of_pictures, of_sound) else None


def _plays(container: InputContainer, of_pictures: frozenset[str], of_sound: frozenset[str]) -> bool:
    pictures, sounds = container.streams.video, container.streams.audio
    if len(pictures) != 1 or len(sounds) > 1 or any(s.codec_context is None for s in (*pictures, *sounds)):
        return False
    stream = pictures[0]
    start = float((stream.start_time or 0) * (stream.time_base or 0))
    return (abs(start) <= _LATEST_START and stream.codec_context.name in of_pictures
            and stream.codec_context.pix_fmt in _PIXELS
            and all(sound.codec_context.name in of_sound for sound in sounds))


def encode_moment(video: Video, start: float, end: float, path: Path, check: Callable[[], None]) -> Path:
    """Write a moment with its sound as H.264 and AAC in an mp4.

    Args:
        video: The video.
        start: Seconds.
        end: Seconds.
        path: The file; it is whole or absent.
        check: Called often; what it raises ends the encoding.

    Raises:
        VideoError: The video is missing, has changed or can't be read.
    """
    video.require_unchanged()
    try:
        source = video.source
        rate = min(max(source.rate, _RATES[0]), _RATES[1])
        write_excerpt(source, video.entry.chunk_seconds, [(start, end)], path, rate, SHORT_SIDE,
                      on_progress=lambda _: check(), sound=True)
    except VideoError as error:
        raise VideoError(video.without_folders(str(error))) from error
    except av.FFmpegError as error:
        raise VideoError(f"{video.title} can't be encoded at {start:g} s ({error.strerror}): encode the video again"
                         ) from error
    return path


def read_picture(video: Video, at: float, short_side: int) -> bytes:
    """Read the picture that a video shows at a time, as a JPEG file.

    Raises:
        VideoError: The video is missing, has changed or can't be read.
    """
    video.require_unchanged()
    try:
        clip = video.source.read([at], WholePicture(short_side), video.entry.chunk_seconds)
    except VideoError as error:
        raise VideoError(video.without_folders(str(error))) from error
    return jpegs(clip.frames)[0]

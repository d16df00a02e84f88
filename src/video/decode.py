"""Frames of videos at given times, cropped and scaled by FFmpeg before they are converted to RGB.

Letters: `T` frames, `H` and `W` pixels. Times are in seconds from the stream's first frame. The frame shown at a time
is the last that is presented at or before it, or the first frame if there is none. Rotated videos are turned upright.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egovlpv2.arguments import check_call
from egovlpv2.types import NumFrames, Side
from egovlpv2.video.container import VideoError
from egovlpv2.video.convert import FrameConverter
from egovlpv2.video.reader import TAIL_SECONDS, VideoFile, drop_file, open_file
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import CropBox, EvalTransform

__all__ = ["Clip", "Crop", "VideoError", "VideoInfo", "read_chunks", "read_clip", "read_frames", "video_info"]

Crop = CropBox | Callable[[int, int], CropBox] | None
"""A box in the first picture, a function that returns one for an upright picture's height and width, or None for the
whole picture. A video whose pictures change their size is shown at the size of the first; a function is called for each
size.
"""


class Clip(NamedTuple):
    """The frames of a clip and when they are presented."""

    frames: Tensor  # (T, 3, H, W) uint8 RGB
    times: NDArray[np.float64]  # (T,) seconds


class VideoInfo(NamedTuple):
    """Properties of a video file."""

    height: int  # pixels, upright
    width: int
    duration: float  # seconds
    frames: int  # by the header, or else by length and rate
    rate: float  # frames a second, the mean


def video_info(path: str | Path) -> VideoInfo:
    """Read size, length and frame rate of a video.

    Raises:
        VideoError: The file is missing, empty, damaged or holds no picture.
    """
    video = open_file(Path(path))
    return VideoInfo(video.height, video.width, video.duration, video.num_frames, video.rate)


def read_clip(path: str | Path, start: float | None = None, end: float | None = None, num_frames: NumFrames = 4,
              size: Side | None = None) -> Clip:
    """Read the frames at the centres of equal segments of a clip.

    Args:
        path: Any video that FFmpeg opens.
        start: Where the clip begins, in seconds; None or a negative number: where the video begins.
        end: Where it ends, in seconds; None or a time past the end: where the video ends.
        num_frames: Number of frames.
        size: Side in pixels to which the largest centred square is scaled; None keeps the whole picture as it is.

    Returns:
        Frames `(T, 3, H, W)`, uint8 RGB, and their times.

    Raises:
        ValueError: An argument has another type or is out of bounds.
        VideoError: The clip ends before it begins or begins after the video's end, or the file can't be read.
    """
    check_call(read_clip, locals())
    path = Path(path)
    duration = open_file(path).duration
    first = max(start or 0.0, 0.0)
    last = duration if end is None else end
    if not last >= first:  # also refuses NaN
        raise VideoError(f"clip {first}-{last} s of {path} ends before it begins: swap its times")
    if first >= duration:
        raise VideoError(f"clip {first}-{last} s begins after the end of {path} ({duration:.1f} s): check its times")
    crop = None if size is None else EvalTransform(size)
    return read_frames(path, uniform_times(first, min(last, duration), num_frames), crop)


def read_frames(path: str | Path, times: Sequence[float] | NDArray[np.float64], crop: Crop = None) -> Clip:
    """Read the frames that a video shows at given times.

    Args:
        path: Any video that FFmpeg opens.
        times: In seconds, at least one; ascending times are fastest. Up to a second past the end gives the last frame.
        crop: Part of the pictures to show, and its output size.

    Returns:
        Frames `(T, 3, H, W)`, uint8 RGB, and when they are presented.

    Raises:
        VideoError: The file is missing, empty or damaged, or a time lies past its end.
    """
    return _read([(Path(path), time) for time in _finite(path, times)], crop)


def read_chunks(
    folder: str | Path,
    times: Sequence[float] | NDArray[np.float64],
    crop: Crop = None,
    chunk_seconds: float = 600.0,
) -> Clip:
    """Read frames of a video that is stored in chunks, as EgoClip's: `<video_uid>/0.mp4`, `1.mp4`, ...

    Args:
        folder: The video's folder.
        times: In seconds of the whole video, at least one. A clip may span chunks.
        crop: Part of the pictures to show, and its output size; a function gets the size of the first chunk read.
        chunk_seconds: Length of a chunk; a chunk's own times begin at 0.

    Returns:
        Frames `(T, 3, H, W)`, uint8 RGB, and when they are presented, in seconds of the whole video.

    Raises:
        VideoError: As `read_frames`; or a chunk is missing, except within a second past the last one.
    """
    places = [_chunk(Path(folder), time, chunk_seconds) for time in _finite(folder, times)]
    clip = _read([(path, time - offset) for path, time, offset in places], crop)
    return Clip(clip.frames, clip.times + np.array([offset for _, _, offset in places]))


def _finite(path: str | Path, times: Sequence[float] | NDArray[np.float64]) -> list[float]:
    """Convert times to floats and refuse those that are not finite."""
    numbers = [float(time) for time in times]
    if wrong := [time for time in numbers if not math.isfinite(time)]:
        raise VideoError(f"no frame of {path} is shown at {wrong[0]} s: give finite times")
    return numbers


def _chunk(folder: Path, time: float, chunk_seconds: float) -> tuple[Path, float, float]:
    """Locate a time: the chunk's file, the time, and the chunk's start in seconds of the whole video."""
    number = max(int(time // chunk_seconds), 0)
    path = folder / f"{number}.mp4"
    before = folder / f"{number - 1}.mp4"
    if time - number * chunk_seconds <= TAIL_SECONDS and number and not path.exists() and before.exists():
        number, path = number - 1, before
    return path, time, number * chunk_seconds


def _read(places: list[tuple[Path, float]], crop: Crop) -> Clip:
    """Read the frames at pairs of a file and seconds of it; all are cropped alike."""
    if not places:
        raise VideoError("no times were given: ask for at least one frame")
    first = open_file(places[0][0])
    size = (first.height, first.width)
    converter = FrameConverter(partial(crop_box, crop, size), *size)
    frames = torch.empty(len(places), 3, *converter.size, dtype=torch.uint8)  # (T, 3, H, W)
    shown = np.empty(len(places))  # (T,)
    for i, (path, time) in enumerate(places):
        video = open_file(path) if path != places[0][0] else first
        if (video.height, video.width) != size:
            raise VideoError(f"{path} is not {size[1]}x{size[0]} px as {places[0][0]}: encode both at one size")
        shown[i] = _show(path, video, time, converter, frames[i].numpy())
    return Clip(frames, shown)


def crop_box(crop: Crop, first: tuple[int, int], height: int, width: int) -> CropBox:
    """Choose the part to show of a picture; a fixed box grows and shrinks with the picture.

    Args:
        crop: A box, a function, or None for the whole picture.
        first: Height and width of the first picture, in pixels, to which a fixed box belongs.
        height: Of this picture.
        width: Of this picture.
    """
    if callable(crop):
        return crop(height, width)
    box = crop or CropBox(0, 0, *first, *first)
    if (height, width) == first:
        return box
    down, across = height / first[0], width / first[1]
    top, left = min(round(box.top * down), height - 1), min(round(box.left * across), width - 1)
    tall, wide = max(round(box.height * down), 1), max(round(box.width * across), 1)
    return box._replace(top=top, left=left, height=min(tall, height - top), width=min(wide, width - left))


def _show(path: Path, video: VideoFile, time: float, converter: FrameConverter, out: NDArray[np.uint8]) -> float:
    """Write one frame into `out` `(3, H, W)` and return its time; a file that fails is closed."""
    try:
        frame = video.frame_at(time)
        converter.convert(frame, out)
        return video.seconds(frame)
    except av.FFmpegError as error:
        raise VideoError(f"{path} can't be converted to RGB ({error}): encode it again") from error
    except VideoError:
        drop_file(video)
        raise

"""Read the clips of a data set: from which file, at which times, and which part of the picture."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from egovlpv2.data_modules.frame_order import arrange
from egovlpv2.io.schema import shown
from egovlpv2.types import FrameOrder
from egovlpv2.video.container import VideoError
from egovlpv2.video.decode import Clip, VideoInfo, read_chunks, read_frames, video_info
from egovlpv2.video.frame_rules import FrameRule, Span, Times, centre
from egovlpv2.video.reader import TAIL_SECONDS
from egovlpv2.video.transforms import CropBox, EvalTransform, TrainTransform

Crop = Callable[[int, int], CropBox]
T = TypeVar("T")

MAX_TRIES = 10  # rows that may fail one after the other


class Failure(NamedTuple):
    """A row whose video can't be read."""

    row: int
    video: str
    reason: str


class ClipError(VideoError):
    """A clip that can't be read.

    Args:
        video: Its video, as the annotations name it.
        reason: One line with the file, what is wrong and what to do.
    """

    def __init__(self, video: str, reason: str) -> None:
        super().__init__(reason)
        self.video = video


class EvalClip(NamedTuple):
    """A clip in evaluation."""

    frames: Tensor  # (T, 3, H, W) uint8
    beyond_video: bool  # it ends more than a second after its video


def read_or_replace(row: int, num_rows: int, rng: np.random.Generator, read: Callable[[int], T]
                    ) -> tuple[int, T, list[Failure]]:
    """Read a row, or, while its clips can't be read, other rows drawn at random.

    Args:
        row: The first row to try.
        num_rows: Number of rows to draw from.
        rng: Draws the other rows.
        read: Reads a row.

    Returns:
        The row that was read, its content, and the failures before it.

    Raises:
        ValueError: `MAX_TRIES` rows failed one after the other.
    """
    failures: list[Failure] = []
    while len(failures) < MAX_TRIES:
        try:
            return row, read(row), failures
        except ClipError as error:
            failures.append(Failure(row, error.video, str(error)))
            row = int(rng.integers(num_rows))
    raise ValueError(f"{MAX_TRIES} clips one after the other could not be read; the last: {failures[-1].reason}")


@dataclass(frozen=True)
class VideoFile:
    """A video in one file.

    Args:
        path: The file.
    """

    path: Path

    def span(self, start: float, end: float) -> Span:
        """The clip from `start` to `end`, seconds; an infinite end is the video's."""
        info = video_info(self.path)
        if start >= info.duration:
            raise VideoError(f"{self.path} ends at {info.duration:.3f} s, before the clip {start:.3f}-{end:.3f} s "
                             "begins")
        return Span(start, min(end, info.duration), end, lambda chunk: (0, info))

    def end(self, clip: Span, last: float) -> float:
        """The end of the video, seconds."""
        return clip.info(0)[1].duration

    def read(self, times: Times, crop: Crop) -> Clip:
        """The frames at some times of the video, in seconds."""
        return read_frames(self.path, times, crop)


@dataclass(frozen=True)
class ChunkedVideo:
    """A video in EgoClip's layout: files `<k>.mp4` of equal length in one folder.

    Args:
        folder: The video's folder.
        chunk_seconds: Length of a file.
    """

    folder: Path
    chunk_seconds: float

    def span(self, start: float, end: float) -> Span:
        """The clip from `start` to `end`, seconds of the whole video."""
        first = int(max(start, 0.0) // self.chunk_seconds)
        if start - first * self.chunk_seconds > TAIL_SECONDS:
            video_info(self.folder / f"{first}.mp4")  # raises if the chunk is missing: the clip is beyond the end
        return Span(start, end, end, self._info)

    def end(self, clip: Span, last: float) -> float:
        """The end of the video, seconds; infinite where another chunk follows that of the time `last`."""
        chunk, info = clip.info(int(max(last, 0.0) // self.chunk_seconds))
        if (self.folder / f"{chunk + 1}.mp4").exists():
            return inf
        return chunk * self.chunk_seconds + info.duration

    def read(self, times: Times, crop: Crop) -> Clip:
        """The frames at some times of the whole video, in seconds."""
        return read_chunks(self.folder, times, crop, self.chunk_seconds)

    def _info(self, chunk: int) -> tuple[int, VideoInfo]:
        """Number and header of a chunk, or of the last existing chunk if it lies beyond that."""
        last = chunk
        if not (self.folder / f"{chunk}.mp4").exists():
            numbers = [int(path.stem) for path in self.folder.glob("*.mp4") if path.stem.isdecimal()]
            last = max(numbers, default=chunk)
        return min(last, chunk), video_info(self.folder / f"{min(last, chunk)}.mp4")


@dataclass(frozen=True)
class ClipReader:
    """Read clips of a folder of videos.

    Args:
        folder: The folder of the videos.
        num_frames: Frames of a clip.
        size: Height and width of the frames, pixels.
        chunk_seconds: Length of the files of a `ChunkedVideo`; None: each video is one file.
        rule: Times of the frames to show.
        flip: Probability of mirroring a clip in training, 0 to 1.
        short_side: Of the evaluation's crop, see `EvalTransform`.
        rgb_first: See `EvalTransform`.
        order: Order of the frames in evaluation; training is always forward.
        seed: Seed of the `shuffled` orders.
    """

    folder: Path
    num_frames: int
    size: int
    chunk_seconds: float | None = None
    rule: FrameRule = field(default=centre, kw_only=True)
    flip: float = field(default=0.5, kw_only=True)
    short_side: int = field(default=256, kw_only=True)
    rgb_first: bool = field(default=False, kw_only=True)
    order: FrameOrder = field(default="forward", kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def train(self, name: str, start: float, end: float, rng: np.random.Generator) -> Tensor:
        """Frames at random times in a random part of the picture: (T, 3, H, W) uint8.

        Args:
            name: The video, as the annotations name it.
            start: Seconds of the video.
            end: Seconds of the video; infinite: the video's end.
            rng: Draws the times and the crop.

        Raises:
            ClipError: The video can't be read.
        """
        with self._open(name) as video:
            times = self.rule(video.span(start, end), self.num_frames, rng)
            crop = TrainTransform(self.size, flip=self.flip, rgb_first=self.rgb_first)
            return video.read(times, partial(crop, rng=rng)).frames

    def evaluate(self, name: str, start: float, end: float, rng: np.random.Generator | None = None) -> EvalClip:
        """Frames of the largest square, at the centres of equal segments, or at times drawn by `rng`, in `order`.

        Raises:
            ClipError: The video can't be read.
        """
        with self._open(name) as video:
            span = video.span(start, end)
            times = self.rule(span, self.num_frames, rng)
            stop = video.end(span, times[-1])
            crop = EvalTransform(self.size, self.short_side, self.rgb_first)
            frames = video.read(np.minimum(times, stop), crop).frames
            frames = arrange(frames, self.order, f"{self.seed} {name} {start} {end}")
            return EvalClip(frames, stop + TAIL_SECONDS < end < inf)

    def video(self, name: str) -> VideoFile | ChunkedVideo:
        """A video of the folder.

        Raises:
            VideoError: The name leads outside the folder, or no file can have it.
        """
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise VideoError(f"the video {shown(name)} of an annotation would lie outside {self.folder}: name it by "
                             "its path in there")
        if "\0" in name:
            raise VideoError(f"{str(self.folder / name)!r} is not the name of a file: look for a zero byte in the "
                             "annotations")
        path = self.folder / name
        return VideoFile(path) if self.chunk_seconds is None else ChunkedVideo(path, self.chunk_seconds)

    @contextmanager
    def _open(self, name: str) -> Iterator[VideoFile | ChunkedVideo]:
        """A video of the folder; errors while it is read are raised as `ClipError`."""
        try:
            yield self.video(name)
        except VideoError as error:
            raise ClipError(name, str(error)) from error
        except OSError as error:
            reason = f"{self.folder / name} can't be read ({error.strerror or error}): check its name and permissions"
            raise ClipError(name, reason) from error

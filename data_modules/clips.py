"""Reads the clips of a data set: where they lie, at which times, and which part of the picture."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from egovlpv2.data_modules.base import Failure
from egovlpv2.io.schema import shown
from egovlpv2.video.container import VideoError
from egovlpv2.video.decode import Clip, VideoInfo, read_chunks, read_frames, video_info
from egovlpv2.video.frame_rules import FrameRule, Span, Times, centre
from egovlpv2.video.reader import TAIL_SECONDS
from egovlpv2.video.transforms import CropBox, EvalTransform, TrainTransform

Crop = Callable[[int, int], CropBox]
T = TypeVar("T")

TRIES = 10  # rows that may fail one after the other


def read_or_replace(row: int, num_rows: int, rng: np.random.Generator, read: Callable[[int], T],
                    name: Callable[[int], str]) -> tuple[int, T, list[Failure]]:
    """Reads a row, or, where its video can't be read, others drawn at random.

    Args:
        row: To begin with.
        num_rows: How many there are.
        rng: Draws the others.
        read: Reads a row.
        name: The video of a row.

    Returns:
        The row that was read, what was read, and the failures before.

    Raises:
        ValueError: One row after the other failed.
    """
    failures: list[Failure] = []
    while len(failures) < TRIES:
        try:
            return row, read(row), failures
        except VideoError as error:
            failures.append(Failure(row, name(row), str(error)))
            row = int(rng.integers(num_rows))
    raise ValueError(f"{TRIES} clips one after the other could not be read; the last: {failures[-1].reason}")


@contextmanager
def _named_failures(path: Path) -> Iterator[None]:
    """Raise what the file system refuses while a video is read as a `VideoError`, which counts as that clip's failure.

    Args:
        path: The video's file or folder.
    """
    if "\0" in str(path):
        raise VideoError(f"{str(path)!r} is not the name of a file: look for a zero byte in the annotations")
    try:
        yield
    except OSError as error:
        raise VideoError(f"{path} can't be read ({error.strerror or error}): check its name and permissions") from error


class EvalClip(NamedTuple):
    """A clip in evaluation."""

    frames: Tensor  # (T, 3, H, W) uint8
    beyond_video: bool  # it ends more than a second after its video


@dataclass(frozen=True)
class ClipReader:
    """Reads clips of videos that are one file each.

    Args:
        folder: Where the videos are.
        num_frames: Frames of a clip.
        size: Their height and width, pixels.
        rule: Of the times to show.
        flip: How probable mirroring is in training, 0 to 1.
        short_side: Of the evaluation's crop, see `EvalTransform`.
        rgb_first: See `EvalTransform`.
    """

    folder: Path
    num_frames: int
    size: int
    rule: FrameRule = field(default=centre, kw_only=True)
    flip: float = field(default=0.5, kw_only=True)
    short_side: int = field(default=256, kw_only=True)
    rgb_first: bool = field(default=False, kw_only=True)

    def train(self, video: str, start: float, end: float, rng: np.random.Generator) -> Tensor:
        """Frames at random times in a random part of the picture: (T, 3, H, W) uint8."""
        with _named_failures(self._path(video)):
            times = self.rule(self._span(video, start, end), self.num_frames, rng)
            crop = TrainTransform(self.size, flip=self.flip, rgb_first=self.rgb_first)
            return self._read(video, times, partial(crop, rng=rng)).frames

    def evaluate(self, video: str, start: float, end: float, rng: np.random.Generator | None = None) -> EvalClip:
        """Frames of the largest square, at times in the middle of segments, or at random ones drawn by `rng`."""
        with _named_failures(self._path(video)):
            span = self._span(video, start, end)
            times, stop = self._until_the_end(video, span, self.rule(span, self.num_frames, rng))
            frames = self._read(video, times, EvalTransform(self.size, self.short_side, self.rgb_first)).frames
            return EvalClip(frames, stop + TAIL_SECONDS < end < inf)

    def _path(self, video: str) -> Path:
        """The place of a video, which an annotation file names: never outside the folder."""
        if Path(video).is_absolute() or ".." in Path(video).parts:
            raise VideoError(f"the video {shown(video)} of an annotation would lie outside {self.folder}: name it by "
                             "its path in there")
        return self.folder / video

    def _span(self, video: str, start: float, end: float) -> Span:
        """The clip; an infinite end is the video's."""
        path = self._path(video)
        info = video_info(path)
        if start >= info.duration:
            raise VideoError(f"{path} ends at {info.duration:.3f} s, before the clip {start:.3f}-{end:.3f} s begins")
        return Span(start, min(end, info.duration), end, lambda chunk: (0, info))

    def _until_the_end(self, video: str, clip: Span, times: Times) -> tuple[Times, float]:
        """The times, none beyond the video's end, and that end in seconds; infinite if it is far."""
        stop = clip.info(0)[1].duration
        return np.minimum(times, stop), stop

    def _read(self, video: str, times: Times, crop: Crop) -> Clip:
        return read_frames(self._path(video), times, crop)


@dataclass(frozen=True)
class ChunkReader(ClipReader):
    """Reads clips of videos in EgoClip's layout, `<folder>/<video_uid>/<k>.mp4`.

    Args:
        folder: Where the videos are.
        num_frames: Frames of a clip.
        size: Their height and width, pixels.
        chunk_seconds: Length of a video's files.
        rule: Of the times to show.
        flip: How probable mirroring is in training, 0 to 1.
        short_side: Of the evaluation's crop, see `EvalTransform`.
        rgb_first: See `EvalTransform`.
    """

    chunk_seconds: float

    def _span(self, video: str, start: float, end: float) -> Span:
        folder, first = self._path(video), int(max(start, 0.0) // self.chunk_seconds)
        if start - first * self.chunk_seconds > TAIL_SECONDS:
            video_info(folder / f"{first}.mp4")  # an error if it is not there: not fetched, or far beyond the video
        return Span(start, end, end, partial(self._info, folder))

    def _info(self, folder: Path, chunk: int) -> tuple[int, VideoInfo]:
        """A chunk's number and facts; those of the last chunk that there is if it lies beyond that."""
        there = chunk
        if not (folder / f"{chunk}.mp4").exists():
            there = max((number for number in self._numbers(folder)), default=chunk)
        return min(there, chunk), video_info(folder / f"{min(there, chunk)}.mp4")

    def _numbers(self, folder: Path) -> list[int]:
        """The chunks that there are."""
        return [int(path.stem) for path in folder.glob("*.mp4") if path.stem.isdecimal()]

    def _until_the_end(self, video: str, clip: Span, times: Times) -> tuple[Times, float]:
        last, info = clip.info(int(max(times[-1], 0.0) // self.chunk_seconds))
        if (self._path(video) / f"{last + 1}.mp4").exists():
            return times, inf
        stop = last * self.chunk_seconds + info.duration
        return np.minimum(times, stop), stop

    def _read(self, video: str, times: Times, crop: Crop) -> Clip:
        return read_chunks(self._path(video), times, crop, self.chunk_seconds)

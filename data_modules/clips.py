"""Reads the clips of a data set: where they lie, at which times, and which part of the picture."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from egovlpv2.data_modules.base import Failure
from egovlpv2.schema import shown
from egovlpv2.video.decode import Clip, VideoError, read_chunks, read_frames, video_info
from egovlpv2.video.sampling import jittered_times, uniform_times
from egovlpv2.video.transforms import CropBox, EvalTransform, TrainTransform
from numpy.typing import NDArray
from torch import Tensor

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


@dataclass(frozen=True)
class ClipReader:
    """Reads clips of videos that are one file each.

    Args:
        folder: Where the videos are.
        num_frames: Frames of a clip.
        size: Their height and width, pixels.
    """

    folder: Path
    num_frames: int
    size: int

    def train(self, video: str, start: float, end: float, rng: np.random.Generator) -> Tensor:
        """Frames at random times in a random part of the picture: (T, 3, H, W) uint8."""
        with _named_failures(self._path(video)):
            times = jittered_times(*self._span(video, start, end), self.num_frames, rng)
            return self._read(video, times, partial(TrainTransform(self.size), rng=rng)).frames

    def evaluate(self, video: str, start: float, end: float) -> Tensor:
        """Frames at even times in the middle of the picture: (T, 3, H, W) uint8."""
        with _named_failures(self._path(video)):
            times = uniform_times(*self._span(video, start, end), self.num_frames)
            return self._read(video, times, EvalTransform(self.size)).frames

    def _path(self, video: str) -> Path:
        """The place of a video, which an annotation file names: never outside the folder."""
        if Path(video).is_absolute() or ".." in Path(video).parts:
            raise VideoError(f"the video {shown(video)} of an annotation would lie outside {self.folder}: name it by "
                             "its path in there")
        return self.folder / video

    def _span(self, video: str, start: float, end: float) -> tuple[float, float]:
        """What of the clip lies in the video; an infinite end is the video's."""
        path = self._path(video)
        duration = video_info(path).duration
        if start >= duration:
            raise VideoError(f"{path} ends at {duration:.3f} s, before the clip {start:.3f}-{end:.3f} s begins")
        return start, min(end, duration)

    def _read(self, video: str, times: NDArray[np.float64], crop: Crop) -> Clip:
        return read_frames(self._path(video), times, crop)


@dataclass(frozen=True)
class ChunkReader(ClipReader):
    """Reads clips of videos in EgoClip's layout, `<folder>/<video_uid>/<k>.mp4`.

    Args:
        folder: Where the videos are.
        num_frames: Frames of a clip.
        size: Their height and width, pixels.
        chunk_seconds: Length of a video's files.
    """

    chunk_seconds: float

    def _span(self, video: str, start: float, end: float) -> tuple[float, float]:
        return start, end

    def _read(self, video: str, times: NDArray[np.float64], crop: Crop) -> Clip:
        return read_chunks(self._path(video), times, crop, self.chunk_seconds)

"""Collections of videos: files, folders of chunks and folders of pictures."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from egovlpv2.video.container import VideoError
from egovlpv2.video.decode import Clip, Crop, read_chunks, read_frames, video_info
from egovlpv2.video.find import (
    VIDEO_SUFFIXES,
    Listing,
    kind_of,
    numbers_of,
    refuse_first_seconds,
    search_folder,
    video_name,
)
from egovlpv2.video.images import find_images, read_images
from egovlpv2.video.share import own_share


@dataclass(frozen=True)
class VideoSource:
    """A video: one file, a folder of chunks `0.mp4`, `1.mp4`, ... as EgoClip and `egovlpv2 prepare` have them, or
    a folder of pictures.

    Args:
        name: Its name, which its feature file gets too.
        files: Its file, its chunks in order, or the folder of its pictures.
        chunked: True for more than one chunk; a single one may be of any length.
        image_fps: Rate of a folder of pictures, in pictures a second; None for videos.
        problem: The reason why it can't be read, if its names alone show that; else empty.
    """

    name: str
    files: tuple[Path, ...]
    chunked: bool
    image_fps: float | None = None
    problem: str = ""

    @property
    def place(self) -> Path:
        """The file, or the folder of the chunks or pictures."""
        first = self.files[0]
        one_file = self.image_fps is not None or (first.stem == self.name and not self.chunked)
        return first if one_file else first.parent

    @property
    def num_bytes(self) -> int:
        """Size of all its files."""
        return sum(file.stat().st_size for file in (self.files if self.image_fps is None else self._images))

    @property
    def _images(self) -> list[Path]:
        """The pictures, listed once in a process, as there may be hundreds of thousands."""
        return _listed(self.files[0], self.files[0].stat().st_mtime_ns)

    @property
    def rate(self) -> float:
        """Frame rate, in frames a second."""
        return self.image_fps or video_info(self.files[0]).rate

    def read(self, times: Sequence[float] | NDArray[np.float64], crop: Crop, chunk_seconds: float) -> Clip:
        """Read the frames at given times, in seconds of the whole video.

        Raises:
            VideoError: As `read_chunks`.
        """
        if self.image_fps is not None:
            return read_images(self._images, self.image_fps, times, crop)
        if self.chunked:
            return read_chunks(self.files[0].parent, times, crop, chunk_seconds)
        return read_frames(self.files[0], times, crop)

    def duration(self, chunk_seconds: float) -> float:
        """Compute the length in seconds.

        Raises:
            VideoError: The video can't be read, or its chunks have another length.
        """
        if self.problem:
            raise VideoError(self.problem)
        if self.image_fps is not None:
            return len(self._images) / self.image_fps
        last = video_info(self.files[-1]).duration
        if len(self.files) == 1:
            return last
        first = video_info(self.files[0]).duration
        if abs(first - chunk_seconds) > 1:
            raise VideoError(f"{self.files[0]} lasts {first:.1f} s and the chunks should last {chunk_seconds:g}: set "
                             "--chunk-seconds, or rename the files if they are videos of their own")
        return (len(self.files) - 1) * chunk_seconds + last


@lru_cache
def _listed(folder: Path, modified: int) -> list[Path]:
    """The pictures of a folder, which is listed again after pictures came or went."""
    return find_images(folder)


def find_videos(paths: Iterable[str | Path], image_fps: float | None = None) -> list[VideoSource]:
    """Find the videos among files and in folders, sorted by name.

    An inner folder that can't be searched, or a missing chunk, gives a video with a `problem`, so that all others can
    be read.

    Args:
        paths: Files and folders.
        image_fps: Rate of videos that are folders of pictures, in pictures a second.

    Raises:
        ValueError: A path doesn't exist, can't be read or holds no video; two videos have one name; there are
            pictures but no `image_fps`; or chunks are named by their first second.
    """
    found: dict[str, VideoSource] = {}
    image_fps = None if image_fps is None else float(image_fps)
    for path in map(Path, map(os.path.abspath, paths)):  # `.` and `..` have no name
        if _is_missing(path):
            raise ValueError(f"{path}: there is no such file or folder")
        sources = [VideoSource(path.stem, (path,), False)] if kind_of(path) == "file" else _in_folder(path, image_fps)
        if not sources:
            raise ValueError(f"{path} holds no videos ({' '.join(sorted(VIDEO_SUFFIXES))})")
        for source in sources:
            other = found.setdefault(source.name, source)
            if other != source:
                raise ValueError(f"{other.files[0]} and {source.files[0]} would write one feature file: rename one of "
                                 "them")
    return [found[name] for name in sorted(found)]


def share_of_videos(sources: Sequence[VideoSource], share: str | None = None) -> list[VideoSource]:
    """This process's share of the videos, see `own_share`."""
    return own_share(sources, lambda source: 0 if source.problem else source.num_bytes, share)


def _is_missing(path: Path) -> bool:
    """Tell if nothing lies at a path; of one that can't be reached, `kind_of` gives the reason."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _in_folder(root: Path, image_fps: float | None) -> list[VideoSource]:
    """Find the videos in a folder and all folders in it; pictures are a video if no inner folder holds one."""
    sources: list[VideoSource] = []
    holding: set[Path] = set()  # folders with videos in them, at any depth
    listings = search_folder(root)
    for listing in listings:
        refuse_first_seconds(listing)
    for listing in reversed(listings):
        folder = listing.folder
        found = _among(listing)
        if not found and folder not in holding:
            found = _of_pictures(folder, image_fps)
        if found or folder in holding:
            holding |= {folder, folder.parent}
        sources += found
    return sorted(sources, key=lambda source: source.files)


def _among(listing: Listing) -> list[VideoSource]:
    """List the videos directly in a folder: one for each file, or a single one if the files are its chunks."""
    if listing.reason:
        return [VideoSource(str(listing.folder), (listing.folder,), False, problem=listing.reason)]
    numbers = numbers_of(listing.videos)
    if not numbers or numbers[0] != 0:
        return [VideoSource(path.stem, (path,), False) for path in listing.videos]
    chunks = tuple(listing.folder / f"{number}.mp4" for number in numbers)
    missing = min(set(range(len(numbers))).difference(numbers), default=None)
    problem = "" if missing is None else (
        f"{listing.folder} holds chunks of a video, 0.mp4 to {chunks[-1].name}, but not {missing}.mp4: fetch it, "
        "or rename the files if they are videos of their own")
    return [VideoSource(video_name(listing.folder), chunks, len(chunks) > 1, problem=problem)]


def _of_pictures(folder: Path, image_fps: float | None) -> list[VideoSource]:
    """Describe the pictures of a folder as a video, if there are any."""
    try:
        images = find_images(folder)
    except OSError as error:
        problem = f"{folder} can't be searched for pictures ({error.strerror}): change its permissions, or leave it out"
        return [VideoSource(str(folder), (folder,), False, problem=problem)]
    if images and image_fps is None:
        raise ValueError(f"{folder} holds {len(images)} pictures: give their rate with --image-fps")
    return [VideoSource(folder.name, (folder,), False, image_fps)] if images else []

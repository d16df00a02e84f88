"""A work queue of videos, which several processes share through file locks."""

import errno
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
from torch.utils.data import Sampler
from tqdm import tqdm

from egovlpv2.features.blocks import Block, find_problem, named
from egovlpv2.features.files import SUFFIX
from egovlpv2.features.locks import Claim, claim
from egovlpv2.video.collection import VideoSource
from egovlpv2.video.container import NO_HANDLES, VideoError
from egovlpv2.video.windows import Windows

# A disk or a file system on which no other video's features can be written either.
_STOPS_ALL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS)) | NO_HANDLES


class VideoQueue(Sampler[Block]):
    """Blocks of windows of the videos that no other process works on.

    As a loader's sampler it takes a video when the loader gets there, not before.

    Args:
        sources: The videos.
        out: The folder to write to.
        windows: How to slide over a video.
        batch_size: Windows of a block.
        show_progress: Whether `open_bar` shows a bar.
    """

    def __init__(self, sources: Sequence[VideoSource], out: Path, windows: Windows, batch_size: int,
                 show_progress: bool = True) -> None:
        self.sources, self.out, self.windows, self.batch_size = sources, out, windows, batch_size
        self.show_progress = show_progress
        self.claims: dict[str, Claim] = {}
        self.failures: dict[str, str] = {}  # the reason by video
        for source in sources:
            if problem := find_problem(source, self.path(source)):
                self.failures[source.name] = problem
        self._sizes: dict[str, int] = {}
        self._states: dict[str, object] = {}  # of the files when their reading began
        self._bar = tqdm(disable=True)

    @property
    def left(self) -> list[VideoSource]:
        """The videos that haven't failed."""
        return [source for source in self.sources if source.name not in self.failures]

    def path(self, source: VideoSource) -> Path:
        """Name the feature file of a video."""
        return self.out / f"{source.name}{SUFFIX}"

    def open_bar(self) -> tqdm:
        """Show the progress over the bytes of all videos that have no feature file yet."""
        self._sizes = {source.name: source.num_bytes for source in self.left if not self.path(source).exists()}
        self._bar = tqdm(total=sum(self._sizes.values()), unit="B", unit_scale=True, desc="extracting", mininterval=1,
                         disable=not self.show_progress)
        return self._bar

    def __iter__(self) -> Iterator[Block]:
        for source in self.left:
            yield from self._blocks(source)

    def _blocks(self, source: VideoSource) -> Iterator[Block]:
        """Claim a video and yield its blocks until it fails."""
        try:
            taken = claim(self.path(source))
            if taken is None:
                self.advance(source, 1.0)  # by another process
                return
        except OSError as error:
            self.fail(source, error, 1.0)
            return
        self.claims[source.name] = taken
        self._states[source.name] = _state(source)
        try:
            duration = source.duration(self.windows.chunk_seconds)
        except (VideoError, OSError, av.FFmpegError) as error:
            stops_all = getattr(error, "errno", None) in NO_HANDLES
            self.fail(source, error if stops_all else VideoError(error), 1.0)
            return
        count = self.windows.count(duration)
        for first in range(0, count, self.batch_size):
            if source.name in self.failures:
                return
            yield Block(source, duration, first, min(self.batch_size, count - first), count)

    def finish(self, source: VideoSource) -> None:
        """Give the complete feature file of a video its name.

        Raises:
            VideoError: The video has changed since its reading began.
        """
        if _state(source) != self._states[source.name]:
            raise VideoError(f"{source.files[0]} has changed while it was read: run the command again")
        self.claims[source.name].finish()
        del self.claims[source.name]

    def fail(self, source: VideoSource, error: Exception, share: float) -> None:
        """Give a video up, with the share of it that is left.

        Raises:
            OSError: Nothing more can be written, or opened, for any video.
        """
        if taken := self.claims.pop(source.name, None):
            taken.release()
        if isinstance(error, OSError) and error.errno in _STOPS_ALL:
            error.filename = error.filename or str(self.path(source))
            raise error
        self.failures[source.name] = reason = named(error, source.name, str(source.files[0]))
        self.advance(source, share)
        tqdm.write(f"failed: {reason}", file=sys.stderr)

    def advance(self, source: VideoSource, share: float) -> None:
        """Move the progress bar by a share of a video."""
        self._bar.update(round(self._sizes.get(source.name, 0) * share))

    def release(self) -> None:
        """Leave no half-written file."""
        for taken in self.claims.values():
            taken.release()


def _state(source: VideoSource) -> object:
    """What changes with a video's files: their sizes and times; None if they can't be looked at."""
    try:
        return [(state.st_size, state.st_mtime_ns) for state in (file.stat() for file in source.files)]
    except OSError:
        return None

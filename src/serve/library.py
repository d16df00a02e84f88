"""The index that is served: its videos by id, opened anew when it changes on disk."""

import hashlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from egovlpv2.search.index import Index
from egovlpv2.search.manifest import FILE, VideoEntry
from egovlpv2.serve.errors import Refusal, printable
from egovlpv2.video.collection import VideoSource
from egovlpv2.video.container import VideoError

log = logging.getLogger(__name__)
_TEMPORARY = (".tmp", ".lock", ".partial")
_PATIENCE = 10.0  # times the duration of opening: no more often is an index opened that changes all the time
_SHORTEST = 2e-3  # seconds of a moment: times are sent with three digits
_TAIL = 0.05  # seconds past a video's end that are taken as its end: times in answers are rounded


class Video(NamedTuple):
    """A video of the index.

    Args:
        id: A hash of its name.
        name: Its name in the index.
        entry: The video as it was when it was indexed.
        duration: Seconds.
    """

    id: str
    name: str
    entry: VideoEntry
    duration: float

    @property
    def title(self) -> str:
        """The name, as it can be sent."""
        return printable(self.name)

    @property
    def source(self) -> VideoSource:
        """The video's files."""
        return self.entry.source(self.name)

    @property
    def problem(self) -> str:
        """The reason why it can't be shown, without the names of folders; empty if it can."""
        return self.without_folders(self.entry.problem)

    def without_folders(self, message: str) -> str:
        """Replace the paths of the video's files in a message by their names."""
        for file in map(Path, self.entry.files):
            message = message.replace(str(file), f"{self.name}/{file.name}" if self.entry.chunked else file.name)
            if file.parent.name:
                message = message.replace(str(file.parent), file.parent.name)
        return message

    def require_unchanged(self) -> None:
        """Refuse a video that is missing or has changed.

        Raises:
            VideoError: It has; says which.
        """
        if problem := self.problem:
            raise VideoError(problem)

    def clamp(self, start: float, end: float, longest: float) -> tuple[float, float]:
        """Check a moment.

        Raises:
            Refusal: It ends before it begins, is too long, or lies past the video's end.
        """
        if end < start + _SHORTEST:
            raise Refusal(422, f"the moment ends at {end:g} s, before or where it begins, {start:g} s: swap its times, "
                               "or give a longer one")
        if end > self.duration + _TAIL:
            raise Refusal(422, f"the moment ends at {end:g} s and {self.title} lasts {self.duration:.1f} s: give a "
                               "moment within it")
        if end - start > longest + _TAIL:
            raise Refusal(422, f"the moment lasts {end - start:.1f} s: give one of {longest:g} s or less")
        end = min(end, self.duration)
        return max(min(start, end - _SHORTEST), 0.0), end

    def require_time(self, at: float) -> float:
        """Check a time.

        Raises:
            Refusal: It lies past the video's end.
        """
        if at > self.duration + _TAIL:
            raise Refusal(422, f"at {at:g}: {self.title} lasts {self.duration:.1f} s: give a time within it")
        return min(at, self.duration)


@dataclass(frozen=True)
class _Opened:
    index: Index
    videos: dict[str, Video]  # by id
    ids: dict[str, str]  # by name


def video_id(name: str) -> str:
    """Make the id of a video from its name."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]


class Library:
    """An index that is opened anew when it changes on disk.

    Args:
        folder: Of the index.
        open_index: Opens it.

    Raises:
        ValueError: As `Index`.
    """

    def __init__(self, folder: Path, open_index: Callable[[], Index]) -> None:
        self.folder, self._open_index = folder, open_index
        self._not_before = 0.0
        self._times = self._read_times()
        self._files = self._read_files()
        self._opened = self._open()

    @property
    def index(self) -> Index:
        """The index as it was opened last."""
        return self._opened.index

    @property
    def videos(self) -> list[Video]:
        """The videos that can be searched, by name."""
        return sorted(self._opened.videos.values(), key=lambda video: video.name)

    def video(self, given: str) -> Video:
        """Look up a video by id.

        Raises:
            Refusal: There is none.
        """
        found = self._opened.videos.get(given)
        if found is None:
            raise Refusal(404, f"there is no video with the id {given!r}: /api/videos lists them")
        return found

    def named(self, name: str) -> Video:
        """Look up a video by name, or by id.

        Raises:
            Refusal: There is none.
        """
        return self.video(self._opened.ids.get(name, name))

    def may_have_changed(self) -> bool:
        """Tell, at the cost of two look-ups, if `refresh` may find something new."""
        return time.monotonic() >= self._not_before and self._read_times() not in (self._times, None)

    def refresh(self) -> None:
        """Open the index anew if its files are others than before; if that fails, the former one stays."""
        times, files = self._read_times(), self._read_files()
        if files == self._files or times is None:
            self._times = times or self._times
            return
        begun = time.monotonic()
        try:
            self._opened = self._open()
            self._times, self._files = times, files
        except (ValueError, OSError) as error:  # may pass: it is tried again
            log.warning("%s has changed and can't be opened; it is served as it was: %s", self.folder, error)
        self._not_before = time.monotonic() + _PATIENCE * (time.monotonic() - begun)

    def _open(self) -> _Opened:
        index = self._open_index()
        durations = dict(zip(index.store.names, index.store.durations, strict=True))
        videos = [Video(video_id(name), name, entry, durations[name])
                  for name, entry in index.manifest.videos.items() if name in durations]
        return _Opened(index, {video.id: video for video in videos}, {video.name: video.id for video in videos})

    def _read_times(self) -> tuple[int, int] | None:
        """Times at which folder and manifest were last written to; None while one of them is missing."""
        try:
            return self.folder.stat().st_mtime_ns, (self.folder / FILE).stat().st_mtime_ns
        except OSError:
            return None

    def _read_files(self) -> dict[str, int]:
        try:
            with os.scandir(self.folder) as entries:
                return {entry.name: entry.stat().st_mtime_ns for entry in entries
                        if not entry.name.endswith(_TEMPORARY)}
        except OSError:  # a file was removed meanwhile
            return {}

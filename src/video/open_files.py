"""A cache of open video files in each worker: opening one costs about as much as decoding a short clip."""

import os
import threading
from collections import OrderedDict
from pathlib import Path

from egovlpv2.video.container import stat_file
from egovlpv2.video.reader import VideoFile

VIDEO_SUFFIXES = frozenset(f".{name}" for name in (
    "mp4 m4v mov mkv webm avi mpg mpeg mts m2ts ts wmv flv 3gp ogv".split()))
_MOST = 6  # open files a worker


class _OpenFiles(threading.local):
    """Files by path, modification time and size, the last used last; each thread and process has its own."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.files: OrderedDict[tuple[str, int, int], VideoFile] = OrderedDict()


_kept = _OpenFiles()


def is_video(path: Path) -> bool:
    """Tell if a file is a video by its name; hidden files are not."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()


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
        while len(_kept.files) > _MOST:
            _kept.files.popitem(last=False)[1].close()
    _kept.files.move_to_end(key)
    return _kept.files[key]


def drop_file(video: VideoFile) -> None:
    """Close a file whose decoder has failed, so that the next use opens it anew."""
    _kept.files = OrderedDict((key, kept) for key, kept in _kept.files.items() if kept is not video)
    video.close()

"""Caches of bounded size: pictures in memory, and encoded moments on disk."""

from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from uuid import uuid4


class ByteCache:
    """Contents of files by key; those that were used least recently go first.

    Args:
        most_bytes: Of all contents together.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.num_bytes = most_bytes, 0
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()

    def get(self, key: Hashable) -> bytes | None:
        """Return what is kept of a key."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: Hashable, content: bytes) -> None:
        """Keep a content, unless it is larger than the cache."""
        if key in self._kept or len(content) > self.most_bytes:
            return
        self._kept[key] = content
        self.num_bytes += len(content)
        while self.num_bytes > self.most_bytes:
            self.num_bytes -= len(self._kept.popitem(last=False)[1])


class _File(NamedTuple):
    path: Path
    num_bytes: int


class FileCache:
    """Files by key in a temporary folder; those that were used least recently are deleted first.

    A file that is deleted while it is sent is sent to its end: its reader has it open.

    Args:
        most_bytes: Of all files together, but for the newest.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.num_bytes = most_bytes, 0
        self._folder = TemporaryDirectory(prefix="egovlpv2-serve-")
        self._kept: OrderedDict[Hashable, _File] = OrderedDict()

    def new(self, suffix: str) -> Path:
        """Make the name of a new file."""
        return Path(self._folder.name).absolute() / f"{uuid4().hex}{suffix}"

    def get(self, key: Hashable) -> Path | None:
        """Return the file of a key, if it is still there."""
        file = self._kept.get(key)
        if file is None:
            return None
        if not file.path.exists():  # temporary folders may be cleared by others
            self._forget(key)
            return None
        self._kept.move_to_end(key)
        return file.path

    def put(self, key: Hashable, path: Path) -> None:
        """Keep a file that was written."""
        if key in self._kept:
            return
        self._kept[key] = _File(path, path.stat().st_size)
        self.num_bytes += self._kept[key].num_bytes
        while self.num_bytes > self.most_bytes and len(self._kept) > 1:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: Hashable) -> None:
        file = self._kept.pop(key)
        self.num_bytes -= file.num_bytes
        file.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Delete all files."""
        self._folder.cleanup()

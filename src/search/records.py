"""What the manifest of an index remembers of its other files: that they were whole when they were recorded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta
from tqdm import tqdm

from egovlpv2.features.files import SUFFIX, read_features
from egovlpv2.io.files import sha256
from egovlpv2.types import CodesKind

_Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_Size = Annotated[int, Meta(ge=0)]


@dataclass(frozen=True)
class FileRecord:
    """A file as it was when its content was checked.

    Args:
        sha256: Of its content.
        num_bytes: Its size.
        modified: When it was last written to, nanoseconds.
    """

    sha256: _Digest
    num_bytes: _Size
    modified: int

    @classmethod
    def of(cls, path: Path) -> "FileRecord":
        """Record a file as it is now."""
        state = path.stat()
        return cls(sha256(path), state.st_size, state.st_mtime_ns)

    def unchanged(self, path: Path) -> bool:
        """Tell, without reading it, if a file is still the recorded one."""
        try:
            state = path.stat()
        except OSError:
            return False
        return (state.st_size, state.st_mtime_ns) == (self.num_bytes, self.modified)

    def matches(self, path: Path) -> bool:
        """Tell if a file has the recorded content; it is read only if it seems to have changed."""
        return self.unchanged(path) or (path.is_file() and sha256(path) == self.sha256)


@dataclass(frozen=True)
class CoveredVideo:
    """A video that a file made of several videos' embeddings covers.

    Args:
        name: Of the video.
        sha256: Of its embeddings.
        windows: How many there are.
    """

    name: str
    sha256: _Digest
    windows: Annotated[int, Meta(ge=1)]


@dataclass(frozen=True)
class CodesRecord:
    """The file of the codes of an index, see `egovlpv2.search.codes`.

    Args:
        kind: What the codes are.
        file: Its name in the folder of the index.
        record: Of the file.
        videos: In the order of their rows.
    """

    kind: CodesKind
    file: Annotated[str, Meta(pattern=r"^codes-[0-9a-f]{16}\.faiss$")]
    record: FileRecord
    videos: tuple[CoveredVideo, ...]


@dataclass(frozen=True)
class ChanceRecord:
    """The file of what chance reaches in an index, see `egovlpv2.search.chance`.

    Args:
        file: Its name in the folder of the index.
        record: Of the file.
        videos: In the order of its rows.
    """

    file: Annotated[str, Meta(pattern=r"^chance-[0-9a-f]{16}\.npy$")]
    record: FileRecord
    videos: tuple[CoveredVideo, ...]


def is_current(video: CoveredVideo, embeddings: Mapping[str, FileRecord]) -> bool:
    """Tell if a video's embeddings are still those that a file covers."""
    return video.name in embeddings and embeddings[video.name].sha256 == video.sha256


def record_embeddings(folder: Path, known: Mapping[str, FileRecord]) -> dict[str, FileRecord]:
    """Check the finished embeddings of a folder that are not recorded yet, and record them.

    Args:
        folder: Of the index.
        known: The records so far; those of files that are gone are left out of the result.

    Raises:
        ValueError: A file is damaged; names it.
    """
    records = {}
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    for path in tqdm(paths, desc="checking", unit="video", disable=len(paths) - len(known) < 100, leave=False):
        there = known.get(path.stem)
        if there is None:
            read_features(path)
            there = FileRecord.of(path)
        elif not there.unchanged(path):
            if not there.matches(path):
                raise ValueError(f"{path} is damaged: `egovlpv2 index --check --out {folder}` sets it aside")
            there = FileRecord.of(path)  # such as a copy's, which has other times
        records[path.stem] = there
    return records

"""The manifest of an index: `index.json` in its folder, with its videos and the model that it was made with."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock
from msgspec import Meta

from egovlpv2.features.files import SUFFIX
from egovlpv2.io.files import refuse_unreadable, require_folder, write_json
from egovlpv2.io.schema import check, read_json
from egovlpv2.search.records import ChanceRecord, CodesRecord, FileRecord, record_embeddings
from egovlpv2.video.collection import VideoSource

FILE = "index.json"


@dataclass(frozen=True)
class VideoEntry:
    """A video as it was when it was indexed.

    Args:
        files: Its file, its chunks in order, or the folder of its pictures.
        chunked: Whether it is more than one chunk.
        image_fps: Of pictures, how many make a second.
        chunk_seconds: Length of its chunks, 0 if it has none.
        num_bytes: Of all its files.
        modified: When one of them was last written to, seconds.
    """

    files: Annotated[tuple[str, ...], Meta(min_length=1)]
    chunked: bool
    image_fps: Annotated[float, Meta(gt=0)] | None
    chunk_seconds: Annotated[float, Meta(ge=0)]
    num_bytes: Annotated[int, Meta(ge=0)]
    modified: float

    @classmethod
    def of(cls, source: VideoSource, chunk_seconds: float) -> "VideoEntry":
        """Describe a video as it is now.

        Raises:
            OSError: A file of it is not there.
        """
        return cls(tuple(map(str, source.files)), source.chunked, source.image_fps,
                   chunk_seconds if source.chunked else 0.0, source.num_bytes,
                   max(file.stat().st_mtime for file in source.files))

    def source(self, name: str) -> VideoSource:
        """Open the video."""
        return VideoSource(name, tuple(map(Path, self.files)), self.chunked, self.image_fps)

    @property
    def problem(self) -> str:
        """The reason why the video can't be shown any more; empty if it can."""
        try:
            now = VideoEntry.of(self.source(""), self.chunk_seconds)
        except OSError:
            missing = next((file for file in self.files if not os.path.exists(file)), self.files[0])
            return f"{missing} is not there any more"
        return "" if now == self else f"{self.files[0]} has changed since it was indexed: run `egovlpv2 index` again"

    def same_content(self, other: "VideoEntry") -> bool:
        """Tell if two entries are of the same video, at the same place or at another.

        The length of chunks is left out: it was right when the video was indexed, and a wrong one that is given later
        must not cost its embeddings.
        """
        return replace(self, files=other.files, chunk_seconds=other.chunk_seconds) == other


@dataclass(frozen=True)
class IndexManifest:
    """The videos of an index, and the model that it was made with.

    Args:
        weights: Path of the weights.
        tokenizer: Of the text tower.
        max_tokens: Tokens of a query.
        videos: By name.
        weights_size: Bytes of the weights' file when the index was made; 0 if it isn't known.
        weights_modified: When that file was last written to, nanoseconds.
        embeddings: The files of embeddings that are whole, by video: these are searched. Empty in indexes of versions
            before 0.3, where all that are there are searched.
        codes: The codes of the embeddings, if there are any.
        chance: The best cosines of arbitrary texts, if they are known.
    """

    weights: str
    tokenizer: str
    max_tokens: Annotated[int, Meta(ge=1)]
    videos: dict[str, VideoEntry]
    weights_size: int = 0
    weights_modified: int = 0
    embeddings: dict[str, FileRecord] = field(default_factory=dict)
    codes: CodesRecord | None = None
    chance: ChanceRecord | None = None

    @classmethod
    def of(cls, weights: str, tokenizer: str, max_tokens: int) -> "IndexManifest":
        """Make the manifest of an index without videos."""
        path = os.path.abspath(weights)
        facts = os.stat(path)
        return cls(path, tokenizer, max_tokens, {}, facts.st_size, facts.st_mtime_ns)

    def has_seen(self, weights: str) -> bool:
        """Tell if a file of weights is, unchanged, the one that the index was made with."""
        facts = os.stat(weights)
        return (os.path.abspath(weights) == self.weights and facts.st_size == self.weights_size
                and facts.st_mtime_ns == self.weights_modified)


def read_manifest(folder: Path) -> IndexManifest:
    """Read the manifest of an index.

    Raises:
        ValueError: There is no such index, or its `index.json` is damaged or can't be read.
    """
    path = folder / FILE
    require_folder(folder)
    refuse_unreadable(path, f"the folder of an index, whose {FILE} is a file", may_be_empty=True)
    if not path.is_file():
        raise ValueError(f"{folder} is not an index (it has no {FILE}): `egovlpv2 index VIDEOS --weights W --out "
                         f"{folder}` makes one")
    try:
        content = read_json(path, dict[str, Any])
        if "max_words" in content:  # of versions before 0.2
            content = {"max_tokens": content.pop("max_words"), **content}
        return check(content, IndexManifest, str(path))
    except ValueError as error:
        reason = str(error).removeprefix(str(path)).removeprefix(":").strip()
        raise ValueError(f"{path} is damaged, or another program's ({reason}): move it and run `egovlpv2 index` again; "
                         "finished videos stay") from error


def changed_videos(folder: Path, sources: Sequence[VideoSource], chunk_seconds: float) -> list[VideoSource]:
    """Find the videos that are in an index, and are others now."""
    if not (folder / FILE).exists():
        return []
    there = read_manifest(folder).videos
    return [source for source in sources if source.name in there
            and not there[source.name].same_content(VideoEntry.of(source, chunk_seconds))]


def add(folder: Path, made_with: IndexManifest, sources: Sequence[VideoSource], chunk_seconds: float) -> None:
    """Add videos to the manifest; the embeddings of one that has changed are deleted, to be made anew.

    Args:
        folder: Of the index.
        made_with: The model, and no videos.
        sources: The videos.
        chunk_seconds: Length of their chunks.

    Raises:
        ValueError: Another video of the same name is in the index, and still at its place.
    """
    with locked(folder):  # several processes may share the work
        before = read_manifest(folder) if (folder / FILE).exists() else made_with
        there = before.videos
        new = {source.name: VideoEntry.of(source, chunk_seconds) for source in sources}
        for name in there.keys() & new.keys():
            _refuse_another(name, there[name], new[name])
        changed = [name for name in there.keys() & new.keys() if not there[name].same_content(new[name])]
        known = {name: record for name, record in before.embeddings.items() if name not in changed}
        if changed:  # in three steps: no reader misses a file, and no killed process leaves it as the new video's
            write_json(folder / FILE, asdict(replace(before, embeddings=known)))
            for name in changed:
                (folder / f"{name}{SUFFIX}").unlink(missing_ok=True)
        new = {name: replace(entry, chunk_seconds=there[name].chunk_seconds)
               if name in there and name not in changed else entry for name, entry in new.items()}
        merged = replace(made_with, videos=dict(sorted({**there, **new}.items())), embeddings=known, codes=before.codes,
                         chance=before.chance)
        write_json(folder / FILE, asdict(merged))


def commit(folder: Path) -> IndexManifest:
    """Record the finished embeddings in the manifest, from when on they are searched; forget those that are gone.

    Raises:
        ValueError: A file of embeddings is damaged; names it.
    """
    with locked(folder):
        manifest = read_manifest(folder)
        now = replace(manifest, embeddings=record_embeddings(folder, manifest.embeddings))
        if now != manifest:
            write_json(folder / FILE, asdict(now))
        return now


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A context in which no other process changes the manifest of an index."""
    with FileLock(folder / f"{FILE}.lock"):
        yield


def _refuse_another(name: str, there: VideoEntry, new: VideoEntry) -> None:
    """Two videos of one name don't share their embeddings; one that has moved, or got more chunks, is the same one."""
    if there.files[0] != new.files[0] and Path(there.files[0]).exists():
        raise ValueError(f"the index has a video {name!r} already, {there.files[0]}, and {new.files[0]} is another: "
                         "rename one of them, or index it into another folder with --out")

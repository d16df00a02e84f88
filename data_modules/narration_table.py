"""A table of narrated clips with several texts each, in files that processes map into memory and share.

A folder holds flat columns and `table.json`. Rows are sorted by video and time, so that a minute
of a video is a range of rows, found without an index in memory.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, BinaryIO, NamedTuple

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from egovlpv2.data_modules.clip_groups import draw_scene_negatives
from egovlpv2.io.folders import atomic_folder
from egovlpv2.io.schema import read_json
from egovlpv2.types import NarrationSource

VERSION = 1
_HEAD = "table.json"
_OF_ROWS = {"video": "<i4", "start": "<f8", "end": "<f8", "first": "<i8", "count": "<i4"}
_OF_TEXTS = {"text_end": "<i8", "nll": "<f4"}
_BUFFERED = 65_536  # rows
_COPIED = 1_000_000  # rows at a time
_SCENE_SECONDS = 60


class NarratedClip(NamedTuple):
    """A clip of a video with one text or several."""

    video: str
    start: float  # seconds of the video
    end: float
    texts: Sequence[str]
    nlls: Sequence[float] | None = None  # negative log-likelihood of each text, where a model wrote them


@dataclass
class _Head:
    version: Annotated[int, Meta(ge=VERSION, le=VERSION)]
    source: NarrationSource
    rows: Annotated[int, Meta(ge=1)]
    texts: Annotated[int, Meta(ge=1)]
    characters: Annotated[int, Meta(ge=1)]  # bytes of all texts
    videos: list[str]


class NarrationTable:
    """N clips with M texts, mapped into memory: opening reads the head alone.

    Args:
        folder: A folder that `egovlpv2 llm-narrations` has written.

    Raises:
        ValueError: It is missing or incomplete, or a file has another size than the head says.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / _HEAD).is_file():
            raise ValueError(f"{self.folder} is not a table of narrations, or an unfinished one: write it with "
                             "`egovlpv2 llm-narrations`")
        head = read_json(self.folder / _HEAD, _Head)
        self.videos, self.source, self.rows, self.num_texts = head.videos, head.source, head.rows, head.texts
        columns = {name: self._column(name, kind, head.rows) for name, kind in _OF_ROWS.items()}
        columns |= {name: self._column(name, kind, head.texts) for name, kind in _OF_TEXTS.items()}
        self.video, self.start, self.end = columns["video"], columns["start"], columns["end"]
        self._first, self._count = columns["first"], columns["count"]
        self._text_end, self._nll = columns["text_end"], columns["nll"]
        self._text = self._column("text", "u1", head.characters)

    def _column(self, name: str, kind: str, length: int) -> NDArray[np.generic]:
        path, size = self.folder / f"{name}.bin", length * np.dtype(kind).itemsize
        there = path.stat().st_size if path.is_file() else 0
        if there != size:
            raise ValueError(f"{path} has {there:,} bytes and {_HEAD} says {size:,}: the table is damaged, write it "
                             "anew")
        return np.asarray(np.memmap(path, dtype=kind, mode="r", shape=(length,)))  # plain arrays are indexed faster

    def __reduce__(self) -> tuple[type["NarrationTable"], tuple[Path]]:
        """Open the files anew in another process, instead of sending their content."""
        return type(self), (self.folder,)

    def __len__(self) -> int:
        return self.rows

    def num_texts_of(self, row: int) -> int:
        """The number of texts of a row."""
        return int(self._count[row])

    def text(self, row: int, place: int) -> str:
        """One of a row's texts."""
        index = int(self._first[row]) + place
        try:
            begin = int(self._text_end[index - 1]) if index else 0
            return self._text[begin : int(self._text_end[index])].tobytes().decode()
        except (IndexError, UnicodeDecodeError) as error:
            raise self._damage(row) from error

    def clip(self, row: int) -> NarratedClip:
        """A row with all its texts."""
        first, count = int(self._first[row]), self.num_texts_of(row)
        nlls = self._nll[first : first + count].tolist()
        if not 0 <= int(self.video[row]) < len(self.videos):
            raise self._damage(row)
        return NarratedClip(self.videos[int(self.video[row])], float(self.start[row]), float(self.end[row]),
                            [self.text(row, place) for place in range(count)], None if np.isnan(nlls).any() else nlls)

    def _damage(self, row: int) -> ValueError:
        return ValueError(f"{self.folder}, row {row}: the table is damaged: write it anew with `egovlpv2 "
                          "llm-narrations`")

    def draw_neighbours(self, row: int, count: int, rng: np.random.Generator) -> list[int]:
        """Draw negatives of a row, see `draw_scene_negatives`."""
        video, time = int(self.video[row]), self._time(row)
        ends = np.array([video, video + 1], self.video.dtype)  # of another type, the whole column would be converted
        first, last = np.searchsorted(self.video, ends).tolist()
        minute = range(*(self._search(first, last, (time // _SCENE_SECONDS + i) * _SCENE_SECONDS) for i in (0, 1)))
        return draw_scene_negatives(row, count, minute, range(first, last), range(len(self)), self._time, rng)

    def _time(self, row: int) -> float:
        return (float(self.start[row]) + float(self.end[row])) / 2

    def _search(self, first: int, last: int, time: float) -> int:
        """The first row of a range at or after a time."""
        while first < last:
            middle = (first + last) // 2
            first, last = (middle + 1, last) if self._time(middle) < time else (first, middle)
        return first


class TableWriter:
    """A writer of a table, which keeps numbers of rows alone in memory while it sorts; see `write_table`.

    Args:
        folder: The folder to write to.
        source: Who wrote the texts: `human` (rephrasings included) or `pseudo`, a model.
    """

    def __init__(self, folder: Path, source: NarrationSource) -> None:
        self.folder, self.source = folder, source
        self.files: dict[str, BinaryIO] = {}
        self.buffers: dict[str, list[float]] = {name: [] for name in (*_OF_ROWS, *_OF_TEXTS)}
        self.videos: dict[str, int] = {}
        self.rows = self.texts = self.characters = 0

    def __enter__(self) -> "TableWriter":
        self.files = {name: self._path(name).open("wb") for name in (*_OF_ROWS, *_OF_TEXTS, "text")}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            for file in self.files.values():
                with suppress(OSError):  # buffered data may not fit a full disk
                    file.close()

    def append(self, clip: NarratedClip) -> None:
        """Add a row."""
        raw = [text.encode("utf-8", "replace") for text in clip.texts]
        values = (self.videos.setdefault(clip.video, len(self.videos)), clip.start, clip.end, self.texts, len(raw))
        for name, value in zip(_OF_ROWS, values, strict=True):
            self.buffers[name].append(value)
        for text in raw:
            self.characters += len(text)
            self.buffers["text_end"].append(self.characters)
        self.buffers["nll"] += clip.nlls if clip.nlls is not None else [np.nan] * len(raw)
        self.files["text"].write(b"".join(raw))
        self.rows, self.texts = self.rows + 1, self.texts + len(raw)
        if len(self.buffers["video"]) == _BUFFERED:
            self._flush()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.bin"

    def _flush(self) -> None:
        for name, kind in (_OF_ROWS | _OF_TEXTS).items():
            self.files[name].write(np.array(self.buffers[name], dtype=kind).tobytes())
            self.buffers[name].clear()

    def _finish(self) -> None:
        """Sort the rows by video and time, and write the head."""
        self._flush()
        for file in self.files.values():
            file.flush()
        assert self.rows, "a table has a row"
        columns = {name: np.fromfile(self._path(name), kind) for name, kind in _OF_ROWS.items()}
        order = np.lexsort((columns["start"] + columns["end"], columns["video"]))
        for name in _OF_ROWS:
            column = columns.pop(name)
            with self._path(name).open("wb") as file:
                for first in range(0, self.rows, _COPIED):
                    file.write(column[order[first : first + _COPIED]].tobytes())
        head = _Head(VERSION, self.source, self.rows, self.texts, self.characters, list(self.videos))
        (self.folder / _HEAD).write_text(json.dumps(asdict(head)), encoding="utf-8")


@contextmanager
def write_table(folder: str | Path, source: NarrationSource) -> Iterator[TableWriter]:
    """A context that writes a table of at least one row; it is whole or absent, whatever happens.

    Args:
        folder: A new folder, or an empty one.
        source: Who wrote the texts: `human` (rephrasings included) or `pseudo`, a model.

    Raises:
        ValueError: The folder can't be made, or holds something.
        OSError: The table can't be written; names the folder.
    """
    folder = Path(folder)
    if (folder / _HEAD).exists():
        raise ValueError(f"{folder} holds a table already: give another folder, or delete it")
    with atomic_folder(folder) as draft, TableWriter(draft, source) as writer:
        yield writer

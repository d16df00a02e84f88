"""The rows of an `egoclip.csv`, millions of them, as a few flat tensors."""

import csv
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pandas.api.types import is_string_dtype
from torch import Tensor

from egovlpv2.data_modules.packed import IdListParser, IdLists, Strings
from egovlpv2.io.files import require_file
from egovlpv2.io.schema import LONGEST, SURROGATE, decode_text, shown

NUM_VERBS, NUM_NOUNS = 118, 582
MAX_MALFORMED = 0.01  # a file with a larger share of malformed rows is refused

_COLUMNS = ("video_uid", "narration_time", "clip_start", "clip_end", "clip_text", "tag_verb", "tag_noun")
_NUMBERS = {"narration_time": -1.0, "clip_start": -60.0, "clip_end": -60.0}  # minimum of each, seconds
_REASONS = {
    "clip_end": " is not a number of seconds at or after clip_start",
    "video_uid": " names no video",
    "tag_verb": f" is not a list of ids below {NUM_VERBS}",
    "tag_noun": f" is not a list of ids below {NUM_NOUNS}",
    "clip_text": " is blank or not UTF-8",
} | dict.fromkeys(("narration_time", "clip_start"), " is not a number of seconds")
_MAX_EXAMPLES = 5
_CHUNK_ROWS = 400_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipTable:
    """The N well-formed rows of an `egoclip.csv`.

    Args:
        videos: The distinct video uids.
        video: The row's video, an index of `videos`, (N,) int32.
        time: The narration's time in the video, seconds, (N,) float64.
        start: Start of the clip in the video, seconds, not negative unless asked for, (N,) float64.
        end: Its end, seconds, (N,) float64.
        text: The narrations.
        verbs, nouns: Class ids, below 118 and 582.
        malformed: Number of rows of the file that were left out.
        line: The row's line in the file, (N,) int32.
        more: Other columns of texts, by name; blank where the file has nothing.
    """

    videos: list[str]
    video: Tensor
    time: Tensor
    start: Tensor
    end: Tensor
    text: Strings
    verbs: IdLists
    nouns: IdLists
    malformed: int
    line: Tensor
    more: dict[str, Strings]

    def __len__(self) -> int:
        return len(self.video)


def read_clip_table(path: str | Path, more: Sequence[str] = (), *, clamp: bool = True) -> ClipTable:
    """Read an `egoclip.csv`, the official one of 3.8 million rows or any in its format.

    Args:
        path: A tab-separated file with a header; a line is a row; quotes around a whole text are removed.
        more: Other columns to read, of texts that may be blank. Then the file may lack `narration_time`, and the
            middle of a clip takes its place.
        clamp: Set starts before 0 to 0.

    Returns:
        The well-formed rows. A row is malformed, and logged with its line and column,
        when a field is missing or one too many, a number isn't one or isn't a time, a tag list isn't a list of ids of
        its classes, the clip ends before it starts, its text is blank, or a text is not UTF-8.

    Raises:
        ValueError: The file can't be read, lacks a column or rows, names a column twice, or more than 1 % of its rows
            are malformed.
    """
    reader = _Reader(Path(path), more)
    for chunk in reader.chunks():
        reader.add(chunk)
    table = reader.table()
    if clamp:
        table.start.clamp_(min=0)
    return table


class _Reader:
    """The columns of a file, collected chunk by chunk."""

    def __init__(self, path: Path, more: Sequence[str]) -> None:
        self.path = path
        self.names: list[str] = []
        self.columns = (*_COLUMNS, *more)
        self.numbers = dict(_NUMBERS)
        self.tags = {"tag_verb": IdListParser(NUM_VERBS), "tag_noun": IdListParser(NUM_NOUNS)}
        self.videos: dict[str, int] = {}
        self.parts: dict[str, list[np.ndarray]] = {}
        self.texts: dict[str, list[Strings]] = {name: [] for name in ("clip_text", *more)}
        self.rows = self.malformed = 0
        self.examples: list[str] = []

    def chunks(self) -> Iterator[pd.DataFrame]:
        """Read the file in frames of up to 400,000 rows, whose index counts the lines after the header."""
        require_file(self.path, "EgoClip's egoclip.csv")
        try:
            self.names = self._header()
            ids = dict.fromkeys(("video_uid", *self.tags), "category")
            types = dict.fromkeys(self.texts, object) | ids
            with self._open(header=0, usecols=self.columns, dtype=types, chunksize=_CHUNK_ROWS) as frames:
                for chunk in frames:
                    lost = [name for name in ids if not is_string_dtype(chunk[name].cat.categories)]
                    if lost:  # pandas parses a column of numbers as numbers, `001` as 1
                        texts = self._as_texts(chunk, lost)
                        chunk = chunk.assign(**{name: pd.Categorical(texts[name]) for name in lost})
                    yield chunk
        except (OSError, pd.errors.ParserError) as error:
            raise ValueError(f"{self.path} can't be read: {error}") from error

    def _header(self) -> list[str]:
        """The names of the columns; unused columns, which may repeat, are named by their position."""
        with self.path.open("rb") as file:
            names = decode_text(file.readline(), str(self.path)).rstrip("\r\n").split("\t")
        if len(self.texts) > 1 and "narration_time" not in names:
            self.columns = tuple(name for name in self.columns if name != "narration_time")
            del self.numbers["narration_time"]
        if missing := [name for name in self.columns if name not in names]:
            raise ValueError(f"{self.path} has no column {', '.join(missing)}. Its tab-separated columns: "
                             f"{shown(names)}.")
        if twice := [name for name in self.columns if names.count(name) > 1]:
            raise ValueError(f"{self.path} names the column {twice[0]} twice: keep one of them.")
        return [name if name in self.columns else str(place) for place, name in enumerate(names)]

    def _open(self, **options: Any) -> Any:
        return pd.read_csv(self.path, sep="\t", names=self.names, index_col=False, quoting=csv.QUOTE_NONE,
                           na_filter=False, skip_blank_lines=False, encoding_errors="surrogateescape", low_memory=False,
                           **options)

    def _as_texts(self, chunk: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
        """Some columns of a chunk as strings, as they are in the file."""
        return self._open(header=None, skiprows=chunk.index[0] + 1, nrows=len(chunk), usecols=columns, dtype=object)

    def add(self, chunk: pd.DataFrame) -> None:
        """Check a chunk and keep the columns of its well-formed rows."""
        columns = {name: _numbers(chunk[name]) for name in self.numbers}
        columns["video_uid"] = _by_category(chunk["video_uid"], self._video)
        columns |= {name: _by_category(chunk[name], parser.code) for name, parser in self.tags.items()}
        texts = {name: chunk[name].to_numpy() for name in self.texts}
        blank = columns["video_uid"] < 0  # some may be blank lines
        if blank.any():
            first = self._as_texts(chunk, self.names[:1])[self.names[0]]
            blank &= (texts["clip_text"] == "") & (first == "").to_numpy()
        self.rows += len(chunk) - int(blank.sum())
        good = ~(blank | self._malformed(chunk, columns, blank))
        columns["line"] = chunk.index.to_numpy(np.int32) + 2
        for name, values in columns.items():
            self.parts.setdefault(name, []).append(values[good])
        for name, values in texts.items():
            self.texts[name].append(Strings.pack(values[good].tolist()))

    def _video(self, name: str) -> int:
        return self.videos.setdefault(name, len(self.videos)) if name.strip() and _is_text(name) else -1

    def _malformed(self, chunk: pd.DataFrame, columns: dict[str, np.ndarray], blank: np.ndarray) -> np.ndarray:
        """Mark the malformed rows, count them and describe the first ones by line and column."""
        faults = {name: ~((columns[name] >= least) & (columns[name] <= LONGEST))
                  for name, least in self.numbers.items()}
        faults["clip_end"] |= columns["clip_end"] < np.maximum(columns["clip_start"], 0)
        faults |= {name: columns[name] < 0 for name in ("video_uid", *self.tags)}
        faults |= {name: _unfit(chunk[name].to_numpy(), may_be_blank=name != "clip_text") for name in self.texts}
        bad = np.logical_or.reduce(list(faults.values())) & ~blank
        self.malformed += int(bad.sum())
        for row in np.flatnonzero(bad)[: _MAX_EXAMPLES - len(self.examples)]:
            name = next(name for name, fault in faults.items() if fault[row])
            where = f"line {chunk.index[row] + 2}, column {name}"
            self.examples.append(f"{where}: {shown(str(chunk[name].iloc[row]))}"
                                 f"{_REASONS.get(name, ' is not UTF-8')}")
        return bad

    def table(self) -> ClipTable:
        """Join the chunks; refuse a file that is empty or has too many malformed rows."""
        self._check_share()
        tensors = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in self.parts.items()}
        return ClipTable(
            videos=list(self.videos),
            video=tensors["video_uid"],
            time=tensors.get("narration_time", (tensors["clip_start"] + tensors["clip_end"]) / 2),
            start=tensors["clip_start"],
            end=tensors["clip_end"],
            text=Strings.join(self.texts["clip_text"]),
            verbs=self.tags["tag_verb"].pack(tensors["tag_verb"]),
            nouns=self.tags["tag_noun"].pack(tensors["tag_noun"]),
            malformed=self.malformed,
            line=tensors["line"],
            more={name: Strings.join(parts) for name, parts in self.texts.items() if name != "clip_text"},
        )

    def _check_share(self) -> None:
        if not self.rows:
            raise ValueError(f"{self.path} has no rows.")
        message, first = f"{self.path}: {self.malformed} of {self.rows} rows are malformed", "; ".join(self.examples)
        if self.malformed > MAX_MALFORMED * self.rows:
            raise ValueError(f"{message}, more than {MAX_MALFORMED:.0%}. The first: {first}.")
        if self.malformed:
            _log.warning("%s and left out. The first: %s.", message, first)


def _numbers(column: pd.Series) -> np.ndarray:
    """Fields as numbers, (N,) float64, NaN if a field is not a number."""
    if column.dtype == bool:  # pandas parses True and False
        return np.full(len(column), np.nan)
    return pd.to_numeric(column, errors="coerce").to_numpy(np.float64)


def _unfit(texts: np.ndarray, may_be_blank: bool = False) -> np.ndarray:
    """Mask of the texts that are blank or not UTF-8, (N,) bool."""
    if (may_be_blank or all(map(str.strip, texts))) and _is_text("".join(texts)):
        return np.zeros(len(texts), dtype=bool)
    return np.array([not (may_be_blank or text.strip()) or not _is_text(text) for text in texts])


def _is_text(text: str) -> bool:
    return text.isascii() or not SURROGATE.search(text)


def _by_category(column: pd.Series, code: Callable[[str], int]) -> np.ndarray:
    """Replace each distinct string of a categorical column by its code, (N,) int32."""
    codes = np.fromiter((code(text) for text in column.cat.categories), np.int32, len(column.cat.categories))
    return codes[column.cat.codes.to_numpy()]

"""Tables of millions of rows as a few flat tensors.

A table holds no Python object per row, so that workers share it: forked ones its pages, since there are no reference
counts to write into them, spawned ones by shared memory.
"""

import csv
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

NUM_VERBS, NUM_NOUNS = 118, 582
MAX_MALFORMED = 0.01  # beyond this share of malformed rows, the file is taken for broken

_COLUMNS = ("video_uid", "narration_time", "clip_start", "clip_end", "clip_text", "tag_verb", "tag_noun")
_NUMBERS = ("narration_time", "clip_start", "clip_end")
_REASONS = {
    "clip_end": " is no number of seconds at or after clip_start",
    "video_uid": " names no video",
    "tag_verb": f" is no list of ids below {NUM_VERBS}",
    "tag_noun": f" is no list of ids below {NUM_NOUNS}",
} | dict.fromkeys(("narration_time", "clip_start"), " is no number of seconds")
_MAX_EXAMPLES = 5
_CHUNK_ROWS = 400_000
_ID_LIST = re.compile(r"\s*\[\s*(?:\d+\s*(?:,\s*\d+\s*)*)?\]\s*")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Strings:
    """N texts in one tensor.

    Args:
        blob: The texts as UTF-8, a line feed between two, uint8.
        ends: Where each text ends in the blob, (N,) int64.
    """

    blob: Tensor
    ends: Tensor

    def __getitem__(self, index: int) -> str:
        begin = int(self.ends[index - 1]) + 1 if index else 0
        text = self.blob[begin : int(self.ends[index])].numpy().tobytes().decode()
        if len(text) > 1 and text[0] == text[-1] == '"':  # a CSV writer quotes a text that has quotes in it
            return text[1:-1].replace('""', '"')
        return text

    @classmethod
    def pack(cls, texts: list[str]) -> "Strings":
        """Lay texts behind one another; a line feed inside a text becomes a space."""
        joined = "\n".join(texts)
        if joined.count("\n") >= max(1, len(texts)):
            joined = "\n".join(text.replace("\n", " ") for text in texts)
        blob = np.frombuffer((joined + "\n" if texts else "").encode(), dtype=np.uint8)
        return cls(torch.from_numpy(blob.copy()), torch.from_numpy(np.flatnonzero(blob == ord("\n"))))

    @classmethod
    def join(cls, parts: list["Strings"]) -> "Strings":
        """Lay the texts of several tables behind one another."""
        begins = np.cumsum([0, *(len(part.blob) for part in parts[:-1])])
        ends = torch.cat([part.ends + int(begin) for part, begin in zip(parts, begins, strict=True)])
        return cls(torch.cat([part.blob for part in parts]), ends)


@dataclass(frozen=True)
class IdLists:
    """N lists of class ids, each distinct list kept once.

    Args:
        codes: The list of each row, (N,) int32.
        ids, ends: The distinct lists behind one another, int16, and where each ends, int64.
    """

    codes: Tensor
    ids: Tensor
    ends: Tensor

    def __getitem__(self, index: int) -> Tensor:
        code = int(self.codes[index])
        begin = int(self.ends[code - 1]) if code else 0
        return self.ids[begin : int(self.ends[code])].long()


class IdListParser:
    """Gives every distinct list literal a code; -1 if it isn't a list of ids below `num_classes`."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.lists: list[list[int]] = []
        self.codes: dict[str, int] = {}

    def code(self, literal: str) -> int:
        if literal not in self.codes:
            self.codes[literal] = self._parse(literal)
        return self.codes[literal]

    def _parse(self, literal: str) -> int:
        ids = [int(number) for number in re.findall(r"\d+", literal)]
        if not _ID_LIST.fullmatch(literal) or max(ids, default=0) >= self.num_classes:
            return -1
        self.lists.append(ids)
        return len(self.lists) - 1

    def pack(self, codes: Tensor) -> IdLists:
        """Join the rows' codes, (N,) int32, with the distinct lists seen so far."""
        ids = np.fromiter((number for ids in self.lists for number in ids), dtype=np.int16)
        ends = np.cumsum([len(ids) for ids in self.lists], dtype=np.int64)
        return IdLists(codes, torch.from_numpy(ids), torch.from_numpy(ends))


@dataclass(frozen=True)
class ClipTable:
    """The N well-formed rows of an `egoclip.csv`.

    Args:
        videos: The distinct video uids.
        video: The row's video, an index of `videos`, (N,) int32.
        time: The narration's time in the video, seconds, (N,) float64.
        start: Where the clip starts in the video, seconds, not negative, (N,) float64.
        end: Where it ends, seconds, (N,) float64.
        text: The narrations.
        verbs, nouns: Ids of classes, below 118 and 582.
        malformed: How many rows of the file were left out.
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

    def __len__(self) -> int:
        return len(self.video)


def read_clip_table(path: str | Path) -> ClipTable:
    """Read an `egoclip.csv`, the official one of 3.8 million rows or any in its format.

    Args:
        path: A tab-separated file with a header; a line is a row; quotes around a whole text are taken off.

    Returns:
        The well-formed rows. Starts before 0 are set to 0. A row is malformed, and logged with its line and column,
        when a field is missing or one too many, a number isn't one, a tag list isn't a list of ids of its classes, or
        the clip ends before it starts.

    Raises:
        ValueError: The file isn't there, lacks a column or rows, or more than 1 % of its rows are malformed.
    """
    reader = _Reader(Path(path))
    for chunk in reader.chunks():
        reader.add(chunk)
    return reader.table()


class _Reader:
    """Gathers the columns while the chunks of the file go by."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tags = {"tag_verb": IdListParser(NUM_VERBS), "tag_noun": IdListParser(NUM_NOUNS)}
        self.videos: dict[str, int] = {}
        self.parts: dict[str, list[np.ndarray]] = {}
        self.texts: list[Strings] = []
        self.rows = self.malformed = 0
        self.examples: list[str] = []

    def chunks(self) -> Iterator[pd.DataFrame]:
        """Open the file: frames of up to 400,000 rows, whose index counts the lines after the header."""
        if not self.path.is_file():
            raise ValueError(f"There is no file {self.path}: put EgoClip's egoclip.csv there, or name another one.")
        with self.path.open(encoding="utf-8-sig") as file:
            header = file.readline().rstrip("\r\n").split("\t")
        if missing := [name for name in _COLUMNS if name not in header]:
            raise ValueError(f"{self.path} has no column {', '.join(missing)}. Its tab-separated columns: {header}.")
        yield from pd.read_csv(
            self.path, sep="\t", header=0, names=header, usecols=list({header[0], *_COLUMNS}), index_col=False,
            dtype={"clip_text": object} | dict.fromkeys(("video_uid", *self.tags), "category"),
            quoting=csv.QUOTE_NONE, na_filter=False, skip_blank_lines=False, encoding_errors="replace",
            low_memory=False, chunksize=_CHUNK_ROWS,
        )  # fmt: skip

    def add(self, chunk: pd.DataFrame) -> None:
        """Check a chunk and keep the columns of its good rows."""
        columns = {name: pd.to_numeric(chunk[name], errors="coerce").to_numpy(np.float64) for name in _NUMBERS}
        known = self.videos
        columns["video_uid"] = _by_category(chunk["video_uid"], lambda v: known.setdefault(v, len(known)) if v else -1)
        columns |= {name: _by_category(chunk[name], parser.code) for name, parser in self.tags.items()}
        blank = (columns["video_uid"] < 0) & (chunk.iloc[:, 0] == "").to_numpy()
        self.rows += len(chunk) - int(blank.sum())
        good = ~(blank | self._malformed(chunk, columns, blank))
        for name, values in columns.items():
            self.parts.setdefault(name, []).append(values[good])
        self.texts.append(Strings.pack(chunk["clip_text"].to_numpy()[good].tolist()))

    def _malformed(self, chunk: pd.DataFrame, columns: dict[str, np.ndarray], blank: np.ndarray) -> np.ndarray:
        """Mark the malformed rows, count them and describe the first ones by line and column."""
        faults = {name: ~np.isfinite(columns[name]) for name in _NUMBERS}
        faults["clip_end"] |= columns["clip_end"] < np.maximum(columns["clip_start"], 0)
        faults |= {name: columns[name] < 0 for name in ("video_uid", *self.tags)}
        bad = np.logical_or.reduce(list(faults.values())) & ~blank
        self.malformed += int(bad.sum())
        for row in np.flatnonzero(bad)[: _MAX_EXAMPLES - len(self.examples)]:
            name = next(name for name, fault in faults.items() if fault[row])
            where = f"line {chunk.index[row] + 2}, column {name}"
            self.examples.append(f"{where}: {str(chunk[name].iloc[row])!r}{_REASONS[name]}")
        return bad

    def table(self) -> ClipTable:
        """Join the chunks, or refuse a file that is empty or broken."""
        self._judge()
        tensors = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in self.parts.items()}
        return ClipTable(
            videos=list(self.videos),
            video=tensors["video_uid"],
            time=tensors["narration_time"],
            start=tensors["clip_start"].clamp_(min=0),
            end=tensors["clip_end"],
            text=Strings.join(self.texts),
            verbs=self.tags["tag_verb"].pack(tensors["tag_verb"]),
            nouns=self.tags["tag_noun"].pack(tensors["tag_noun"]),
            malformed=self.malformed,
        )

    def _judge(self) -> None:
        if not self.rows:
            raise ValueError(f"{self.path} has no rows.")
        found, first = f"{self.path}: {self.malformed} of {self.rows} rows are malformed", "; ".join(self.examples)
        if self.malformed > MAX_MALFORMED * self.rows:
            raise ValueError(f"{found}, more than {MAX_MALFORMED:.0%}. The first: {first}.")
        if self.malformed:
            _log.warning("%s and left out. The first: %s.", found, first)


def _by_category(column: pd.Series, code: Callable[[str], int]) -> np.ndarray:
    """Give every distinct string of a categorical column its code, (N,) int32."""
    codes = np.fromiter((code(text) for text in column.cat.categories), np.int32, len(column.cat.categories))
    return codes[column.cat.codes.to_numpy()]

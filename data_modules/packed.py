"""Columns of millions of rows as a few flat tensors.

There is no Python object per row, so that workers share the memory: forked workers its pages, since no reference counts
are written into them, spawned workers as shared memory.
"""

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_ID_LIST = re.compile(r"\s*\[\s*(?:[0-9]{1,9}\s*(?:,\s*[0-9]{1,9}\s*)*)?\]\s*")


@dataclass(frozen=True)
class Strings:
    """N texts in one tensor.

    Args:
        blob: The texts as UTF-8, separated by line feeds, uint8.
        ends: End of each text in the blob, (N,) int64.
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
        """Concatenate texts; a line feed within a text becomes a space."""
        joined = "\n".join(texts)
        if joined.count("\n") >= max(1, len(texts)):
            joined = "\n".join(text.replace("\n", " ") for text in texts)
        blob = np.frombuffer((joined + "\n" if texts else "").encode(), dtype=np.uint8)
        return cls(torch.from_numpy(blob.copy()), torch.from_numpy(np.flatnonzero(blob == ord("\n"))))

    @classmethod
    def join(cls, parts: list["Strings"]) -> "Strings":
        """Concatenate the texts of several tables."""
        begins = np.cumsum([0, *(len(part.blob) for part in parts[:-1])])
        ends = torch.cat([part.ends + int(begin) for part, begin in zip(parts, begins, strict=True)])
        return cls(torch.cat([part.blob for part in parts]), ends)


@dataclass(frozen=True)
class IdLists:
    """N lists of class ids, each distinct list stored once.

    Args:
        codes: The list of each row, (N,) int32.
        ids, ends: The concatenated distinct lists, int16, and the end of each, int64.
    """

    codes: Tensor
    ids: Tensor
    ends: Tensor

    def __getitem__(self, index: int) -> Tensor:
        return self.of_code(int(self.codes[index]))

    def of_code(self, code: int) -> Tensor:
        """The class ids of a distinct list, (ids,) int64."""
        begin = int(self.ends[code - 1]) if code else 0
        return self.ids[begin : int(self.ends[code])].long()

    def entries(self) -> tuple[Tensor, Tensor]:
        """Row and class id of every entry of every row's list, (entries,) int64 each, in the order of the rows."""
        begins = torch.cat([self.ends.new_zeros(1), self.ends])[:-1]  # of the distinct lists
        codes = self.codes.long()
        counts = (self.ends - begins)[codes]  # (N,)
        rows = torch.repeat_interleave(counts)
        offset = begins[codes] - (counts.cumsum(0) - counts)  # (N,) from an entry's number to its place in `ids`
        return rows, self.ids[torch.arange(len(rows)) + offset[rows]].long()


class IdListParser:
    """Assign a code to each distinct list literal; -1 if it isn't a list of ids below `num_classes`."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.lists: list[list[int]] = []
        self.codes: dict[str, int] = {}

    def code(self, literal: str) -> int:
        if literal not in self.codes:
            self.codes[literal] = self._parse(literal)
        return self.codes[literal]

    def _parse(self, literal: str) -> int:
        if not _ID_LIST.fullmatch(literal):
            return -1
        ids = [int(number) for number in re.findall("[0-9]+", literal)]
        if max(ids, default=0) >= self.num_classes:
            return -1
        self.lists.append(ids)
        return len(self.lists) - 1

    def pack(self, codes: Tensor) -> IdLists:
        """Combine the rows' codes, (N,) int32, with the distinct lists parsed so far."""
        ids = np.fromiter((number for ids in self.lists for number in ids), dtype=np.int16)
        ends = np.cumsum([len(ids) for ids in self.lists], dtype=np.int64)
        return IdLists(codes, torch.from_numpy(ids), torch.from_numpy(ends))

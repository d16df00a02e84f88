"""A reader of MATLAB 5 files, the format of QFVS's tags: structs, cells and numbers, nothing else.

SciPy's reader crashes the whole process on some damaged files; this one is smaller and checks all that it reads.
"""

import struct
import zlib
from math import prod
from pathlib import Path

import numpy as np

Value = list["Value"] | dict[str, "Value"] | np.ndarray

_HEADER = 128
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _NUMERIC = 1, 2, range(6, 16)
_MAX_DEPTH = 8
_MAX_BYTES = 2**28  # bytes of a variable


def read_variable(path: Path, name: str) -> Value:
    """Read a variable: a cell array as a list, a struct array as a list of dicts, numbers as an array.

    Raises:
        ValueError: The file can't be read or is not of MATLAB 5, the variable is missing, or it is damaged.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from error
    try:
        found = dict(_File(raw).variables())
    except (ValueError, struct.error, zlib.error) as error:
        raise ValueError(f"{path} is damaged, or not a MATLAB 5 file ({error})") from error
    if name not in found:
        raise ValueError(f"{path} has no variable {name}")
    return found[name]


class _File:
    """The content of a file, and its byte order."""

    def __init__(self, raw: bytes) -> None:
        if raw[126:128] not in (b"IM", b"MI"):
            raise ValueError("it has no mark of MATLAB")
        self.raw, self.order = raw, "<" if raw[126:128] == b"IM" else ">"

    def variables(self) -> list[tuple[str, Value]]:
        """All variables with their names."""
        found, at = [], _HEADER
        while at < len(self.raw):
            kind, data, at = self.element(self.raw, at)
            if kind == _COMPRESSED:
                kind, data, _ = self.element(zlib.decompressobj().decompress(data, _MAX_BYTES), 0)
            if kind != _MATRIX:
                raise ValueError(f"an element of type {kind} is not a variable")
            found.append(self.matrix(data, 0))
        return found

    def element(self, raw: bytes, at: int) -> tuple[int, bytes, int]:
        """Type and bytes of the element at an offset, and the offset of the next one."""
        kind, size = struct.unpack_from(f"{self.order}II", raw, at)
        if kind >> 16:  # up to four bytes, within the tag
            kind, size, begin, after = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            begin = at + 8
            after = begin + size + (-size % 8 if kind != _COMPRESSED else 0)
        if begin + size > len(raw):
            raise ValueError("it ends too early")
        return kind, raw[begin : begin + size], after

    def matrix(self, raw: bytes, depth: int) -> tuple[str, Value]:
        """Name and value of a matrix."""
        if not raw or depth > _MAX_DEPTH:
            return "", np.zeros((0, 0))
        _, flags, at = self.element(raw, 0)
        (kind,) = struct.unpack_from(f"{self.order}I", flags)
        _, sizes, at = self.element(raw, at)
        shape = struct.unpack(f"{self.order}{len(sizes) // 4}i", sizes)
        _, name, at = self.element(raw, at)
        if min(shape, default=-1) < 0:
            raise ValueError("it has a size below 0")
        return name.decode("latin1"), self.value(kind & 0xFF, shape, raw, at, depth)

    def value(self, kind: int, shape: tuple[int, ...], raw: bytes, at: int, depth: int) -> Value:
        """The value of a matrix of a class and a shape, from an offset on."""
        if kind == _CELL:
            return self.matrices(prod(shape), raw, at, depth)
        if kind == _STRUCT:
            _, length, at = self.element(raw, at)
            _, names, at = self.element(raw, at)
            (width,) = struct.unpack(f"{self.order}i", length)
            fields = [names[i : i + width].rstrip(b"\0").decode("latin1") for i in range(0, len(names), max(width, 1))]
            values = self.matrices(prod(shape) * len(fields), raw, at, depth)
            return [dict(zip(fields, values[i : i + len(fields)], strict=True))
                    for i in range(0, len(values), max(len(fields), 1))]
        number, data, _ = self.element(raw, at)
        if kind not in _NUMERIC or number not in _NUMBERS:
            raise ValueError(f"a matrix of class {kind} is neither a struct, nor a cell, nor numbers")
        return np.frombuffer(data, self.order + _NUMBERS[number]).reshape(shape, order="F")

    def matrices(self, count: int, raw: bytes, at: int, depth: int) -> list[Value]:
        """Values of `count` consecutive matrices."""
        found: list[Value] = []
        for _ in range(count):
            _, data, at = self.element(raw, at)
            found.append(self.matrix(data, depth + 1)[1])
        return found

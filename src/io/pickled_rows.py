"""A reader of one pickled list of rows, row by row in bounded memory, which runs no code of the file.

Rows are tuples and lists of texts, numbers and None. An interpreter of their opcodes alone takes the place of `pickle`,
which would hold all rows at once. Pickles give each text a number, to refer back to it: a first pass over the file
finds the few numbers that are referred to, and the second pass keeps those alone.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from egovlpv2.io.files import require_file
from egovlpv2.io.pickled_scalars import Symbol, find_symbol, restore, set_state

MAX_BATCH = 100_000
"""Rows between two marks; `pickle` writes 1,000."""
MAX_KEPT = 256 * 2**20
"""Characters of texts that are referred back to, as a few thousand names of videos are."""

_BLOCK = 1 << 20  # bytes read at a time
_LONGEST = 1 << 24  # bytes of a text
_LONGEST_NUMBER = 20  # digits
_MARK = object()


class PickleError(ValueError):
    """A pickle that isn't a list of plain rows."""


class _Source:
    """The bytes of a file, read in blocks."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        self.block, self.place, self.before = b"", 0, 0

    def take(self, count: int) -> bytes:
        end = self.place + count
        if end > len(self.block):
            self._fill(count)
            end = count
        found = self.block[self.place : end]
        self.place = end
        return found

    def line(self) -> bytes:
        """The bytes up to a line feed, which is left out."""
        found = bytearray()
        while (byte := self.take(1)) != b"\n":
            found += byte
            if len(found) > _LONGEST:
                raise self.error("has a line that doesn't end")
        return bytes(found)

    def goes_on(self) -> bool:
        """Tell if there are more bytes."""
        return self.place < len(self.block) or bool(self.file.read(1))

    def error(self, fault: str) -> PickleError:
        return PickleError(f"{self.path}, byte {self.before + self.place:,}: the pickle {fault}")

    def _fill(self, count: int) -> None:
        rest = self.block[self.place :]
        self.before += self.place
        self.block, self.place = rest + self.file.read(max(count - len(rest), _BLOCK)), 0
        if len(self.block) < count:
            raise self.error("ends before its list does: the file is cut short")


class _Scan:
    """Interpreter of a pickle's opcodes that finds the memo's numbers that are referred to.

    Its methods are those of `_Rows` for arguments; what they make is not kept.
    """

    def __init__(self, source: _Source) -> None:
        self.source = source
        self.wanted: set[int] = set()
        self.take = source.take

    def run(self) -> set[int]:
        """Read the file to its end."""
        skips = {code: size for code, size in _SIZES.items() if code not in _GETS}
        take, error = self.take, self.source.error
        while (code := take(1)[0]) != _STOP:
            if code in skips:
                if skips[code]:
                    take(skips[code])
            elif code in _GETS:
                self.wanted.add(int.from_bytes(take(_SIZES[code]), "little"))
            elif code in _TEXTS:
                take(_length(self.source, _TEXTS[code]))
            elif code in _LINES:
                for _ in range(_LINES[code]):
                    self.source.line()
            elif not self.source.before and self.source.place == 1:
                raise error("doesn't begin as one: unpack the file if it is compressed, and give the .pkl itself")
            else:
                raise error(f"has the opcode {code:#04x}, which a list of plain rows doesn't need: it is not read")
        if self.source.goes_on():
            raise error("is followed by more bytes, such as a second list: they would be left out, write one list")
        return self.wanted


class _Rows:
    """Interpreter of a pickle's opcodes that yields the items of its outermost list and forgets them."""

    def __init__(self, source: _Source, wanted: set[int]) -> None:
        self.source, self.wanted = source, wanted
        self.stack: list[Any] = []
        self.marks: list[int] = []  # places of the marks in the stack
        self.memo: dict[int, Any] = {}
        self.numbered = self.kept = 0
        self.outer: list[Any] | None = None
        self.actions: dict[int, Callable[[], None]] = {
            0x80: lambda: self._skip(1), 0x95: lambda: self._skip(8), 0x5D: self._list, 0x28: self._mark,
            0x74: lambda: self._tuple(self._popped()), 0x29: lambda: self.stack.append(()),
            0x85: lambda: self._tuple(self._last(1)), 0x86: lambda: self._tuple(self._last(2)),
            0x87: lambda: self._tuple(self._last(3)), 0x47: lambda: self._number(">d"),
            0x4A: lambda: self._number("<i"), 0x4B: lambda: self._number("<B"), 0x4D: lambda: self._number("<H"),
            0x4E: lambda: self.stack.append(None),
            0x88: lambda: self.stack.append(True), 0x89: lambda: self.stack.append(False),
            0x58: lambda: self._text(4), 0x8C: lambda: self._text(1), 0x43: lambda: self._bytes(1),
            0x71: lambda: self._put(self._index(1)), 0x72: lambda: self._put(self._index(4)),
            0x94: lambda: self._put(self.numbered), 0x68: lambda: self._get(1), 0x6A: lambda: self._get(4),
            0x49: self._integer, 0x63: self._global, 0x93: self._stack_global, 0x52: self._reduce, 0x62: self._build,
        }

    def run(self) -> Iterator[Any]:
        """Yield the items of the outermost list."""
        take, actions, stack = self.source.take, self.actions, self.stack
        while (code := take(1)[0]) != _STOP:
            if code in (0x61, 0x65):  # append, appends
                items = self._last(1) if code == 0x61 else self._popped()
                target = stack[-1] if stack else None
                if not isinstance(target, list):
                    raise self.source.error("appends to something that is not a list")
                if target is self.outer:
                    yield from items
                else:
                    target.extend(items)
            else:
                actions[code]()
            if len(stack) > MAX_BATCH:
                raise self.source.error(f"has more than {MAX_BATCH:,} rows at a time: write it with Python's pickle")
        if self.outer is None or stack != [self.outer]:
            raise self.source.error("is not one list")

    def _skip(self, count: int) -> None:
        self.source.take(count)

    def _index(self, size: int) -> int:
        return int.from_bytes(self.source.take(size), "little")

    def _list(self) -> None:
        made: list[Any] = []
        if not self.stack and self.outer is None:
            self.outer = made
        self.stack.append(made)

    def _mark(self) -> None:
        self.marks.append(len(self.stack))

    def _popped(self) -> list[Any]:
        """Take what lies above the last mark from the stack."""
        if not self.marks or self.marks[-1] > len(self.stack):
            raise self.source.error("has no mark where it needs one")
        begin = self.marks.pop()
        items = self.stack[begin:]
        del self.stack[begin:]
        return items

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise self.source.error("takes more from its stack than there is")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _tuple(self, items: list[Any]) -> None:
        self.stack.append(tuple(items))

    def _number(self, layout: str) -> None:
        self.stack.append(struct.unpack(layout, self.source.take(struct.calcsize(layout)))[0])

    def _integer(self) -> None:
        """A number in digits; protocol 1 writes True and False so."""
        digits = self.source.line()
        if not digits.removeprefix(b"-").isdigit() or len(digits) > _LONGEST_NUMBER:
            raise self.source.error(f"has the number {digits[:20]!r}")
        self.stack.append(int(digits))

    def _text(self, size: int) -> None:
        raw = self.source.take(_length(self.source, size))
        try:
            self.stack.append(raw.decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError as error:
            raise self.source.error(f"has a text that is not UTF-8 ({error.reason})") from error

    def _bytes(self, size: int) -> None:
        self.stack.append(self.source.take(_length(self.source, size)))

    def _put(self, index: int) -> None:
        self.numbered += 1
        if index in self.wanted:
            (value,) = self._last(1)
            self.stack.append(value)
            if value is self.outer:
                raise self.source.error("refers to the list itself")
            self.memo[index] = value
            self.kept += _weight(value)
            if self.kept > MAX_KEPT:
                raise self.source.error("refers back to too many of its texts to be read in bounded memory")

    def _get(self, size: int) -> None:
        index = self._index(size)
        if index not in self.memo:
            raise self.source.error(f"refers to its value {index}, which comes later or never")
        self.stack.append(self.memo[index])

    def _global(self) -> None:
        module, name = (self.source.line().decode("utf-8", "replace") for _ in range(2))
        self.stack.append(find_symbol(module, name, self.source.error))

    def _stack_global(self) -> None:
        module, name = self._last(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise self.source.error("names something that is not a text")
        self.stack.append(find_symbol(module, name, self.source.error))

    def _reduce(self) -> None:
        function, arguments = self._last(2)
        if not isinstance(function, Symbol) or not isinstance(arguments, tuple):
            raise self.source.error("calls something that is not a function")
        self.stack.append(restore(function, arguments, self.source.error))

    def _build(self) -> None:
        target, state = self._last(2)
        set_state(target, state, self.source.error)
        self.stack.append(target)


def _length(source: _Source, size: int) -> int:
    length = int.from_bytes(source.take(size), "little")
    if length > _LONGEST:
        raise source.error(f"has a text of {length:,} bytes, which no narration has")
    return length


def _weight(value: Any) -> int:
    """The number of characters of a value, those of its items included."""
    items = value if isinstance(value, list | tuple) else (value,)
    return 8 + sum(len(item) if isinstance(item, str | bytes) else 8 for item in items)


_STOP = 0x2E
_LINES = {0x49: 1, 0x63: 2}  # opcodes with lines
_GETS = frozenset((0x68, 0x6A))
_TEXTS = {0x58: 4, 0x8C: 1, 0x43: 1}  # opcodes with a length, and its size
# Opcodes with an argument of constant size.
_SIZES = {0x80: 1, 0x95: 8, 0x47: 8, 0x4A: 4, 0x4B: 1, 0x4D: 2, 0x71: 1, 0x72: 4, 0x68: 1, 0x6A: 4} | dict.fromkeys(
    (0x5D, 0x28, 0x74, 0x29, 0x85, 0x86, 0x87, 0x4E, 0x88, 0x89, 0x94, 0x93, 0x52, 0x62, 0x61, 0x65), 0)


def read_rows(path: str | Path) -> Iterator[Any]:
    """Yield the items of a pickled list, each as plain tuples, lists, texts and numbers.

    Args:
        path: The file, of protocol 1 to 5. Numbers may be numpy's scalars.

    Raises:
        PickleError: The file is cut short, is not a list, or has other opcodes or classes than those of plain rows,
            none of which is run; names the byte.
        ValueError: The file is missing or can't be read.
    """
    path = Path(path)
    require_file(path, "a pickled list of narrations")
    with path.open("rb") as file:
        wanted = _Scan(_Source(file, path)).run()
        file.seek(0)
        yield from _Rows(_Source(file, path), wanted).run()

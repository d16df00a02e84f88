"""Reading, parsing and checking of files and values from outside.

Every reader of JSON, of a header or of a configuration declares its shape as a type (a dataclass, `NamedTuple`,
`TypedDict` or a container of them; `msgspec.Meta` bounds numbers) and gets values of that type, or one `ValueError`
that names the file, the place in it and the fault.
"""

import json
import os
import re
from dataclasses import fields, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

T = TypeVar("T")

Words = Annotated[str, msgspec.Meta(pattern=r"\S")]  # a text that is not blank; also an id, which must not be a number
LONGEST = 1e6  # seconds, 11 days: no video lasts longer, and times stay exact to the microsecond
Seconds = Annotated[float, msgspec.Meta(ge=-1, le=LONGEST)]  # official times begin up to a second before 0
Start = Annotated[float, msgspec.Meta(ge=-60, le=LONGEST)]  # of a clip around a narration, which may begin before 0

SURROGATE = re.compile(r"[\ud800-\udfff]")  # halves of a pair, which can't be encoded
_SHOWN = 60  # characters of a wrong value in a message


def read_text(path: Path) -> str:
    """Read the text of a UTF-8 file, with or without a byte order mark.

    Raises:
        ValueError: The file can't be read, or is not UTF-8; names the file and the line.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        dangling = isinstance(error, FileNotFoundError) and path.is_symlink()
        link = f", a link to {os.readlink(path)}," if dangling else ""
        raise ValueError(f"{path}{link} can't be read: {error.strerror}") from error
    return decode_text(raw, str(path))


def decode_text(raw: bytes, source: str) -> str:
    """Decode UTF-8 bytes.

    Args:
        raw: The bytes; a byte order mark is left out.
        source: Name in error messages, such as a path.

    Raises:
        ValueError: They are not UTF-8; names the line.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        kind = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "not UTF-8"
        raise ValueError(f"{source}, line {line}: the file is {kind} (byte {raw[error.start]:#04x}): save it as UTF-8"
                         ) from error


def read_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 file, which end in a line feed, a carriage return or both.

    Raises:
        ValueError: As `read_text`.
    """
    lines = read_text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def read_json(path: Path, shape: type[T]) -> T:
    """Read a JSON file as a value of a type; see `parse_json`.

    Raises:
        ValueError: The file can't be read, is not JSON, or is not of that shape.
    """
    if not (text := read_text(path)).strip():
        raise ValueError(f"{path}, line 1, column 1: not JSON (the file is empty)")
    return parse_json(text, shape, str(path))


def parse_json(text: str, shape: type[T], source: str) -> T:
    """Parse JSON as a value of a type.

    Stricter than `json.loads`: numbers must be finite, keys unique in their object and texts valid Unicode.

    Args:
        text: The JSON.
        shape: The type to make.
        source: Name in error messages, such as a path.

    Raises:
        ValueError: It is not JSON (names line and column), or not of that shape (names the key).
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite,
                           object_pairs_hook=_object_without_repeats)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}, line {error.lineno}, column {error.colno}: not JSON ({error.msg})") from error
    except RecursionError as error:
        raise ValueError(f"{source} is nested too deeply to be read") from error
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    if "\\u" in text and (bad := _find_surrogate(value)) is not None:
        raise ValueError(f"{source}: {shown(bad)} holds half of a surrogate pair, which is not a text")
    return check(value, shape, source)


def check(value: Any, shape: type[T], source: str, forbid_unknown: bool = False) -> T:
    """Convert a plain value (dicts, lists, numbers, texts) to a type.

    Args:
        value: The plain value.
        shape: The type to make.
        source: Name in error messages, such as a path.
        forbid_unknown: True to refuse keys that the dataclass `shape` and the dataclasses in it don't have.

    Raises:
        ValueError: It is not of that shape; names the key.
    """
    try:
        if forbid_unknown:
            _refuse_unknown(value, shape, "")
        return msgspec.convert(value, shape)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ValueError(f"{source}: {_in_words(str(error))}") from error


def check_entries(value: dict[str, Any], shape: type[T], source: str) -> dict[str, T]:
    """Convert the entries of an object to a type; errors name the key, which `check` leaves out.

    Args:
        value: The plain object.
        shape: The type of each entry.
        source: Name of the object in error messages; the key follows it.

    Raises:
        ValueError: An entry is not of that shape.
    """
    return {key: check(entry, shape, f"{source} {shown(key)}") for key, entry in value.items()}


def shown(value: object) -> str:
    """Format a value for an error message: texts in quotes, on one line and not too long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def plain(name: str) -> str:
    """Format a name for an error message: without quotes, on one line and not too long."""
    return repr(name)[1:-1][:_SHOWN]


def _in_words(message: str) -> str:
    """Put the place in front of msgspec's message: `$.videos[3].clips` becomes `videos[3].clips`."""
    message = message.replace("Expected `str` matching regex '\\\\S'", "Expected a text that is not blank")
    text, _, place = message.rpartition(" - at `")
    if not text:
        return message
    place = place.rstrip("`").replace("key` in `$", "a key of $").replace("$.", "").replace("$", "")
    return f"{place or 'the top'}: {text}"


def _refuse_unknown(value: Any, shape: Any, place: str) -> None:
    if not is_dataclass(shape) or not isinstance(value, dict):
        return
    known = {field.name: field.type for field in fields(shape)}
    if unknown := [str(key) for key in value if key not in known]:
        raise msgspec.ValidationError(f"unknown key {place}{unknown[0]}; known: {', '.join(known)}")
    for key, inner in value.items():
        _refuse_unknown(inner, known[key], f"{place}{key}.")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(literal: str) -> float:
    number = float(literal)
    if not isfinite(number):
        raise ValueError(f"the number {literal[:20]} is too large")
    return number


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {shown(key)} is there twice")
            seen.add(key)
    return content


def _find_surrogate(value: Any) -> str | None:
    """Find a text in a plain value that can't be encoded."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str) and SURROGATE.search(item):
            return item
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item
    return None

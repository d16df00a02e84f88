"""Seeded mutations of annotation files, for `test_mutated_annotations.py`."""

import json
import random
from collections.abc import Callable
from typing import Any

# Values that take the place of others: wrong types, times that are none, ids that repeat or look like numbers, ...
VALUES: list[Any] = [
    None, True, False, 0, -1, 1.5, -2.5, 1e300, 10**30, "", " ", "001", "5", "nan", "inf", "-inf", "1e999", "x\ny",
    "\ud800", "\u0661", "\0", "a,b", "a\tb", '"', [], [1], [[]], {}, {"a": 1}, [0.0, 1.0], "[1, 2]", "[9999]",
    "c001 2 1", "validation", "é" * 300, float("nan"), float("inf"), float("-inf"),
]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """The containers of a JSON value with each of their keys or places."""
    found, waiting = [], [value]
    while waiting:
        item = waiting.pop()
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        for key in keys:
            found.append((item, key))
            waiting.append(item[key])
    return found


def mutate_json(raw: bytes, draw: random.Random) -> bytes:
    """A JSON file with one to three entries replaced, removed, doubled or moved."""
    content = json.loads(raw)
    for _ in range(draw.randint(1, 3)):
        if not (places := _places(content)):
            break
        holder, key = draw.choice(places)
        change = draw.randrange(6)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, list):
            holder.append(holder[key])
        elif change == 2:
            other, place = draw.choice(places)
            try:  # the place may be gone, or hold the container itself
                holder[key] = json.loads(json.dumps(other[place]))
            except (LookupError, ValueError):
                continue
        else:
            holder[key] = draw.choice(VALUES)
    return json.dumps(content, ensure_ascii=draw.random() < 0.7).encode("utf-8", "surrogatepass")


def repeat_key(raw: bytes, draw: random.Random) -> bytes:
    """A JSON file with one of its keys there twice, or a number of thousands of digits."""
    text = raw.decode()
    place = draw.choice([i for i, letter in enumerate(text) if letter == ":"] or [0])
    begin = text.rfind('"', 0, text.rfind('"', 0, place)) if place else 0
    key = text[begin:place]
    value = "9" * 5000 if draw.random() < 0.3 else "1"
    return (f"{text[:place]}: {value}, {key}{text[place:]}" if key else text).encode()


def nest(raw: bytes, draw: random.Random) -> bytes:
    """A file with brackets a hundred thousand deep in it."""
    place, letter = draw.randrange(len(raw) + 1), draw.choice([b"[", b'{"a":'])
    return raw[:place] + letter * draw.choice([50, 2000, 100_000]) + raw[place:]


def cut(raw: bytes, draw: random.Random) -> bytes:
    """The beginning of a file."""
    return raw[: draw.randrange(len(raw) + 1)]


def spoil(raw: bytes, draw: random.Random) -> bytes:
    """A file with some bytes drawn anew."""
    content = bytearray(raw)
    for _ in range(draw.randint(1, 8)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content)


def encode(raw: bytes, draw: random.Random) -> bytes:
    """A file in another encoding, or with a byte order mark."""
    text = raw.decode("utf-8", "replace") + draw.choice(["", "é", "\N{GRINNING FACE}"])
    return text.encode(draw.choice(["utf-16", "utf-16-le", "cp1252", "utf-8-sig", "utf-32", "utf-7"]), "replace")


def mutate_rows(raw: bytes, draw: random.Random) -> bytes:
    """A table with fields replaced, rows and columns removed or doubled, or another separator."""
    lines = [line.split(separator := "\t" if b"\t" in raw else ",") for line in raw.decode().splitlines()]
    for _ in range(draw.randint(1, 3)):
        row = draw.randrange(len(lines))
        column = draw.randrange(len(lines[row])) if lines[row] else 0
        change = draw.randrange(7)
        if change == 0:
            lines.insert(draw.randrange(len(lines) + 1), list(lines[row]))
        elif change == 1 and len(lines) > 1:
            del lines[row]
        elif change == 2:  # a column that is there twice, or not at all
            keep = draw.random() < 0.5
            lines = [line[:column] + line[column : column + 1] * 2 * keep + line[column + 1 :] for line in lines]
        elif change == 3:
            value = str(draw.choice(VALUES))
            lines[1:] = [line[:column] + [value] + line[column + 1 :] for line in lines[1:]]
        elif change == 4:
            lines = [[draw.choice([",", ";", " "]).join(line)] for line in lines]
        elif lines[row]:
            lines[row][column] = str(draw.choice(VALUES))
    return "\n".join(separator.join(line) for line in lines).encode("utf-8", "surrogatepass")


ANY: list[Callable[[bytes, random.Random], bytes]] = [nest, cut, spoil, encode]
OF_JSON = [mutate_json, mutate_json, mutate_json, repeat_key, *ANY]
OF_ROWS = [mutate_rows, mutate_rows, mutate_rows, *ANY]

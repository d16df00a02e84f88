"""Parsing of files from outside into typed values, or one error that names the place."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta

from egovlpv2.io.schema import check, parse_json, read_json, read_text


@dataclass
class Inner:
    count: int


@dataclass
class Outer:
    rate: Annotated[float, Meta(gt=0)]
    inner: Inner
    names: tuple[str, ...] = ()


GOOD = '{"rate": 2, "inner": {"count": 3}, "names": ["a"]}'


def test_a_value_of_the_type() -> None:
    assert parse_json(GOOD, Outer, "x") == Outer(2.0, Inner(3), ("a",))


@pytest.mark.parametrize(("text", "message"), [
    ("", "x, line 1, column 1: not JSON"),
    ('{"rate":\n 1,,}', "x, line 2, column 4: not JSON"),
    ("[" * 100_000, "x is nested too deeply"),
    ('{"rate": 1' + "0" * 5000 + "}", "x: Exceeds the limit"),
    ('{"rate": NaN}', "x: NaN is not a number"),
    ('{"rate": -Infinity}', "x: -Infinity is not a number"),
    ('{"rate": 1e999}', "x: the number 1e999 is too large"),
    ('{"rate": 1, "rate": 2}', "x: the key 'rate' is there twice"),
    ('{"rate": 1, "inner": {"count": 1}, "names": ["\\ud800"]}', "half of a surrogate pair"),
    ('{"rate": 0, "inner": {"count": 1}}', "x: rate: Expected `float` > 0.0"),
    ('{"rate": 1, "inner": {"count": "1"}}', "x: inner.count: Expected `int`, got `str`"),
    ('{"rate": 1, "inner": {"count": true}}', "x: inner.count: Expected `int`, got `bool`"),
    ('{"rate": 1, "inner": []}', "x: inner: Expected `object`, got `array`"),
    ('{"rate": 1}', "x: Object missing required field `inner`"),
    ("3", "x: Expected `object`, got `int`"),
])
def test_what_is_wrong_and_where(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_json(text, Outer, "x")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_pairs_of_surrogates_are_texts() -> None:
    assert parse_json('["\\ud83d\\ude00"]', list[str], "x") == ["\N{GRINNING FACE}"]


@pytest.mark.parametrize(("value", "message"), [
    ({"rate": 1, "inner": {"count": 1, "counts": 2}}, "x: unknown key inner.counts; known: count"),
    ({"rate": 1, "inner": {"count": 1}, "more": 2}, "x: unknown key more; known: rate, inner, names"),
])
def test_unknown_keys_are_refused_where_asked(value: Any, message: str) -> None:
    check(value, Outer, "x")
    with pytest.raises(ValueError, match=message):
        check(value, Outer, "x", forbid_unknown=True)


@pytest.mark.parametrize(("raw", "message"), [
    (GOOD.encode("utf-16"), "line 1: the file is UTF-16"),
    ("[\n'café']".encode("cp1252"), "line 2: the file is not UTF-8"),
])
def test_encodings(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(ValueError) as error:
        read_json(tmp_path / "a.json", Outer)
    assert f"{tmp_path / 'a.json'}, {message}" in str(error.value)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert read_json(tmp_path / "a.json", Outer).rate == 2
    assert read_text(tmp_path / "a.json") == GOOD


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing.json can't be read: No such file"):
        read_json(tmp_path / "nothing.json", Outer)
    with pytest.raises(ValueError, match="can't be read: Is a directory"):
        read_json(tmp_path, Outer)

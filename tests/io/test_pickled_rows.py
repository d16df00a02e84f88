"""Pickled lists are read row by row, without running what is in them."""

import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egovlpv2.io import pickled_rows
from egovlpv2.io.pickled_rows import PickleError, read_rows

UID = "a" * 36
ROWS: list[Any] = [(UID, 1.5, 3, ["C cuts", "C peels é"], [-0.25, -1.5]), ["b", -70000, 300, "C walks"], ("b", None)]


def write(path: Path, rows: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(rows, protocol=protocol))
    return path


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", range(1, 6))
def test_rows_are_those_of_pickle(tmp_path: Path, protocol: int) -> None:
    assert list(read_rows(write(tmp_path / "a.pkl", ROWS, protocol))) == ROWS
    many = [(UID, float(i), i + 1.0, [f"C does {i}", UID]) for i in range(2500)]  # UID is referred to
    assert list(read_rows(write(tmp_path / "b.pkl", many, protocol))) == many
    assert list(read_rows(write(tmp_path / "c.pkl", ROWS[:1], protocol))) == ROWS[:1]  # appended alone
    assert list(read_rows(write(tmp_path / "d.pkl", [], protocol))) == []


@pytest.mark.parametrize("protocol", range(1, 6))
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.dtype(">f8").type])
def test_numpy_scalars_become_numbers(tmp_path: Path, protocol: int, kind: Any) -> None:
    rows = [("v", kind(i), kind(i + 2), "C cuts") for i in range(5)]
    found = list(read_rows(write(tmp_path / "a.pkl", rows, protocol)))
    assert found == rows and {type(time) for row in found for time in row[1:3]} <= {float, int}


def test_big_endian_scalars(tmp_path: Path) -> None:
    scalar = np.array([1.25], dtype=">f8")
    rows = pickle.dumps([("v", scalar[0])]).replace(b"\x8c\x01<", b"\x8c\x01>").replace(
        np.float64(1.25).tobytes(), scalar.tobytes())
    (tmp_path / "a.pkl").write_bytes(rows)
    assert list(read_rows(tmp_path / "a.pkl")) == [("v", 1.25)]


@pytest.mark.parametrize("protocol", range(1, 6))
def test_code_is_not_run(tmp_path: Path, protocol: int) -> None:
    path = write(tmp_path / "a.pkl", [*ROWS, Harmful(tmp_path / "made")], protocol)
    with pytest.raises(PickleError, match=r"a.pkl, byte \d+: the pickle names \w+.mkdir, which a list of plain rows"):
        list(read_rows(path))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("value", [np.arange(3), {1: 2}, {1, 2}, 1 + 2j, Path("a"), 10**30, np.dtype([("a", "f8")]),
                                   np.datetime64("2026-01-01"), b"x" * 300])
def test_other_values_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(PickleError, match=r"a.pkl, byte \d+: the pickle "):
        list(read_rows(write(tmp_path / "a.pkl", [("v", value)])))


@pytest.mark.parametrize("content", [b"", b"\x80", pickle.dumps(ROWS)[:-1], pickle.dumps(ROWS)[:40],
                                     pickle.dumps([UID] * 3000, 4)[:-20]])
def test_a_file_that_is_cut_short(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(PickleError, match="ends before its list does: the file is cut short"):
        list(read_rows(tmp_path / "a.pkl"))


@pytest.mark.parametrize(("content", "fault"), [
    (b"hello", "has the opcode 0x68|refers to its value|ends before|has the opcode"),
    (b"}.", "doesn't begin as one"), (b"](}e.", "has the opcode 0x7d"), (b"].x", "is followed by more bytes"),
    (b"](cnumpy\ndtype\n(]tRe.", "makes a numpy dtype that is not a number"),
    (b"K\x01.", "is not one list"), (b"]].", "is not one list"),
    (b"e.", "no mark where it needs one"), (b"a.", "takes more|appends to|needs one"), (b"(e.", "appends to something"),
    (b"]h\x05a.", "refers to its value 5, which comes later or never"), (b"\x86.", "takes more from its stack"),
    (b"X\xff\xff\xff\x7f.", "a text of 2,147,483,647 bytes"), (b"]I1x\na.", "has the number b'1x'"),
    (b"]X\x01\x00\x00\x00\xffa.", "a text that is not UTF-8"), (b"]q\x00h\x00a.", "refers to the list itself"),
    (b"]NNRa.", "calls something that is not a function"), (b"]NNba.", "sets the state of something"),
    (b"]NN\x93a.", "names something that is not a text"),
    (b"]cnumpy\ndtype\n(tRa.", "makes a numpy dtype that is not a number"),
])
def test_damaged_pickles_are_named(tmp_path: Path, content: bytes, fault: str) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(PickleError, match=fault):
        list(read_rows(tmp_path / "a.pkl"))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a.pkl"):
        list(read_rows(tmp_path / "a.pkl"))


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled_rows, "_BLOCK", 1 << 14)
    rows = [(f"video {i // 1000}", float(i), i + 1.0, [f"C does {i} {k}" for k in range(10)]) for i in range(20_000)]
    path = write(tmp_path / "a.pkl", rows)
    del rows
    tracemalloc.start()
    assert sum(1 for _ in read_rows(path)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 2**20 < path.stat().st_size  # a few blocks and a batch of rows


def test_batches_and_references_that_would_fill_the_memory_are_refused(tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pkl").write_bytes(b"](" + b"N" * (pickled_rows.MAX_BATCH + 1) + b"e.")
    with pytest.raises(PickleError, match="has more than 100,000 rows at a time: write it with Python's pickle"):
        list(read_rows(tmp_path / "a.pkl"))
    monkeypatch.setattr(pickled_rows, "MAX_KEPT", 1000)
    texts = [f"C does {i}" for i in range(200)]
    with pytest.raises(PickleError, match="refers back to too many of its texts to be read in bounded memory"):
        list(read_rows(write(tmp_path / "b.pkl", texts + texts)))


def test_any_damage_is_an_error_or_rows(tmp_path: Path) -> None:
    whole = pickle.dumps(ROWS * 3)
    rng = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[int(rng.integers(len(whole)))] = int(rng.integers(256))
        (tmp_path / "a.pkl").write_bytes(damaged)
        try:
            list(read_rows(tmp_path / "a.pkl"))
        except PickleError:
            pass

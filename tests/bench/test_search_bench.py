"""`egovlpv2 bench search`: what it times is a search."""

import json
from pathlib import Path

import pytest

from egovlpv2.bench import search as bench
from egovlpv2.cli import main as cli


@pytest.mark.parametrize("kind", ["float16", "pq"])
def test_a_small_index_is_written_searched_and_gone(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "search.json"
    cli(["bench", "search", "--hours", "0.4", "--widths", "8", "16", "--index-files", "3", "--folder", str(tmp_path),
         "--store", kind, "--out", str(out)])
    figures = json.loads(out.read_text())["figures"]
    assert [row["what"] for row in figures if "opening" in row["what"]] == [
        f"opening an index of 1,440 windows, {width} wide, 0.00 GB, {kind}" for width in (8, 16)]
    assert all(row["value"] > 0 for row in figures) and figures[2]["ratio"] > 1  # a search reads all, and more
    assert [row["value"] for row in figures if "exact" in row["what"]] == ([100.0, 100.0] if kind == "pq" else [])
    assert [path.name for path in tmp_path.iterdir()] == ["search.json"]


def test_what_may_come_from_memory_is_not_called_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(bench.os, "posix_fadvise")
    bench.write_index(tmp_path, 0.01, 1.0, 8, 2)
    assert bench.forget(tmp_path) is False and bench.search_seconds(tmp_path, 8)["from disk"] is False

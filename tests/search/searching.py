"""The commands `index` and `search` with options for tests."""

from pathlib import Path

import pytest

from egovlpv2.cli import main as cli

QUERY = "w17 w203 w41"


def index(videos: Path, weights: Path, out: Path, *more: object) -> None:
    cli(["index", str(videos), "--weights", str(weights), "--out", str(out), "--device", "cpu", "--num-workers", "0",
         "--max-tokens", "12", *map(str, more)])


def search(made: Path, *more: object, query: str = QUERY) -> None:
    cli(["search", query, "--index", str(made), "--out", str(made.parent / "page.html"), "--device", "cpu",
         *map(str, more)])


def refused(match: str, made: Path, *more: object, query: str = QUERY) -> None:
    with pytest.raises(SystemExit, match=match) as end:
        search(made, *more, query=query)
    assert str(end.value).startswith("egovlpv2 search: error: ")
    assert not (made.parent / "page.html").exists()

"""Videos of a span of time, by a table or by their files."""

import os
from datetime import datetime
from pathlib import Path

import pytest
from search.searching import QUERY, index

from egovlpv2 import Index
from egovlpv2.cli import main as cli


@pytest.fixture
def dated(videos: Path, weights: Path, tmp_path: Path) -> Path:
    """An index of videos that were last written to at noon of three days of May."""
    for day, name in enumerate("abc", 1):
        noon = datetime(2026, 5, day, 12).timestamp()
        os.utime(videos / f"{name}.mp4", (noon, noon))
    index(videos, weights, tmp_path / "index")
    return tmp_path / "index"


@pytest.mark.parametrize("after, before, names", [("2026-05-02", None, "bc"), (None, "2026-05-02", "a"),
                                                  ("2026-05-01 12:00", "2026-05-03", "ab"), (None, "2030-01-01", "abc"),
                                                  ("2026-05-01T12:00:01", None, "bc")])
def test_the_times_of_files(dated: Path, after: str | None, before: str | None, names: str) -> None:
    opened = Index(dated, device="cpu")
    assert opened.matching(None, after, before) == list(names)
    assert {moment.video for moment in opened.search(QUERY, top=99, videos=opened.matching(None, after, before))} == {
        *names}


def test_the_times_of_a_table(dated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "meta.csv").write_text("time,place,video\n2025-01-01,home,a\n2025-06-01 10:00,out,c\n2025-07-01,,x\n")
    table, opened = str(tmp_path / "meta.csv"), Index(dated, device="cpu")
    assert opened.matching(None, "2025-02-01", None, table) == ["c"] and opened.matching(table=table) == ["a", "c"]
    assert opened.matching(["[ab]"], None, "2026-01-01", table) == ["a"]
    cli(["search", QUERY, "--index", str(dated), "--after", "2025-02-01", "--table", table, "--device", "cpu", "--out",
         str(tmp_path / "a.html")])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.strip()[:1].isdigit() and " - " in line]
    assert rows and all("  c  " in line for line in rows)


def test_neither_table_nor_index_is_written_over(dated: Path, tmp_path: Path) -> None:
    (tmp_path / "meta.csv").write_text("video,time\na,2025-01-01\n")
    before = (dated / "index.json").read_bytes()
    for target in (tmp_path / "meta.csv", dated / "index.json"):
        with pytest.raises(SystemExit, match=f"--export .*{target.name}: that file is read"):
            cli(["search", QUERY, "--index", str(dated), "--table", str(tmp_path / "meta.csv"), "--device", "cpu",
                 "--out", str(tmp_path / "a.html"), "--export", str(target)])
    assert (dated / "index.json").read_bytes() == before and "2025" in (tmp_path / "meta.csv").read_text()


def test_times_that_cannot_be_read_are_named(dated: Path, tmp_path: Path) -> None:
    opened, table = Index(dated, device="cpu"), tmp_path / "meta.csv"
    for arguments, message in (({"after": "yesterday"}, "--after 'yesterday': give a date such as 2026-05-01"),
                               ({"before": "2026-13-01"}, "--before '2026-13-01': give a date"),
                               ({"after": "2030-01-01"}, "no video is of that time .*2026-05-01 12:00 to 2026-05-03"),
                               ({"videos": ["a"], "after": "2026-05-02"}, "none of the 2 videos of that time"),
                               ({"table": str(tmp_path / "none.csv")}, "none.csv")):
        with pytest.raises(ValueError, match=message):
            opened.matching(**arguments)
    for content, message in (("video\na\n", "meta.csv has no column time: it has video"), ("", "empty file"),
                             ("video,time\n", "meta.csv has no rows"),
                             ("video,time\na,soon\n", "meta.csv, line 2: time 'soon'"),
                             ("video,time\na\n", "meta.csv, line 2: time ''"),
                             ('video,time\n"a,b\n', "not a row of a CSV"),
                             ("video,time\nz,2025-01-01\n", "names none of the 3 videos of the index, such as 'a'")):
        table.write_text(content)
        with pytest.raises(ValueError, match=message):
            opened.matching(table=str(table))

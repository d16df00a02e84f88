"""Tables of narrations by language models: converted row by row, opened without reading, drawn as published."""

import gzip
import json
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from egovlpv2.cli import main as cli
from egovlpv2.data_modules import narration_table
from egovlpv2.data_modules.clips import ClipReader
from egovlpv2.data_modules.egoclip import EgoClipDataModule
from egovlpv2.data_modules.llm_clips import Concatenated, TableClips
from egovlpv2.data_modules.llm_narrations import check_row, convert_narrations
from egovlpv2.data_modules.narration_table import NarratedClip, NarrationTable, write_table

ROWS: list[Any] = [("short", 3.0, 4.0, ["C cuts", "C slices"], [-0.5, -1.0]), ("other", -0.5, 1.0, "C opens", 0.25),
                   ("short", 1.0, 2.0, "C walks é")]


def write(path: Path, rows: Any) -> str:
    path.write_bytes(pickle.dumps(rows))
    return str(path)


@pytest.fixture
def table(tmp_path: Path) -> NarrationTable:
    convert_narrations(write(tmp_path / "a.pkl", ROWS), tmp_path / "table")
    return NarrationTable(tmp_path / "table")


def test_the_command_converts_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.pkl", ROWS)
    cli(["llm-narrations", source, str(tmp_path / "table"), "--written-by", "human"])
    out = " ".join(capsys.readouterr().out.split())
    assert out == f"3 clips 4 texts written: {tmp_path / 'table'}"
    assert NarrationTable(tmp_path / "table").source == "human"
    with pytest.raises(SystemExit, match="holds a table already: give another folder, or delete it"):
        cli(["llm-narrations", source, str(tmp_path / "table")])


def test_rows_are_sorted_by_video_and_time(table: NarrationTable) -> None:
    assert [table.clip(row) for row in range(3)] == [
        NarratedClip("short", 1.0, 2.0, ["C walks é"]),
        NarratedClip("short", 3.0, 4.0, ["C cuts", "C slices"], [-0.5, -1]),
        NarratedClip("other", 0.0, 1.0, ["C opens"], [0.25])]
    assert (len(table), table.num_texts, table.source, table.videos) == (3, 4, "pseudo", ["short", "other"])


def test_many_rows_are_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narration_table, "_BUFFERED", 7)
    monkeypatch.setattr(narration_table, "_COPIED", 5)
    rows = [("v", float(i), i + 1.0, [f"C {i} {k}" for k in range(i % 3 + 1)]) for i in np.random.default_rng(0)
            .permutation(40).tolist()]
    convert_narrations(write(tmp_path / "a.pkl", rows), tmp_path / "table")
    table = NarrationTable(tmp_path / "table")
    assert [table.clip(i)[1:4] for i in range(40)] == [row[1:] for row in sorted(rows, key=lambda row: row[1])]


@pytest.mark.parametrize(("row", "reason"), [
    ("v", "not a tuple of 4 or 5 values"), (("v", 1.0, 2.0), "not a tuple of 4"), ((" ", 1.0, 2.0, "a"), "no name of"),
    ((5, 1.0, 2.0, "a"), "no name of a video"), (("\ud800", 1.0, 2.0, "a"), "no name"),
    (("v", "1", 2.0, "a"), "a time is"),
    (("v", 1.0, float("nan"), "a"), "a time is not a finite"), (("v", 2.0, 2.0, "a"), "doesn't end after it starts"),
    (("v", -2.0, -1.0, "a"), "doesn't end after"), (("v", 1.0, 1e9, "a"), "lasts for days"),
    (("v", 1.0, 2.0, []), "no text"),
    (("v", 1.0, 2.0, ["a", " "]), "no text, or a blank one"), (("v", 1.0, 2.0, None), "no text"),
    (("v", 1.0, 2.0, "\ud800"), "no text"),
    (("v", 1.0, 2.0, ["a", "b"], [0.5]), "not as many log-likelihoods as texts"),
    (("v", 1.0, 2.0, "a", "b"), "not as many log-likelihoods"),
])
def test_bad_rows_have_a_reason(row: Any, reason: str) -> None:
    assert reason in str(check_row(row))


def test_a_start_before_the_video_is_its_beginning() -> None:
    assert check_row(("v", -3, 2, "a")) == NarratedClip("v", 0.0, 2.0, ["a"])
    assert check_row(("v", 1, 2, ["a"], 0.5)) == NarratedClip("v", 1.0, 2.0, ["a"], [0.5])


def test_bad_rows_are_counted_and_too_many_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [("v", float(i), i + 1.0, "C cuts") for i in range(300)]
    cli(["llm-narrations", write(tmp_path / "a.pkl", [*good, ("v", 1.0), ("v", 2.0, 1.0, "a"), ("v", 3.0)]),
         str(tmp_path / "a")])
    out = " ".join(capsys.readouterr().out.split())
    assert "300 clips 300 texts 2 rows left out: not a tuple of 4 or 5 values 1 rows left out: the clip doesn't" in out
    with pytest.raises(SystemExit, match="4 of 304 rows are bad, more than 1%. The first: row 301: not a tuple of 4"):
        cli(["llm-narrations", write(tmp_path / "b.pkl", [*good, *[("v", 1.0)] * 4]), str(tmp_path / "b")])
    assert not list(tmp_path.glob("*b")) and not list(tmp_path.glob(".b*"))


@pytest.mark.parametrize(("content", "message"), [
    (pickle.dumps(ROWS)[:50], "a.pkl, byte .*: the pickle ends before its list does: the file is cut short"),
    (pickle.dumps([np.arange(3)]), "names numpy.*_reconstruct, which a list of plain rows doesn't need"),
    (pickle.dumps([]), "is an empty list: it has no rows"),
    (pickle.dumps(ROWS) + pickle.dumps(ROWS), "is followed by more bytes, such as a second list"),
    (gzip.compress(pickle.dumps(ROWS)), "doesn't begin as one: unpack the file if it is compressed"),
])
def test_a_file_that_cant_be_read_leaves_no_table(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(SystemExit, match=message):
        cli(["llm-narrations", str(tmp_path / "a.pkl"), str(tmp_path / "table")])
    with pytest.raises(ValueError, match="table is not a table of narrations, or an unfinished one"):
        NarrationTable(tmp_path / "table")
    assert os.listdir(tmp_path) == ["a.pkl"]


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    source = Path(write(tmp_path / "table" / "video.bin", ROWS))
    before = source.read_bytes()
    with pytest.raises(SystemExit, match="table is not empty: give a new one"):
        cli(["llm-narrations", str(source), str(tmp_path / "table")])
    assert source.read_bytes() == before and os.listdir(tmp_path / "table") == ["video.bin"]


def test_of_two_writers_the_first_wins(tmp_path: Path) -> None:
    """And the other is told, whichever began earlier."""
    with pytest.raises(ValueError, match="table was written by another process meanwhile"):
        with write_table(tmp_path / "table", "pseudo") as slow:
            slow.append(NarratedClip("v", 0.0, 1.0, ["slow"]))
            make_table(tmp_path / "table", {"w": [1.0, 2.0]})
    assert [NarrationTable(tmp_path / "table").clip(row).video for row in (0, 1)] == ["w", "w"]
    assert os.listdir(tmp_path) == ["table"]


def test_damage_inside_a_table_is_named_by_its_row(table: NarrationTable) -> None:
    for name, kind, message in (("video", "<i4", "row 1: the table is damaged"), ("first", "<i8", "row 1: the table")):
        path = table.folder / f"{name}.bin"
        good = path.read_bytes()
        values = np.frombuffer(good, kind).copy()
        values[1] = 1_000_000
        path.write_bytes(values.tobytes())
        with pytest.raises(ValueError, match=message):
            NarrationTable(table.folder).clip(1)
        path.write_bytes(good)
    text = table.folder / "text.bin"
    text.write_bytes(b"\xff" * text.stat().st_size)
    with pytest.raises(ValueError, match="row 0: the table is damaged: write it anew"):
        NarrationTable(table.folder).text(0, 0)


def test_a_damaged_table_is_named(table: NarrationTable) -> None:
    (table.folder / "start.bin").write_bytes(b"1234")
    with pytest.raises(ValueError, match="start.bin has 4 bytes and table.json says 24: the table is damaged"):
        NarrationTable(table.folder)
    head = json.loads((table.folder / "table.json").read_text()) | {"version": 9}
    (table.folder / "table.json").write_text(json.dumps(head))
    with pytest.raises(ValueError, match="table.json: version: "):
        NarrationTable(table.folder)


def test_another_process_gets_the_folder_alone(table: NarrationTable) -> None:
    content = pickle.dumps(table)
    assert len(content) < 300 and pickle.loads(content).clip(1) == table.clip(1)


def make_table(folder: Path, times: dict[str, list[float]]) -> NarrationTable:
    with write_table(folder, "pseudo") as writer:
        for video, starts in times.items():
            for start in starts:
                writer.append(NarratedClip(video, start, start + 1.0, [f"C at {start}"]))
    return NarrationTable(folder)


def test_negatives_are_of_the_same_minute_or_the_nearest(tmp_path: Path) -> None:
    table = make_table(tmp_path / "t", {"a": [1.0, 30.0, 58.0, 59.8, 200.0, 500.0], "b": [2.0], "c": [3.0, 4.0]})
    rng = np.random.default_rng(0)
    drawn = [{table.draw_neighbours(row, 1, rng)[0] for _ in range(200)} for row in range(9)]
    assert drawn[0] == {1, 2} and drawn[1] == {0, 2} and drawn[2] == {0, 1}
    assert drawn[3] == {2} and drawn[4] == {3} and drawn[5] == {4}  # alone in their minute
    assert drawn[6] == {0, 1, 2, 3, 4, 5, 7, 8} and drawn[7] == {8} and drawn[8] == {7}


def make_clips(world: Path, folder: Path, rows: list[Any], place: int = 0, **options: Any) -> TableClips:
    convert_narrations(write(folder.with_suffix(".pkl"), rows), folder)
    return TableClips(NarrationTable(folder), ClipReader(world / "videos", 2, 16, 4.0), 0, place, **options)


def test_each_text_of_a_row_is_drawn_as_often(world: Path, tmp_path: Path) -> None:
    texts = [f"C does {k}" for k in range(4)]
    clips = make_clips(world, tmp_path / "t", [("short", 0.0, 1.0, texts), ("short", 2.0, 3.0, "C rests")])
    rng = np.random.default_rng(0)
    counts = Counter(clips.draw_text(0, rng) for _ in range(4000))
    assert set(counts) == set(texts) and all(abs(count - 1000) < 110 for count in counts.values())


def test_samples_are_a_function_of_their_key(world: Path, tmp_path: Path) -> None:
    texts = [f"C does {k}" for k in range(9)]
    rows = [("short", 0.0, 1.0, texts), ("short", 2.0, 3.0, texts)]
    first, again, other = (make_clips(world, tmp_path / f"t{i}", rows, place) for i, place in enumerate((0, 0, 1)))
    pairs = [first[epoch, 0] for epoch in range(6)]
    assert len({tuple(pair.text) for pair in pairs}) > 1
    assert [pair.text for pair in pairs] == [again[epoch, 0].text for epoch in range(6)]
    assert torch.equal(pairs[0].video, again[0, 0].video) and pairs[0].video.shape == (2, 2, 3, 16, 16)
    assert [pair.text for pair in pairs] != [other[epoch, 0].text for epoch in range(6)]
    assert [tags.tolist() for tags in (*pairs[0].verbs, *pairs[0].nouns)] == [[]] * 4


def test_unreadable_clips_are_replaced(world: Path, tmp_path: Path) -> None:
    rows = [("gone", 0.0, 1.0, "C is gone"), ("short", 0.0, 1.0, "C cuts"), ("short", 2.0, 3.0, "C peels")]
    clips = make_clips(world, tmp_path / "t", rows)
    row = clips.table.videos.index("gone")
    pair = clips[0, int(np.searchsorted(clips.table.video, row))]
    assert pair.failures and pair.failures[0].video == "gone" and set(pair.text) <= {"C cuts", "C peels"}


def test_a_table_of_one_row_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="t has one row: a row needs 1 other.s. as its negatives"):
        make_clips(world, tmp_path / "t", [("short", 0.0, 1.0, "C cuts")])


def test_human_and_pseudo_rows_are_each_shown_once_an_epoch(world: Path, tmp_path: Path) -> None:
    human = make_clips(world, tmp_path / "h", [("short", 2.0 * i, 2.0 * i + 1, f"C human {i}") for i in range(3)])
    pseudo = make_clips(world, tmp_path / "p", [("short", 2.0 * i, 2.0 * i + 1, ["C pseudo"] * 2) for i in range(3)], 1)
    rows = Concatenated([human, pseudo])
    first = [rows[0, i].text[0] for i in range(len(rows))]
    assert first == ["C human 0", "C human 1", "C human 2", "C pseudo", "C pseudo", "C pseudo"]


def test_training_on_rows_of_a_csv_and_of_tables(world: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    for name, source in (("human", "human"), ("pseudo", "pseudo"), ("more", "pseudo")):
        rows = [("short", float(i), i + 1.0, [f"C {name} {i}"]) for i in range(4)]
        convert_narrations(write(tmp_path / f"{name}.pkl", rows), world / name, written_by=source)
    data = EgoClipDataModule(str(world), mcq_val="egomcq.json", tables=["human", "pseudo", "more"],
                             table_prompt="#C {}", **options)
    batches = list(data.train_dataloader())
    rows = data.counts["train_rows"]
    assert data.counts["human_table_rows"] == 4 and data.counts["pseudo_table_rows"] == 8
    untagged = sum(int((batch["verbs"].sum(1) == 0).sum()) for batch in batches)
    assert untagged > 0 and sum(len(batch["verbs"]) for batch in batches) <= 2 * rows
    assert data.protocol["tables"] == [str(world / name) for name in ("human", "pseudo", "more")]
    alone = EgoClipDataModule(str(world), csv=None, tables=["human"], **options)
    assert len(alone.train_dataloader().dataset) == 4 and "malformed_rows" not in alone.counts


def test_options_that_leave_nothing_to_train_on(world: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="csv is null and there are no data.init_args.tables: give one of them"):
        EgoClipDataModule(str(world), csv=None, **options)
    with pytest.raises(ValueError, match="table_prompt must have {} where the text goes, not '#C'"):
        EgoClipDataModule(str(world), table_prompt="#C", **options)
    with pytest.raises(ValueError, match="gone is not a table of narrations"):
        EgoClipDataModule(str(world), tables=["gone"], **options).train_dataloader()


def test_rows_of_a_csv_alone_are_as_before(world: Path, options: dict[str, Any]) -> None:
    data = EgoClipDataModule(str(world), mcq_val="egomcq.json", **options)
    assert type(data.train_dataloader().dataset).__name__ == "EgoClip" and data.protocol["tables"] == []

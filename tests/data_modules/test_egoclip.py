"""EgoClip: the official format and its malformed rows, scene-aware negatives, and what a key gives."""

import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from egovlpv2.data_modules.clips import ClipReader
from egovlpv2.data_modules.egoclip import EgoClip, EgoClipDataModule, Neighbours, SameObject
from egovlpv2.data_modules.packed import IdListParser, Strings
from egovlpv2.data_modules.tables import read_clip_table

MakeRow = Callable[..., dict[str, Any]]
WriteCsv = Callable[[Path, list[dict[str, Any]]], Path]


def dataset(folder: Path, seed: int = 0) -> EgoClip:
    return EgoClip(folder / "egoclip.csv", ClipReader(folder / "videos", 2, 16, 4.0), seed)


def test_table(world: Path) -> None:
    table = read_clip_table(world / "egoclip.csv")
    assert len(table) == 20 and table.malformed == 0
    assert [table.videos[code] for code in table.video[[0, 10, 15]]] == ["long", "short", "other"]
    assert (float(table.start[1]), float(table.end[1]), float(table.time[1])) == (0.75, 1.75, 1.25)
    assert table.text[0] == "#C C does thing0" and table.text[19] == "#C C does thing19"
    assert table.verbs[7].tolist() == [7] and table.nouns[7].tolist() == [7, 8]


def test_odd_but_good_rows(tmp_path: Path, make_row: MakeRow, write_csv: WriteCsv) -> None:
    rows = [
        make_row(0, "v", -0.4, tag_verb="[]", tag_noun="[ 581,0 ]"),
        make_row(1, "v", 1.0, clip_text='#C C says "hello', video_dur="?"),
        make_row(2, "v", 2.0, clip_text='"#C C says ""hello"""'),
        make_row(3, "v", 3.0, clip_text="#O un café à côté"),
    ]
    path = write_csv(tmp_path / "egoclip.csv", rows)
    path.write_text(path.read_text().replace("\n", "\r\n") + "\r\n")
    table = read_clip_table(path)
    assert len(table) == 4 and table.malformed == 0
    assert float(table.start[0]) == 0.0
    assert table.verbs[0].tolist() == [] and table.nouns[0].tolist() == [581, 0]
    assert [table.text[i] for i in range(1, 4)] == ['#C C says "hello', '#C C says "hello"', "#O un café à côté"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"clip_start": "abc"}, "column clip_start: 'abc' is not a number"),
    ({"clip_end": ""}, "column clip_end: '' is not a number"),
    ({"narration_time": "inf"}, "column narration_time: .*inf.* is not a number"),
    ({"clip_end": 0.5}, r"column clip_end: '0.5' is not a number of seconds at or after clip_start"),
    ({"tag_verb": "[118]"}, r"column tag_verb: '\[118\]' is not a list of ids below 118"),
    ({"tag_noun": "[1, 582]"}, r"column tag_noun: '\[1, 582\]' is not a list of ids below 582"),
    ({"tag_noun": "[1"}, r"column tag_noun: '\[1' is not a list"),
    ({"tag_noun": "[-1]"}, r"column tag_noun: '\[-1\]' is not a list"),
    ({"tag_verb": "__import__('os')"}, "column tag_verb: .* is not a list"),
    ({"tag_noun": f"[{'9' * 5000}]"}, r"column tag_noun: '\[999.* is not a list"),
    ({"tag_noun": "7"}, "column tag_noun: '7' is not a list"),
    ({"video_uid": ""}, "column video_uid: '' names no video"), ({"video_uid": " "}, "column video_uid: ' ' names no"),
    ({"narration_time": -2}, "column narration_time: '-2.*' is not a number of seconds"),
    ({"narration_time": 1e300}, "column narration_time: '1e.300' is not a number of seconds"),
    ({"clip_start": -61}, "column clip_start: '-61.*' is not a number of seconds"),
    ({"clip_end": 1e7}, "column clip_end: '10000000.0' is not a number of seconds"),
    ({"clip_end": "9" * 400}, "column clip_end: .* is not a number of seconds"),
    ({"clip_text": ""}, "column clip_text: '' is blank"), ({"clip_text": " "}, "column clip_text: ' ' is blank"),
    ({"clip_text": "a\ttab"}, "column tag_verb: 'tab' is not a list"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_malformed_rows(
    tmp_path: Path, make_row: MakeRow, write_csv: WriteCsv, changes: dict[str, Any], message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = [make_row(i, "v", float(i)) for i in range(200)]
    few, many = good.copy(), good[:3]
    few[150], many[1] = make_row(150, "v", 1.0, **changes), make_row(1, "v", 1.0, **changes)
    with pytest.raises(ValueError, match=f"few.csv: 1 of 3 rows are malformed, more than 1%.*line 3, {message}"):
        read_clip_table(write_csv(tmp_path / "few.csv", many))
    with caplog.at_level(logging.WARNING):
        table = read_clip_table(write_csv(tmp_path / "many.csv", few))
    assert len(table) == 199 and table.malformed == 1
    assert table.text[150] == "#C C does thing151"
    assert "many.csv: 1 of 200 rows are malformed and left out. The first: line 152, column" in caplog.text


def test_ids_that_look_like_numbers_are_texts(tmp_path: Path, make_row: MakeRow, write_csv: WriteCsv) -> None:
    names = ["001", "1", "1e3", "1.0", "True", "-5"]
    for some in (names, ["001"], ["True"], ["1.0", "2.5"]):
        table = read_clip_table(write_csv(tmp_path / "a.csv", [make_row(i, name, 1.0) for i, name in enumerate(some)]))
        assert [table.videos[number] for number in table.video] == some


def test_tags_that_are_bare_ids_are_named(tmp_path: Path, make_row: MakeRow, write_csv: WriteCsv) -> None:
    path = write_csv(tmp_path / "a.csv", [make_row(i, "v", float(i), tag_verb=i) for i in range(3)])
    with pytest.raises(ValueError, match="a.csv: 3 of 3 rows .* line 2, column tag_verb: '0' is not a list of ids"):
        read_clip_table(path)


def test_encodings(tmp_path: Path, make_row: MakeRow, write_csv: WriteCsv) -> None:
    rows = [make_row(i, "v", float(i), clip_text="#C C drinks café" if i == 5 else "#C C reads") for i in range(200)]
    path = write_csv(tmp_path / "a.csv", rows)
    text = path.read_text()
    path.write_bytes(text.encode("utf-8-sig"))
    assert read_clip_table(path).text[5] == "#C C drinks café"
    path.write_bytes(text.encode("cp1252"))  # one row of 200 is not UTF-8
    assert read_clip_table(path).malformed == 1 and len(read_clip_table(path)) == 199
    path.write_bytes(write_csv(path, rows[4:8]).read_text().encode("cp1252"))
    with pytest.raises(ValueError, match="a.csv: 1 of 4 rows .* line 3, column clip_text: .* is blank or not UTF-8"):
        read_clip_table(path)
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(ValueError, match="a.csv, line 1: the file is UTF-16"):
        read_clip_table(path)


def test_a_column_named_twice(world: Path) -> None:
    path, lines = world / "egoclip.csv", (world / "egoclip.csv").read_text().splitlines()
    path.write_text("\n".join([lines[0] + "\ttag_noun", *(line + "\t[1]" for line in lines[1:])]))
    with pytest.raises(ValueError, match="egoclip.csv names the column tag_noun twice"):
        read_clip_table(path)
    path.write_text("\n".join([f"x\tx\t{line}" for line in lines]))  # nobody reads these
    assert len(read_clip_table(path)) == 20
    with pytest.raises(ValueError, match=f"{world} can't be read"):
        read_clip_table(world)


def test_a_blank_line_is_not_a_row_and_half_a_line_is_malformed(world: Path) -> None:
    path, text = world / "egoclip.csv", (world / "egoclip.csv").read_text()
    path.write_text(text.replace("\n", "\n\n", 3))
    assert len(read_clip_table(path)) == 20 and not read_clip_table(path).malformed
    path.write_text(text + "20\n")
    with pytest.raises(ValueError, match="1 of 21 rows are malformed.* line 22"):
        read_clip_table(path)


def test_a_line_cut_short(world: Path) -> None:
    path = world / "egoclip.csv"
    path.write_text(path.read_text() + "20\tlong\t8.0\n")
    with pytest.raises(ValueError, match="1 of 21 rows .* line 22, column narration_time: '' is not a number"):
        read_clip_table(path)


def test_not_an_egoclip_csv(world: Path) -> None:
    path = world / "other.csv"
    path.write_text("clip_idx\tvideo_uid\tclip_text\n")
    with pytest.raises(ValueError, match=r"other.csv has no column narration_time, clip_start.*\['clip_idx', 'vid"):
        read_clip_table(path)
    path.write_text((world / "egoclip.csv").read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="other.csv has no rows"):
        read_clip_table(path)
    with pytest.raises(ValueError, match="gone.csv is missing: put "):
        read_clip_table(world / "gone.csv")


def test_packed_texts() -> None:
    texts = ["one", "", "two\nlines", "drei: größer"]
    packed = Strings.join([Strings.pack(texts), Strings.pack([]), Strings.pack(["end"])])
    assert [packed[i] for i in range(5)] == ["one", "", "two lines", "drei: größer", "end"]


@pytest.mark.parametrize("lists", [["[3, 1]", "[]", "[1]", "[3, 1]", "[ 2 ]"], ["[]", "[]"], ["[]", "[0]"], ["[5]"]])
def test_entries_of_packed_lists(lists: list[str]) -> None:
    parser = IdListParser(6)
    packed = parser.pack(torch.tensor([parser.code(text) for text in lists], dtype=torch.int32))
    rows, ids = packed.entries()
    assert list(zip(rows.tolist(), ids.tolist(), strict=True)) == [
        (row, number) for row, text in enumerate(lists) for number in json.loads(text)]


def test_negatives_are_of_the_same_minute(tmp_path: Path, make_row: MakeRow, write_csv: WriteCsv) -> None:
    draw = np.random.default_rng(0)
    rows = [make_row(i, f"v{draw.integers(4)}", float(draw.uniform(0, 599))) for i in range(400)]
    table = read_clip_table(write_csv(tmp_path / "egoclip.csv", rows))
    neighbours = Neighbours(table)
    for row in range(400):
        (other,) = neighbours.draw(row, 1, draw)
        assert other != row and table.video[other] == table.video[row]
        assert table.time[other] // 60 == table.time[row] // 60
    minute = {i for i in range(400) if table.video[i] == table.video[0] and table.time[i] // 60 == table.time[0] // 60}
    counts = Counter(neighbours.draw(0, 1, draw)[0] for _ in range(200 * len(minute)))
    assert set(counts) == minute - {0} and min(counts.values()) > 100


def test_any_other_row_may_be_the_negative(tmp_path: Path, make_row: MakeRow, write_csv: WriteCsv) -> None:
    path = write_csv(tmp_path / "egoclip.csv", [make_row(i, f"v{i % 2}", 100.0 * i) for i in range(5)])
    clips, draw = EgoClip(path, ClipReader(tmp_path, 2, 16, 4.0), 0, "any"), np.random.default_rng(0)
    counts = Counter(clips.draw_negatives(2, 1, draw)[0] for _ in range(400))
    assert set(counts) == {0, 1, 3, 4} and min(counts.values()) > 70


def test_negatives_of_lone_rows(tmp_path: Path, make_row: MakeRow, write_csv: WriteCsv) -> None:
    rows = [make_row(0, "v", 5.0), make_row(1, "w", 5.0), make_row(2, "v", 170.0), make_row(3, "v", 300.0)]
    neighbours = Neighbours(read_clip_table(write_csv(tmp_path / "egoclip.csv", rows)))
    rng = np.random.default_rng(0)
    assert [neighbours.draw(row, 1, rng) for row in (0, 2, 3)] == [[2], [3], [2]]  # the nearest of the video
    assert {neighbours.draw(1, 1, rng)[0] for _ in range(50)} == {0, 2, 3}  # alone in its video: any


def test_several_negatives_are_different_rows_the_nearest_first_where_the_minute_has_too_few(
        tmp_path: Path, make_row: MakeRow, write_csv: WriteCsv) -> None:
    times = [5.0, 20.0, 30.0, 59.0, 61.0, 130.0, 500.0]
    rows = [make_row(i, "v", time) for i, time in enumerate(times)] + [make_row(7, "w", 5.0), make_row(8, "w", 9.0)]
    neighbours = Neighbours(read_clip_table(write_csv(tmp_path / "egoclip.csv", rows)))
    rng = np.random.default_rng(0)
    assert {tuple(neighbours.draw(1, 2, rng)) for _ in range(100)} == {(0, 2), (0, 3), (2, 0), (2, 3), (3, 0), (3, 2)}
    assert all(sorted(drawn[:3]) == [0, 2, 3] and drawn[3:] == [4, 5]
               for drawn in (neighbours.draw(1, 5, rng) for _ in range(20)))
    assert all(drawn[0] == 8 and len({7, *drawn}) == 5 for drawn in (neighbours.draw(7, 4, rng) for _ in range(20)))
    assert sorted(neighbours.draw(0, 8, rng)) == list(range(1, 9))


def test_negatives_that_show_the_same_object_in_another_action(tmp_path: Path, make_row: MakeRow, write_csv: WriteCsv
                                                              ) -> None:
    tags = [([0], [5]), ([1], [5]), ([2], [5, 7]), ([0, 3], [5]), ([4], [7]), ([6], [9]), ([6], [9]), ([8], [])]
    rows = [make_row(i, "v", 10.0 * i) | {"tag_verb": str(verbs), "tag_noun": str(nouns)}
            for i, (verbs, nouns) in enumerate(tags)]
    table = read_clip_table(write_csv(tmp_path / "egoclip.csv", rows))
    draw, rng = SameObject(table).draw, np.random.default_rng(0)
    assert {draw(0, 1, rng)[0] for _ in range(60)} == {1, 2}  # row 3 has its verb, too
    assert {draw(2, 1, rng)[0] for _ in range(60)} == {0, 1, 3, 4}  # of either of its nouns
    for row, own in ((0, {1, 2}), (4, {2}), (5, set()), (7, set())):  # too few: scene-aware ones fill up
        for count in (3, 5):
            drawn = draw(row, count, rng)
            assert len(drawn) == len({row, *drawn}) - 1 == count and own <= set(drawn)
    clips = EgoClip(tmp_path / "egoclip.csv", ClipReader(tmp_path, 2, 16, 4.0), 0, "object", table=table)
    assert {clips.draw_negatives(0, 1, rng)[0] for _ in range(60)} == {1, 2}
    with pytest.raises(ValueError, match="negatives=object needs the nouns and verbs"):
        EgoClipDataModule(str(tmp_path), negatives="object", tables=["rephrased"])


def test_a_batch_holds_all_rows_and_then_their_negatives_in_turn(world: Path, options: dict[str, Any]) -> None:
    data = EgoClipDataModule(str(world), num_negatives=3, **options)
    assert data.clips_per_row == 4 and data.protocol["num_negatives"] == 3
    for batch in data.train_dataloader():
        rows = batch["verbs"].argmax(1).view(4, 4)  # a row's verb is its number; (negatives, rows)
        assert (torch.tensor([0] * 10 + [1] * 5 + [2] * 5)[rows].diff(dim=0) == 0).all()
        assert all(len(set(column)) == 4 for column in rows.T.tolist())
    with pytest.raises(ValueError, match="num_negatives"):
        EgoClipDataModule(str(world), num_negatives=0, **options)
    with pytest.raises(ValueError, match=r"egoclip.csv has 20 rows: a row needs 20 other\(s\) as its negatives"):
        EgoClipDataModule(str(world), num_negatives=20, **options).train_dataloader()


def test_one_row_has_no_negative(world: Path, make_row: MakeRow, write_csv: WriteCsv) -> None:
    write_csv(world / "egoclip.csv", [make_row(0, "long", 0.0)])
    with pytest.raises(ValueError, match="has one row"):
        dataset(world)


def test_a_key_sets_the_pair(world: Path) -> None:
    first, again, late, other = dataset(world), dataset(world), dataset(world), dataset(world, seed=1)
    assert torch.equal(first[1, 4].video, again[1, 4].video) and first[1, 4].text == again[1, 4].text
    assert first[1, 4].text[0] == "#C C does thing4"
    for _ in range(3):
        late[0, 4]  # what was read before changes nothing
    assert torch.equal(first[1, 4].video, late[1, 4].video)
    assert not torch.equal(first[1, 4].video[0], first[2, 4].video[0])
    assert not torch.equal(first[1, 4].video[0], other[1, 4].video[0])


def test_batches_hold_rows_and_then_their_negatives(world: Path, options: dict[str, Any]) -> None:
    data = EgoClipDataModule(str(world), **options)
    batches = list(data.train_dataloader())
    assert len(batches) == 5
    for batch in batches:
        assert batch["video"].shape == (8, 2, 3, 16, 16) and batch["video"].dtype == torch.uint8
        assert batch["text"]["input_ids"].shape == (8, 6)
        assert batch["verbs"].shape == (8, 118) and batch["nouns"].shape == (8, 582)
        assert batch["verbs"].dtype == torch.float32
        rows = batch["verbs"].argmax(1)  # a row's verb is its number
        assert batch["verbs"].sum() == 8 and batch["nouns"].sum() == 16
        assert (batch["text"]["input_ids"][:, 3] - 5).tolist() == rows.tolist()
        video = torch.tensor([0] * 10 + [1] * 5 + [2] * 5)[rows]
        assert torch.equal(video[:4], video[4:]) and (rows[:4] != rows[4:]).all()
    assert data.counts == {"malformed_rows": 0, "train_rows": 20}


def test_a_row_that_cannot_be_read_is_replaced(world: Path, damage: Callable[[str], None]) -> None:
    damage("short")
    rows = dataset(world)
    pair = rows[0, 12]
    assert all(failure.video == "short" and "short/0.mp4" in failure.reason for failure in pair.failures)
    assert pair.failures and pair.text[0] != "#C C does thing12"
    assert [rows[0, 12].text, len(rows[0, 12].failures)] == [pair.text, len(pair.failures)]
    assert rows[0, 3].failures == []
    damage("long"), damage("other")
    with pytest.raises(ValueError, match="10 clips one after the other could not be read; the last: .*mp4"):
        rows[0, 3]

"""Hard negatives by rule and from files: what they change, what is left out, and files that don't fit."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from egovlpv2.data_modules.hard_negatives import (
    NEGATIVES,
    HardNegatives,
    NegativesByRule,
    NegativesOfFile,
    check_same_rows,
    count_together,
    pad_negatives,
)
from egovlpv2.data_modules.tables import ClipTable, read_clip_table
from egovlpv2.data_modules.word_forms import ClassWords, inflect_noun, inflect_verb

MakeRow = Callable[..., dict[str, Any]]
WriteCsv = Callable[[Path, list[dict[str, Any]]], Path]

VERBS = [["pick up", "take"], ["cut", "slice"], ["wash"], ["open"], []]
NOUNS = [["apple"], ["knife"], ["jar"], ["plate"], []]
ROWS = [  # caption, verbs, nouns; a minute each, but for the last two
    ("#C C picks up the apple", [0], [0]), ("#C C slices the apple with a knife", [1], [0, 1]),
    ("#C C washes the apple", [2], [0]), ("#C C opens the jar", [3], [2]), ("#C C washes the plate", [2], [3]),
    ("#C C stands", [], []), ("#C C fetches the apple", [0], [0]), ("#C C takes the jar", [0], [2]),
    ("#C C does it", [4], [4]), ("#C C takes the plate", [0], [3]), ("#C C washes the plate", [2], [3]),
]


@pytest.fixture
def table(tmp_path: Path, make_row: MakeRow, write_csv: WriteCsv) -> ClipTable:
    minutes = [*range(len(ROWS) - 1), len(ROWS) - 2]
    rows = [make_row(i, "v", 60.0 * minute + i, clip_text=text, tag_verb=str(verbs), tag_noun=str(nouns))
            for i, (minute, (text, verbs, nouns)) in enumerate(zip(minutes, ROWS, strict=True))]
    return read_clip_table(write_csv(tmp_path / "egoclip.csv", rows))


def by_rule(table: ClipTable, count: int = 10, seed: int = 0) -> NegativesByRule:
    return NegativesByRule(table, [ClassWords(forms, inflect_verb) for forms in VERBS],
                           [ClassWords(forms, inflect_noun) for forms in NOUNS], count, seed)


def test_another_verb_of_the_same_object_in_the_same_inflection(table: ClipTable) -> None:
    verbs = [by_rule(table, seed=seed)(0).verbs for seed in range(20)]
    # An apple is cut and washed in other rows, never opened.
    assert all(len(texts) == 2 and "#C C washes the apple" in texts for texts in verbs)
    assert {text for texts in verbs for text in texts} == {
        "#C C washes the apple", "#C C cuts the apple", "#C C slices the apple"}


def test_another_object_of_the_same_verb(table: ClipTable) -> None:
    assert sorted(by_rule(table)(0).nouns) == ["#C C picks up the jar", "#C C picks up the plate"]
    assert by_rule(table)(3).nouns == []  # nothing else is opened
    assert by_rule(table)(1).nouns == []  # its own second noun is not another one


def test_rows_without_a_known_word_have_none(table: ClipTable) -> None:
    rule = by_rule(table)
    assert rule(5) == HardNegatives([], [])  # no tags
    assert rule(6).verbs == [] and rule(6).nouns  # the taxonomy doesn't have its verb
    assert rule(8) == HardNegatives([], [])  # classes without word forms


def test_captions_of_the_same_minute_are_left_out(table: ClipTable) -> None:
    found = {text for seed in range(20) for text in by_rule(table, seed=seed)(9).verbs}
    assert found == set()  # plates are washed besides, which the caption beside it says
    assert "#C C takes the jar" not in {t for seed in range(20) for t in by_rule(table, seed=seed)(10).nouns}
    assert {t for s in range(20) for t in by_rule(table, seed=s)(4).verbs} == {"#C C takes the plate",
                                                                               "#C C picks up the plate"}


def test_they_depend_on_seed_and_row_alone(table: ClipTable) -> None:
    rows = range(len(table))
    first = [by_rule(table, seed=3)(row) for row in rows]
    again = by_rule(table, seed=3)
    assert [again(row) for row in reversed(rows)][::-1] == first
    assert any([by_rule(table, seed=seed)(row) for row in rows] != first for seed in range(5))


def test_frequent_verbs_come_first(tmp_path: Path, make_row: MakeRow, write_csv: WriteCsv) -> None:
    """Of nine rows with an apple, eight others: six washed, two cut."""
    verbs = [0, *[2] * 6, *[1] * 2]
    rows = [make_row(i, "v", 60.0 * i, clip_text="#C C takes the apple", tag_verb=f"[{verb}]", tag_noun="[0]")
            for i, verb in enumerate(verbs)]
    table = read_clip_table(write_csv(tmp_path / "a.csv", rows))
    counts = Counter(by_rule(table, 1, seed)(0).verbs[0] for seed in range(400))
    assert sum(counts.values()) == 400 and 260 < counts["#C C washes the apple"] < 340  # 300 expected


def test_rows_are_counted_by_verb_and_noun(table: ClipTable) -> None:
    together = count_together(table)
    assert together.shape == (118, 582) and together[2, 3] == 2 and together[1, 0] == together[1, 1] == 1
    assert together.sum() == sum(len(verbs) * len(nouns) for _, verbs, nouns in ROWS)


def test_rows_without_tags_of_the_other_kind_draw_from_all(tmp_path: Path, make_row: MakeRow, write_csv: WriteCsv
                                                          ) -> None:
    captions = [("takes it", "[]"), ("cuts the apple", "[0]"), ("washes the jar", "[2]")]
    rows = [make_row(i, "v", 60.0 * i, clip_text=f"#C C {text}", tag_verb=f"[{i}]", tag_noun=noun)
            for i, (text, noun) in enumerate(captions)]
    table = read_clip_table(write_csv(tmp_path / "a.csv", rows))
    assert {text.split()[2] for text in by_rule(table)(0).verbs} <= {"cuts", "slices", "washes"}
    assert len(by_rule(table)(0).verbs) == 2


@pytest.fixture
def write_negatives(tmp_path: Path, rows: list[dict[str, Any]], write_csv: WriteCsv) -> Callable[..., Path]:
    """Write the world's rows with other values in some of them."""

    def write(name: str = "hard.csv", changes: dict[int, dict[str, str]] | None = None, count: int = 20,
              without: tuple[str, ...] = ()) -> Path:
        table = [row | {"verb_neg": "a,b", "noun_neg": "c"} | (changes or {}).get(i, {}) for i, row in enumerate(rows)]
        table = [{key: value for key, value in row.items() if key not in without} for row in table]
        return write_csv(tmp_path / name, (table + table)[:count])

    return write


def test_cells_are_split_at_commas(write_negatives: Callable[..., Path]) -> None:
    cells = {0: {"verb_neg": "#C C a, #C C b,#C C c", "noun_neg": ""}, 1: {"verb_neg": "#C C does thing1,x,,x"}}
    table = read_clip_table(write_negatives(changes=cells), NEGATIVES)
    negatives = NegativesOfFile(table)
    assert negatives(0) == HardNegatives(["#C C a", "#C C b", "#C C c"], [])
    assert negatives(1).verbs == ["x"]  # neither its own caption, nor blanks, nor one twice


def test_the_authors_columns_suffice(write_negatives: Callable[..., Path]) -> None:
    left = ("clip_idx", "video_dur", "narration_source", "narration_ind", "narration_time")
    path = write_negatives(without=left)
    table = read_clip_table(path, NEGATIVES)
    assert torch.equal(table.time, (table.start + table.end) / 2) and NegativesOfFile(table)(3).verbs == ["a", "b"]
    with pytest.raises(ValueError, match="has no column narration_time"):
        read_clip_table(path)
    with pytest.raises(ValueError, match="has no column noun_neg"):
        read_clip_table(write_negatives(without=("noun_neg",)), NEGATIVES)


def test_undecodable_negatives_are_malformed(write_negatives: Callable[..., Path]) -> None:
    path = write_negatives()
    path.write_bytes(path.read_bytes().replace(b"a,b", b"a,\xff", 1))
    with pytest.raises(ValueError, match="1 of 20 rows are malformed.*line 2, column verb_neg: .* is not UTF-8"):
        read_clip_table(path, NEGATIVES)


@pytest.mark.parametrize(("options", "message"), [
    ({"count": 18}, r"hard.csv has 18 rows and \S+egoclip.csv 20, the first of those beyond in \S+clip.csv, line 20"),
    ({"count": 23}, r"hard.csv has 23 rows and \S+egoclip.csv 20, the first of those beyond in \S+hard.csv, line 22"),
    ({"changes": {4: {"video_uid": "other"}}}, r"hard.csv, line 6: other from 3 to 4 s, and \S+csv, line 6: long"),
    ({"changes": {2: {"clip_start": "1.25"}}}, "hard.csv, line 4: long from 1.25 to 2.5 s, and .* from 1.5 to 2.5 s"),
    ({"changes": {19: {"clip_end": "9"}}}, "hard.csv, line 21: other from 3 to 9 s"),
    ({"count": 19, "changes": {4: {"video_uid": "new"}}}, "hard.csv, line 6: new .*; .*has 19 rows"),
    ({"changes": {4: {"clip_text": "C sings"}}}, r"1 of 20 rows of \S+hard.csv have another clip_text than "
                                                 r"\S+clip.csv, the first in line 6: 'C sings', not "),
])
def test_a_file_of_other_rows_is_refused_by_line(
    world: Path, write_negatives: Callable[..., Path], options: dict[str, Any], message: str
) -> None:
    path, clips = write_negatives(**options), read_clip_table(world / "egoclip.csv")
    with pytest.raises(ValueError, match=f"{message}.*data.init_args.train=.*hard.csv"):
        check_same_rows(clips, world / "egoclip.csv", read_clip_table(path, NEGATIVES), path)


def test_missing_negatives_are_masked_and_more_are_cut() -> None:
    texts, mask = pad_negatives([HardNegatives(["a", "b", "c"], []), HardNegatives(["d"], ["e", "f"])], 2)
    assert texts == ["a", "b", "", "", "d", "", "e", "f"]
    assert mask.tolist() == [[[True, True], [False, False]], [[True, False], [True, True]]]
    assert pad_negatives([], 3)[1].shape == (0, 2, 3)

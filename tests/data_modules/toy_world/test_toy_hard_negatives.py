"""EgoHOIBench's clips of the toy world, the words of its classes, and worlds of earlier releases."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from toy_helpers import SMALL

from egovlpv2.data_modules.hard_negatives import NegativesByRule
from egovlpv2.data_modules.tables import NUM_NOUNS, NUM_VERBS, read_clip_table
from egovlpv2.data_modules.toy_world import write
from egovlpv2.data_modules.toy_world.hard_negative_formats import HOI_FILES
from egovlpv2.data_modules.toy_world.naq_formats import NAQ_FILES
from egovlpv2.data_modules.toy_world.script import Video
from egovlpv2.data_modules.toy_world.synonyms import TASKQA_FILES
from egovlpv2.data_modules.toy_world.vocabulary import AFFORDANCES, NOUN_IDS, NOUNS, PHRASES, VERBS
from egovlpv2.data_modules.word_forms import inflect_noun, inflect_verb, read_taxonomy

Row = dict[str, Any]


def rows_of(world: Path, split: str) -> list[Row]:
    with (world / f"egohoi_{split}.csv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def meaning(text: str) -> tuple[str, str]:
    """Verb and noun of a sentence, its colour aside."""
    found = {(verb, noun) for verb, phrases in PHRASES.items() for phrase in phrases for noun in NOUNS
             for words in [phrase.format(f"| {noun}").split("| ")]
             if text.startswith(f"#C C {words[0]}the ") and text.endswith(words[1])
             and len(text.split()) - len(f"#C C {phrase.format(f'the {noun}')}".split()) in (0, 1)}
    assert len(found) == 1, (text, found)
    return found.pop()


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_clip_has_ten_sentences_of_other_verbs_and_of_other_nouns(world: Path, videos: list[Video], split: str
                                                                    ) -> None:
    rows = rows_of(world, split)
    events = {video.uid: video.events for video in videos if video.split == split}
    assert len(rows) == sum(event.wearer == "C" for each in events.values() for event in each)
    for row in rows:
        event = events[row["video_uid"]][int(row["narration_ind"])]
        assert row["clip_text"] == event.text and meaning(event.text) == (event.verb, event.noun)
        verbs, nouns = (row[name].split(",") for name in ("verb_neg", "noun_neg"))
        assert len(set(verbs)) == len(set(nouns)) == 10
        for verb, noun in map(meaning, verbs):
            assert noun == event.noun and verb != event.verb and verb in AFFORDANCES[noun]
        for verb, noun in map(meaning, nouns):
            assert verb == event.verb and noun != event.noun and verb in AFFORDANCES[noun]
        others = {meaning(text)[0] for text in verbs}
        assert len(others) == min(10, len(AFFORDANCES[event.noun]) - 1)  # as many verbs as there are


def test_every_class_has_its_words(world: Path, videos: list[Video]) -> None:
    verbs = read_taxonomy(world / HOI_FILES[0], inflect_verb, NUM_VERBS)
    nouns = read_taxonomy(world / HOI_FILES[1], inflect_noun, NUM_NOUNS)
    assert (len(verbs), len(nouns)) == (len(VERBS), len(NOUN_IDS))
    for event in (event for video in videos for event in video.events):
        assert verbs[event.verb_ids[0]].find(event.text) and all(nouns[i].find(event.text) for i in event.noun_ids)
    names = [form[0] for words in verbs for form in words.forms]
    assert len(names) == len(set(names))  # no word of two verbs


def test_training_rows_get_hard_negatives_by_rule(world: Path) -> None:
    table = read_clip_table(world / "egoclip.csv")
    rule = NegativesByRule(table, read_taxonomy(world / HOI_FILES[0], inflect_verb, NUM_VERBS),
                           read_taxonomy(world / HOI_FILES[1], inflect_noun, NUM_NOUNS), 10, 0)
    found = [rule(row) for row in range(len(table))]
    assert sum(bool(each.verbs) for each in found) > 0.9 * len(table)
    assert all(table.text[row] not in each.verbs + each.nouns for row, each in enumerate(found))


def test_a_world_of_an_earlier_release_gets_the_newer_files_alone(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ["world.json", f"taskqa/qa/direct/{TASKQA_FILES[-1]}"]
    for name in kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(world / name, tmp_path / name)
    monkeypatch.setattr(write, "_write_videos", None)  # nothing is rendered again
    write.generate(tmp_path, **SMALL)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {*kept, *HOI_FILES, *NAQ_FILES}
    assert all((tmp_path / name).read_bytes() == (world / name).read_bytes() for name in written)


@pytest.mark.parametrize("split", ["val", "test"])
def test_clips_are_those_of_egomcq(world: Path, split: str) -> None:
    questions = json.loads((world / f"egomcq_{split}.json").read_text())
    asked = {clip["clip_idx"]: (clip["video_uid"], clip["clip_start"], clip["clip_end"], clip["clip_text"])
             for question in questions.values() for clip in question["choices"].values()}
    rows = [row for row in rows_of(world, split) if int(row["clip_idx"]) in asked]
    assert rows and all(asked[int(row["clip_idx"])] == (row["video_uid"], float(row["clip_start"]),
                                                        float(row["clip_end"]), row["clip_text"]) for row in rows)

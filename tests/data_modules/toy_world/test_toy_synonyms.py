"""Questions of a person's wording, and tests with nouns that no training text has."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from toy_helpers import SMALL, files_of

from egovlpv2.data_modules.nlq import read_nlq_queries
from egovlpv2.data_modules.toy_world import write
from egovlpv2.data_modules.toy_world.evaluate_search import draw_events
from egovlpv2.data_modules.toy_world.nlq_questions import OPEN_QUESTIONS, QUESTIONS
from egovlpv2.data_modules.toy_world.question_formats import mixed, question_pools, unmixed
from egovlpv2.data_modules.toy_world.script import Video
from egovlpv2.data_modules.toy_world.synonyms import TASKQA_FILES, rename
from egovlpv2.data_modules.toy_world.vocabulary import NOUNS, SYNONYMS, VERBS
from egovlpv2.data_modules.toy_world.write import World

SPLITS = ("train", "val", "test")
Row = dict[str, Any]


def rows_of(world: Path, name: str) -> dict[str, list[Row]]:
    """The queries of a file by take."""
    content = json.loads((world / "nlq" / f"{name}.json").read_text())
    return {video["video_uid"]: video["clips"][0]["annotations"][0]["language_queries"] for video in content["videos"]}


def windows(rows: list[Row]) -> list[tuple[float, float]]:
    return [(row["clip_start_sec"], row["clip_end_sec"]) for row in rows]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


@pytest.mark.parametrize("split", SPLITS)
def test_questions_are_about_the_windows_of_the_narrations(world: Path, split: str) -> None:
    narrated, asked = rows_of(world, f"nlq_{split}"), rows_of(world, f"questions_{split}")
    assert narrated.keys() == asked.keys()
    known = {text.format(noun).lower() for texts in QUESTIONS.values() for text in texts for noun in NOUNS}
    for take, rows in asked.items():
        naming = [row for row in rows if row["query"] not in OPEN_QUESTIONS.values()]
        assert windows(naming) == windows(narrated[take])
        for row, narration in zip(naming, narrated[take], strict=True):
            assert row["query"].lower() in known and row["query"].endswith("?") and row["template"]
            assert {noun for noun in NOUNS if noun in words(row["query"])} <= words(narration["query"])
    official = [query for clip in read_nlq_queries(world / "nlq" / f"questions_{split}.json") for query in clip]
    assert len(official) == sum(map(len, asked.values())) and all(query.window for query in official)


def test_every_verb_has_questions() -> None:
    assert tuple(QUESTIONS) == tuple(OPEN_QUESTIONS) == VERBS
    assert all(text.count("{}") == 1 and len(set(texts)) > 1 for texts in QUESTIONS.values() for text in texts)


def test_questions_for_the_object_are_of_verbs_that_occur_once(world: Path, videos: list[Video]) -> None:
    found = [row["query"] for split in SPLITS for rows in rows_of(world, f"questions_{split}").values() for row in rows
             if row["query"] in OPEN_QUESTIONS.values()]
    assert found
    for split in SPLITS:
        for rows in rows_of(world, f"questions_{split}").values():
            asked = [row["query"] for row in rows if row["query"] in OPEN_QUESTIONS.values()]
            assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("split", SPLITS[1:])
def test_synonyms_replace_the_nouns_of_the_same_questions(world: Path, split: str) -> None:
    known, renamed = rows_of(world, f"questions_{split}"), rows_of(world, f"synonyms_{split}")
    by_synonym = {synonym: noun for noun, synonym in SYNONYMS.items()}
    for take, rows in renamed.items():
        back = [re.sub(r"\w+", lambda match: by_synonym.get(match[0], match[0]), row["query"]) for row in rows]
        pairs = set(zip(back, windows(rows), strict=True))
        there = set(zip((row["query"] for row in known[take]), windows(known[take]), strict=True))
        assert pairs <= there and len(pairs) == len(rows)
        assert {text for text, _ in there - pairs if words(text) & SYNONYMS.keys()} == set()
    assert not (world / "nlq" / "synonyms_train.json").exists()


def test_no_synonym_occurs_in_a_text_of_training() -> None:
    """In the whole default world: narrations, from which the tokenizer is learned, too, and questions."""
    world = World()
    videos = [video for video in world.script() if video.split == "train"]
    pools = question_pools(videos, world.chunk_seconds)
    texts = [event.text for video in videos for event in video.events]
    texts += [row["question"] for pool in pools["train"] for row in pool]
    texts += [text.format(noun) for questions in QUESTIONS.values() for text in questions for noun in NOUNS]
    texts += OPEN_QUESTIONS.values()
    synonyms = set(SYNONYMS.values())
    assert not synonyms & set().union(*map(words, texts))
    assert not [text for text in texts for synonym in synonyms if synonym in text.lower()]
    assert SYNONYMS.keys() <= set(NOUNS) and len(synonyms) == len(SYNONYMS) and not synonyms & set(NOUNS)


def test_only_the_object_is_renamed() -> None:
    assert rename("#C C wipes the black knife with a knife", "knife") == "#C C wipes the black blade with a knife"
    assert rename("#C C cuts the carrot with a knife", "carrot") is None  # it has no synonym
    assert rename("What did I cut?", "bread") is None
    assert rename("Where did I put the panther?", "pan") is None


def test_questions_of_taskqa_are_renamed_with_their_answers_kept(world: Path) -> None:
    folder = world / "taskqa" / "qa" / "direct"
    known, renamed = (json.loads((folder / name).read_text()) for name in TASKQA_FILES)
    test = json.loads((folder / "formatted_test_qas_encode.json").read_text())
    assert known == [row for row in test if words(row["question"]) & SYNONYMS.keys()] and known
    for row, other in zip(known, renamed, strict=True):
        (noun,) = words(row["question"]) & SYNONYMS.keys()
        assert other["question"] == row["question"].replace(noun, SYNONYMS[noun])
        assert len(other["question_encode"]) == len(row["question_encode"]) and 0 in other["question_encode"]
        same = row.keys() - {"question", "question_encode"}
        assert {key: row[key] for key in same} == {key: other[key] for key in same}


def test_the_search_for_synonyms_is_for_objects_that_have_one(videos: list[Video]) -> None:
    by_name = {video.uid: video for video in videos}
    events = draw_events(by_name, 10, 0, synonyms=True)
    assert len(set(map(id, events))) == 10 and {event.noun for event in events} <= SYNONYMS.keys()
    with pytest.raises(ValueError, match="these videos have 1 to"):
        draw_events(by_name, 10_000, 0, synonyms=True)


def test_a_world_of_an_earlier_release_gets_the_questions_alone(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "taskqa" / "qa" / "direct"
    folder.mkdir(parents=True)
    name = "formatted_test_qas_encode.json"
    (folder / name).write_bytes((world / "taskqa" / "qa" / "direct" / name).read_bytes())
    (tmp_path / "world.json").write_bytes((world / "world.json").read_bytes())
    write.generate(tmp_path, **SMALL)
    written = files_of(tmp_path, ".json")
    assert len(written) == 1 + 1 + 3 + 5 + 2 + 1 and written.items() <= files_of(world, ".json").items()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    write.generate(tmp_path, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == before


def test_both_splits_of_taskqa_train_on_the_same_words() -> None:
    """So that one check of the pools covers both."""
    videos = [video for video in World().script() if video.split == "train"][:20]
    pools = question_pools(videos, 20) | {"val": [], "test": []}
    every = {row["question"] for pool in pools["train"] for row in pool}
    for made in (mixed, unmixed):
        assert {row["question"] for row in made(pools)["train"]} <= every

"""The files of the toy world's questions: official keys and codes, and the videos of their intervals."""

import json
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from toy_helpers import read_videos, render

from egovlpv2.data_modules.toy_world import write
from egovlpv2.data_modules.toy_world.question_formats import (
    SHARES,
    Row,
    mixed,
    question_pools,
    unmixed,
    write_split,
    write_taskqa,
)
from egovlpv2.data_modules.toy_world.question_templates import intervals
from egovlpv2.data_modules.toy_world.script import Video, write_script
from egovlpv2.data_modules.toy_world.vocabulary import NOUNS, VERBS

CHUNK = 8
LONGER: dict[str, Any] = {
    "train_videos": 6, "val_videos": 5, "test_videos": 5, "val_questions": 5, "test_questions": 5,
    "shortest_video": 12.0, "longest_video": 20.0, "chunk_seconds": CHUNK,
}
KEYS = {"interval", "question", "answer", "answer_encode", "type", "category", "semantic", "structural", "reference",
        "reasoning_type", "question_id", "video_id", "question_encode", "template"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory, LONGER)


@pytest.fixture(scope="module")
def videos(world: Path) -> dict[str, Video]:
    return {video.uid: video for video in read_videos(world)}


def _read(world: Path, kind: str, split: str) -> list[Row]:
    return json.loads((world / "taskqa" / "qa" / kind / f"formatted_{split}_qas_encode.json").read_text())


def _pictures(path: Path) -> list[tuple[float, np.ndarray, bool]]:
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24"), frame.key_frame) for frame in container.decode(video=0)]


def test_an_interval_shows_its_part_of_the_video(world: Path, videos: dict[str, Video]) -> None:
    films = sorted((world / "taskqa" / "qa_videos").iterdir())
    assert sorted(part.name for video in videos.values() for part in intervals(video, CHUNK)) == [
        film.name.removesuffix(".mp4") for film in films]
    assert len(films) >= 12
    later = 0
    for film in films:
        uid, start, end = film.name.removesuffix(".mp4").split("_")
        k = int(float(start) // CHUNK)
        since, until = (float(time) - k * CHUNK for time in (start, end))
        shown, source = _pictures(film), _pictures(world / "videos" / uid / f"{k}.mp4")
        first = max(i for i, (time, _, key) in enumerate(source) if key and time <= since + 1e-3)
        frames = [i for i in range(first, len(source)) if source[i][0] < until - 1e-3]
        assert since - 0.5 < source[first][0] and until - 0.1 <= source[frames[-1]][0] + 1e-3
        np.testing.assert_allclose([time for time, *_ in shown], np.arange(len(frames)) / 10, atol=1e-3)
        for (_, picture, _), i in zip(shown, frames, strict=True):
            np.testing.assert_array_equal(picture, source[i][1])
        with av.open(str(film)) as container:
            assert container.streams.video[0].start_time == 0
            assert float(container.duration) / av.time_base == pytest.approx(len(frames) / 10, abs=0.02)
        later += k > 0
    assert later  # not only of the first files


@pytest.mark.parametrize("kind", ["direct", "indirect"])
def test_files_have_the_official_keys_and_codes(world: Path, videos: dict[str, Video], kind: str) -> None:
    folder = world / "taskqa" / "qa" / kind
    answers = (folder / "answer_set.txt").read_text().splitlines()
    train = _read(world, kind, "train")
    assert answers[0] == "<UNK1>" and set(answers[1:]) == {row["answer"] for row in train}
    assert len(answers) == len(set(answers)) and set(answers[1:]) <= {*VERBS, *NOUNS, "yes", "no"}
    numbers: dict[str, int] = {}
    for row in train:
        assert min(row["question_encode"]) > 0
        for word, code in zip(re.findall(r"\w+", row["question"]), row["question_encode"], strict=True):
            assert numbers.setdefault(word, code) == code
    assert len(set(numbers.values())) == len(numbers)
    ids, parts = [], set()
    for split in SHARES:
        rows = _read(world, kind, split)
        assert len(rows) > 100
        for row in rows:
            assert set(row) == KEYS and f"{row['video_id']}_" in row["interval"] and row["video_id"] in videos
            assert videos[row["video_id"]].split == split
            assert (world / "taskqa" / "qa_videos" / f"{row['interval']}.mp4").is_file()
            assert row["answer_encode"] == (answers.index(row["answer"]) if row["answer"] in answers else 0)
            coded = [numbers.get(word, 0) for word in re.findall(r"\w+", row["question"])]
            assert row["question_encode"] == coded
            assert (row["structural"] == "verify") == (row["answer"] in ("yes", "no"))
            own = [*row["type"], *row["category"], row["semantic"], row["structural"], row["reference"]]
            assert row["reasoning_type"] == "$".join(own) and len(row["type"]) == 1
            parts.update(own)
            ids.append(row["question_id"])
    assert len(ids) == len(set(ids))
    assert (folder / "all_reasoning_types.txt").read_text().splitlines() == sorted(parts)
    assert {"direct", "indirect", "query", "verify", "world", "intent", "object", "action", "state", "change"} <= parts


def test_a_small_world_keeps_the_shares(world: Path) -> None:
    sizes = [len(_read(world, "direct", split)) for split in SHARES]
    assert sizes[0] == 3 * sizes[1] == 3 * sizes[2] > 0


def test_an_answer_that_training_lacks_is_unknown(tmp_path: Path) -> None:
    row = {"question": "what does the person cut?", "type": ["descriptive"], "category": ["object"],
           "semantic": "world", "structural": "query", "reference": "direct"}
    rows = {"train": [row | {"answer": "bread"}, row | {"answer": "apple"}],
            "val": [row | {"answer": "lemon", "question": "what does a person cut?"}], "test": []}
    write_split(rows, tmp_path, write.write_text)
    assert (tmp_path / "answer_set.txt").read_text() == "<UNK1>\napple\nbread\n"
    codes = [row["answer_encode"] for row in json.loads((tmp_path / "formatted_train_qas_encode.json").read_text())]
    (unseen,) = json.loads((tmp_path / "formatted_val_qas_encode.json").read_text())
    assert codes == [2, 1] and unseen["answer_encode"] == 0 and unseen["answer"] == "lemon"
    assert [code > 0 for code in unseen["question_encode"]] == [True, True, False, True, True]


@pytest.mark.parametrize("counts", [{}, {"train": 2}, {"val": 2, "test": 1}])
def test_a_world_without_some_videos_has_empty_files(counts: dict[Any, int], tmp_path: Path) -> None:
    """No shares can be kept where a part of the world is missing, and nothing fails."""
    pools = question_pools(write_script(counts, video_seconds=(12.0, 13.0)), 7)
    write_split(mixed(pools), tmp_path / "direct", write.write_text)
    assert all(json.loads(path.read_text()) == [] for path in (tmp_path / "direct").glob("*.json"))
    assert len(list((tmp_path / "direct").glob("*.json"))) == 3
    assert {split: bool(rows) for split, rows in unmixed(pools).items()} == {s: s in counts for s in SHARES}


def test_the_same_world_again_and_an_earlier_one_makes_way(
    world: Path, videos: dict[str, Video], tmp_path: Path
) -> None:
    (tmp_path / "videos").symlink_to(world / "videos")
    films = tmp_path / "taskqa" / "qa_videos"
    films.mkdir(parents=True)
    for name in ("toy-train-9999_1.5_4.mp4", "toy-train-0000_1.5_4.mp4.123.tmp"):
        (films / name).write_bytes(b"of another world")
    write_taskqa(list(videos.values()), tmp_path, CHUNK, write.write_text)
    written = [{str(path.relative_to(root)): path.read_bytes() for path in (root / "taskqa").rglob("*.*")}
               for root in (world, tmp_path)]
    assert written[0] == written[1] and len(written[0]) > 20

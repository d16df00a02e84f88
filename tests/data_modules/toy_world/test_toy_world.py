"""The toy world is deterministic, in the official formats, and its val and test are held out."""

import ast
import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from toy_helpers import SMALL, files_of
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from egovlpv2.cli import main as cli
from egovlpv2.data_modules.toy_world import render, write
from egovlpv2.data_modules.toy_world.formats import COLUMNS
from egovlpv2.data_modules.toy_world.motion import pose_at
from egovlpv2.data_modules.toy_world.script import SCENES, State, Video, write_script
from egovlpv2.data_modules.toy_world.vocabulary import AFFORDANCES, NOUNS, VERBS

SPLITS = {"val": 5, "test": 10}


@pytest.fixture(scope="module")
def tokenizer(world: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(world / "tokenizer")


def _decode(path: Path) -> Iterator[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.time, frame.to_ndarray(format="rgb24")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_same_seed_gives_the_same_world(world: Path, tmp_path: Path) -> None:
    write.generate(tmp_path, num_workers=1, **SMALL)
    kinds = (".csv", ".json", ".txt", ".mat")
    assert files_of(tmp_path, *kinds) == files_of(world, *kinds)
    chunk = "videos/toy-test-0000/1.mp4"
    for (time, frame), (other_time, other) in zip(_decode(world / chunk), _decode(tmp_path / chunk), strict=True):
        assert time == other_time
        np.testing.assert_array_equal(frame, other)


def test_retrieval_formats_tell_of_whole_events_of_the_wearer(world: Path, videos: list[Video]) -> None:
    told = Counter()
    for split in ("train", "val", "test"):
        rows = _rows(world / "ek100" / f"EPIC_100_retrieval_{split}.csv")
        sentences = _rows(world / "ek100" / f"EPIC_100_retrieval_{split}_sentence.csv")
        first = {row["narration"]: row for row in reversed(rows)}
        assert {row["narration_id"] for row in sentences} == {row["narration_id"] for row in first.values()}
        assert ("verb_class" in sentences[0]) == (split == "train")
        for row in rows:
            assert row["narration_id"].startswith(row["video_id"]) and row["video_id"].startswith(row["participant_id"])
            film = (world / "ek100" / "videos" / row["participant_id"] / f"{row['video_id']}.MP4").resolve()
            offset = int(film.stem) * SMALL["chunk_seconds"]
            start, stop = (offset + float(row[f"{end}_timestamp"][6:]) for end in ("start", "stop"))
            video = next(v for v in videos if v.uid == film.parent.name)
            event = next(e for e in video.events if abs(e.start - start) < 0.01 and abs(e.end - stop) < 0.01)
            assert video.split == split and event.wearer == "C"
            assert (row["verb_class"], ast.literal_eval(row["all_noun_classes"])) == (
                str(VERBS.index(event.verb)), event.noun_ids)
            told[video.uid, event.start] += 1
        for row in _rows(world / "charades_ego" / f"CharadesEgo_v1_{split}_only1st.csv"):
            film = world / "charades_ego" / "CharadesEgo_v1_480" / f"{row['id']}.mp4"
            assert film.is_file() and row["id"].endswith("EGO")
            for action in filter(None, row["actions"].split(";")):
                name, start, end = action.split()
                assert 0 <= float(start) < float(end) <= float(row["length"]) and int(name[1:]) < 157
    chunk = SMALL["chunk_seconds"]
    whole = {(video.uid, event.start) for video in videos for event in video.events
             if event.wearer == "C" and event.start // chunk == event.end // chunk}
    assert whole <= set(told) and set(told.values()) == {1}
    classes = (world / "charades_ego" / "Charades_v1_classes.txt").read_text().splitlines()
    assert len(classes) == 157 and classes[0] == "c000 Picking up the cup" and classes[156].startswith("c156 Wiping")


def test_another_seed_gives_another_script() -> None:
    assert write_script({"train": 2}, seed=0) != write_script({"train": 2}, seed=1)


def test_egoclip_has_the_official_columns(world: Path, videos: list[Video]) -> None:
    with (world / "egoclip.csv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["clip_idx"]) for row in rows] == list(range(len(rows)))
    train = {video.uid: video for video in videos if video.split == "train"}
    assert len(rows) == sum(len(video.events) for video in train.values())
    for row in rows:
        assert 0 <= float(row["clip_start"]) < float(row["narration_time"]) < float(row["clip_end"])
        assert float(row["clip_end"]) <= float(row["video_dur"]) == train[row["video_uid"]].duration
        assert row["clip_text"].startswith(("#C C ", "#O "))
        assert all(0 <= verb < 118 for verb in ast.literal_eval(row["tag_verb"]))
        assert all(0 <= noun < 582 for noun in ast.literal_eval(row["tag_noun"]))


@pytest.mark.parametrize("split", SPLITS)
def test_egomcq_questions_have_one_right_answer(world: Path, split: str) -> None:
    questions = json.loads((world / f"egomcq_{split}.json").read_text())
    assert list(questions) == [str(i) for i in range(2 * SPLITS[split])]
    assert Counter(q["types"] for q in questions.values()) == {1: SPLITS[split], 2: SPLITS[split]}
    for question in questions.values():
        choices = question["choices"]
        assert list(choices) == list("01234")
        assert choices[str(question["answer"])] == question["query"]
        assert tuple(question["query"]) == COLUMNS
        assert len({row["clip_text"] for row in choices.values()}) == 5
        assert len({(row["tag_verb"], ast.literal_eval(row["tag_noun"])[0]) for row in choices.values()}) == 5
        assert len({row["video_uid"] for row in choices.values()}) == (5 if question["types"] == 1 else 1)
        assert all(row["video_uid"].startswith(f"toy-{split}-") for row in choices.values())


def test_egomcq_answers_are_uniform(world: Path) -> None:
    questions = json.loads((world / "egomcq_test.json").read_text()).values()
    assert Counter(q["answer"] for q in questions) == dict.fromkeys(range(5), 4)


def test_chunks_hold_the_whole_video_and_start_at_zero(world: Path, videos: list[Video]) -> None:
    for video in videos[:3]:
        folder = world / "videos" / video.uid
        chunks = [list(_decode(folder / f"{k}.mp4")) for k in range(len(list(folder.iterdir())))]
        assert [len(chunk) for chunk in chunks] == [70, round(video.duration * 10) - 70]
        for chunk in chunks:
            np.testing.assert_allclose([time for time, _ in chunk], np.arange(len(chunk)) / 10, atol=1e-3)
            assert chunk[0][1].shape == (render.SIZE, render.SIZE, 3)


def test_a_file_has_a_keyframe_every_half_second(world: Path) -> None:
    with av.open(str(world / "videos/toy-val-0000/0.mp4")) as container:
        keys = [frame.time for frame in container.decode(video=0) if frame.key_frame]
    assert max(np.diff(keys)) <= 0.5


def test_a_decoded_frame_is_the_drawn_one(world: Path, videos: list[Video]) -> None:
    _, decoded = next(_decode(world / "videos" / videos[0].uid / "1.mp4"))
    drawn = np.asarray(render.Stage(videos[0]).frame(7.0), dtype=float)
    assert np.abs(decoded - drawn).mean() < 8


def test_val_and_test_are_held_out() -> None:
    videos = write_script({"train": 100, "val": 10, "test": 10})
    scenes = [{v.scene for v in videos if v.split == split} for split in SCENES]
    assert sum(map(len, scenes)) == len(set.union(*scenes))
    pairs = [{(e.verb, e.noun) for v in videos if v.split == split for e in v.events} for split in SCENES]
    assert {verb for verb, _ in pairs[0]} == set(VERBS)
    assert {noun for _, noun in pairs[0]} == set(NOUNS)
    assert pairs[1] - pairs[0] and pairs[2] - pairs[0]


def test_every_event_is_possible(videos: list[Video]) -> None:
    for video in videos:
        now = 0.0
        for event, states in zip(video.events, video.states()[:-1], strict=True):
            assert states[event.thing].allows(event.verb) and event.verb in AFFORDANCES[event.noun]
            assert video.things[event.thing].noun == event.noun
            assert now <= event.start < event.end <= video.duration
            now = event.end


@pytest.mark.parametrize(
    ("verb", "opposite", "state"),
    [
        ("pick up", "put down", State(near=True, opened=False)),
        ("push", "pull", State(near=True, opened=False)),
        ("open", "close", State(near=True, opened=False)),
    ],
)
def test_opposite_verbs_are_the_same_film_backwards(verb: str, opposite: str, state: State) -> None:
    for u in np.linspace(0, 1, 9):
        there, back = pose_at(verb, state, u), pose_at(opposite, state.after(verb), 1 - u)
        for name in ("far", "lift", "opened", "angle", "reach", "right"):
            assert getattr(there, name) == pytest.approx(getattr(back, name))


def test_tokenizer_is_robertas_kind(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    assert tokenizer.pad_token_id == 1
    assert tokenizer.mask_token_id == len(tokenizer) - 1 < 600
    batch = tokenizer(["#C C picks up the red cup", "#C C"], padding=True)
    assert all(ids[0] == 0 for ids in batch["input_ids"])
    assert batch["input_ids"][0][-1] == 2
    assert batch["input_ids"][1].count(1) == batch["attention_mask"][1].count(0) > 0


@pytest.mark.parametrize("text", ["#C C picks up the red cup", "#O a person never said: Zürich?"])
def test_tokenizer_round_trip(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_an_interrupted_run_leaves_no_half_file_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    def break_off(frames: list[Any], path: Path, fps: int) -> None:
        calls.append(path)
        path.write_bytes(b"half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(write, "encode", break_off)
        with pytest.raises(KeyboardInterrupt):
            write.generate(tmp_path, num_workers=1, **SMALL)
    assert calls and not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("*.mp4"))
    assert not (tmp_path / "world.json").exists()
    # A killed process may leave a draft, and an earlier world its longer videos.
    calls[0].write_bytes(b"half a file")
    calls[0].with_name("9.mp4").write_bytes(b"of another world")
    write.generate(tmp_path, num_workers=1, **SMALL)
    assert not list(tmp_path.rglob("*.tmp")) and len(list((tmp_path / "videos").rglob("*.mp4"))) == 2 * 12


def test_a_stopped_run_takes_no_more_videos(tmp_path: Path, videos: list[Video],
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that looks late at what its pool was told must find that waiting videos are to be cancelled."""
    told: list[bool] = []

    class Late(write.ProcessPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            told.append(cancel_futures)
            super().shutdown(wait, cancel_futures=cancel_futures)

    def stop(jobs: list[Any]) -> Iterator[Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "ProcessPoolExecutor", Late)
    monkeypatch.setattr(write, "as_completed", stop)
    with pytest.raises(KeyboardInterrupt):
        write._write_videos(videos * 4, tmp_path, write.World(), 2)
    assert told[-1] and len(list(tmp_path.glob("videos/*"))) < len(videos)


def test_a_finished_world_is_not_written_again(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(write, "_write_videos", lambda *_: pytest.fail("written again"))
    arguments = [part for name, value in SMALL.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    cli(["toy-data", "--out", str(world), *arguments])
    assert str(world / "contact_sheet.png") in capsys.readouterr().out

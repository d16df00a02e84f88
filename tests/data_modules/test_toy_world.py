"""The toy world is deterministic, in the official formats, and its val and test are held out."""

import ast
import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from scipy.io import loadmat
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from egovlpv2.cli import main as cli
from egovlpv2.data_modules.toy_world import render, write
from egovlpv2.data_modules.toy_world.formats import COLUMNS
from egovlpv2.data_modules.toy_world.grounding_formats import takes, write_grounding
from egovlpv2.data_modules.toy_world.motion import pose_at
from egovlpv2.data_modules.toy_world.script import SCENES, Event, State, Video, video_from_dict, write_script
from egovlpv2.data_modules.toy_world.summary_formats import long_videos, queries, summary, write_qfvs
from egovlpv2.data_modules.toy_world.vocabulary import AFFORDANCES, NOUNS, VERBS

SMALL: dict[str, Any] = {
    "train_videos": 2, "val_videos": 5, "test_videos": 5, "val_questions": 5, "test_questions": 10,
    "shortest_video": 12.0, "longest_video": 13.0, "chunk_seconds": 7,
}
SPLITS = {"val": 5, "test": 10}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    write.generate(root, num_workers=2, **SMALL)
    return root


@pytest.fixture(scope="module")
def videos(world: Path) -> list[Video]:
    return [video_from_dict(data) for data in json.loads((world / "script.json").read_text())]


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


def _files(root: Path, *suffixes: str) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.suffix in suffixes}


def test_the_same_seed_gives_the_same_world(world: Path, tmp_path: Path) -> None:
    write.generate(tmp_path, num_workers=1, **SMALL)
    kinds = (".csv", ".json", ".txt", ".mat")
    assert _files(tmp_path, *kinds) == _files(world, *kinds)
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


@pytest.fixture(scope="module")
def long_takes(world: Path) -> dict[str, list[dict[str, Any]]]:
    """The videos of all NLQ and MQ files, by their format's folder."""
    return {task: [video | {"file": split} for split in ("train", "val", "test")
                   for video in json.loads((world / task / f"{kind}_{split}.json").read_text())["videos"]]
            for task, kind in (("nlq", "nlq"), ("mq", "moments"))}


def _shown(world: Path, take: str, videos: list[Video]) -> list[Video]:
    """The videos whose first chunks a take shows."""
    folder = world / "long" / "videos" / take
    films = [(folder / f"{i}.mp4").resolve() for i in range(len(list(folder.iterdir())))]
    assert all(film.is_file() and film.name == "0.mp4" for film in films)
    return [next(video for video in videos if video.uid == film.parent.name) for film in films]


def _happens(shown: list[Video]) -> dict[tuple[float, float], Event]:
    """The wearer's actions within view, by start and end in the take."""
    chunk = SMALL["chunk_seconds"]
    return {(round(event.start + i * chunk, 2), round(event.end + i * chunk, 2)): event
            for i, video in enumerate(shown) for event in video.events if event.wearer == "C" and event.end <= chunk}


def test_long_takes_are_links_to_chunks_of_one_room(world: Path, videos: list[Video],
                                                    long_takes: dict[str, list[dict[str, Any]]]) -> None:
    told = [video["video_uid"] for video in long_takes["nlq"]]
    assert told == [video["video_uid"] for video in long_takes["mq"]]
    assert sorted(told) == sorted(path.name for path in (world / "long" / "videos").iterdir())
    seen = []
    for video in (*long_takes["nlq"], *long_takes["mq"]):
        folder = world / "long" / "videos" / video["video_uid"]
        assert all(path.is_symlink() and not path.readlink().is_absolute() for path in folder.iterdir())
        shown = _shown(world, video["video_uid"], videos)
        assert {(part.split, part.scene) for part in shown} == {(video["split"], shown[0].scene)}
        assert video["split"] == video["file"] and len(shown) <= 5
        (clip,) = video["clips"]
        assert (clip["video_start_sec"], clip["video_end_sec"]) == (0.0, len(shown) * SMALL["chunk_seconds"])
        seen += [part.uid for part in shown]
    assert Counter(seen) == {video.uid: 2 for video in videos}  # each once in each format


def test_queries_are_of_what_happens_once(world: Path, videos: list[Video],
                                          long_takes: dict[str, list[dict[str, Any]]]) -> None:
    for video in long_takes["nlq"]:
        happens = _happens(_shown(world, video["video_uid"], videos))
        (annotation,) = video["clips"][0]["annotations"]
        rows = annotation["language_queries"]
        assert rows and len({row["query"] for row in rows}) == len(rows)
        for row in rows:
            start, end = row["clip_start_sec"], row["clip_end_sec"]
            assert 0 <= start < end <= video["clips"][0]["video_end_sec"]
            assert (row["video_start_sec"], row["video_end_sec"]) == (start, end)
            assert happens[start, end].text == row["query"] and row["template"]
        once = Counter((event.verb, event.noun) for event in happens.values())
        cut = {(event.verb, event.noun) for part in _shown(world, video["video_uid"], videos) for event in part.events
               if event.wearer == "C" and event.start < SMALL["chunk_seconds"] < event.end}
        assert len(rows) == sum(count == 1 and key not in cut for key, count in once.items())


def test_activities_are_all_that_is_done_to_one_thing(world: Path, videos: list[Video],
                                                      long_takes: dict[str, list[dict[str, Any]]]) -> None:
    classes = json.loads((world / "mq" / "moment_classes_idx.json").read_text())
    assert sorted(classes.values()) == list(range(len(NOUNS) + 1)) and classes["Background"] == 0
    assert set(classes) - {"Background"} == {f"use_{noun}" for noun in NOUNS}
    for video in long_takes["mq"]:
        happens = _happens(_shown(world, video["video_uid"], videos))
        (annotation,) = video["clips"][0]["annotations"]
        rows, covered = annotation["labels"], 0
        for row in rows:
            start, end = row["start_time"], row["end_time"]
            assert row["primary"] is True and row["label"] in classes
            assert (row["video_start_time"], row["video_end_time"]) == (start, end)
            inside = {times: event for times, event in happens.items() if start <= times[0] and times[1] <= end}
            assert {f"use_{event.noun}" for event in inside.values()} == {row["label"]}
            assert (min(inside)[0], max(inside)[1]) == (start, end)
            covered += len(inside)
        assert covered == len(happens)
        assert all(a["end_time"] <= b["start_time"] and (a["label"] != b["label"] or a["end_time"] < b["start_time"])
                   for a, b in zip(rows, rows[1:], strict=False))


def test_takes_of_an_earlier_world_make_way(world: Path, videos: list[Video], tmp_path: Path) -> None:
    old = tmp_path / "long" / "videos" / "take-train-00-0" / "9.mp4"
    old.parent.mkdir(parents=True)
    old.symlink_to("gone.mp4")
    write_grounding(videos, tmp_path, SMALL["chunk_seconds"], write.write_text)
    assert not old.is_symlink() and (old.parent / "0.mp4").is_symlink()
    assert _files(tmp_path, ".json") == {name: text for name, text in _files(world, ".json").items()
                                         if name.startswith(("nlq/", "mq/"))}


def test_takes_of_many_videos(videos: list[Video]) -> None:
    """A room's takes have five chunks, and the last one the rest; a video that fills no chunk is in none."""
    many = [replace(videos[0], uid=f"v{i:02d}") for i in range(12)] + [replace(videos[0], uid="x", duration=3.0)]
    found = takes(many, SMALL["chunk_seconds"])
    assert [len(take.videos) for take in found] == [5, 5, 2] and len({take.uid for take in found}) == 3
    assert [uid for take in found for uid in take.videos] == [f"v{i:02d}" for i in range(12)]


LONG = ("P01", "P02", "P03", "P04")


def _filmed(world: Path, name: str, videos: list[Video]) -> list[tuple[Video, int]]:
    """The video and the number of each file that a long video of QFVS shows."""
    folder = world / "qfvs" / "videos" / name
    paths = [folder / f"{i}.mp4" for i in range(len(list(folder.iterdir())))]
    assert all(path.is_symlink() and not path.readlink().is_absolute() and path.is_file() for path in paths)
    films = [path.resolve() for path in paths]
    return [(next(video for video in videos if video.uid == film.parent.name), int(film.stem)) for film in films]


def _use(filmed: list[tuple[Video, int]], chunk: int) -> list[Counter[str]]:
    """Hundredths of a second of use of each concept in each shot of 5 s, counted one by one."""
    nouns: list[str | None] = []
    for video, k in filmed:
        part: list[str | None] = [None] * (100 * chunk)
        for event in video.events:
            for i in range(round(100 * event.start), round(100 * event.end)):
                if event.wearer == "C" and i // (100 * chunk) == k:
                    part[i % (100 * chunk)] = event.noun
        nouns += part
    return [Counter(filter(None, nouns[first : first + 500])) for first in range(0, len(nouns) // 500 * 500, 500)]


def _tags(use: list[Counter[str]]) -> list[list[str]]:
    """The nouns that are used for half a second of a shot."""
    return [sorted(concept for concept, count in shot.items() if count >= 50) for shot in use]


def test_long_videos_show_all_that_pre_training_never_saw(world: Path, videos: list[Video]) -> None:
    filmed = [_filmed(world, name, videos) for name in LONG]
    chunk = SMALL["chunk_seconds"]
    assert Counter((video.uid, k) for part in filmed for video, k in part) == Counter(
        (video.uid, k) for video in videos if video.split != "train" for k in range(int(video.duration // chunk)))
    script = write.World().script()
    found = long_videos(script, 20)
    rooms = {scene for split in ("val", "test") for scene in SCENES[split]}
    scenes = {video.uid: video.scene for video in script}
    shown = [chunk for video in found for chunk in video.chunks]
    assert len(shown) == len(set(shown)) and any(k > 0 for _, k in shown)
    for video in found:
        assert {scenes[uid] for uid, _ in video.chunks} == rooms
        assert len(video.use) == len(video.chunks) * 20 // 5 > 50
        assert len(queries(video)) == 15
        for (uid, k), (other, later) in zip(video.chunks, video.chunks[1:], strict=False):
            assert later == (k + 1 if uid == other else 0)


def test_tags_are_what_the_wearer_uses(world: Path, videos: list[Video]) -> None:
    folder = world / "qfvs" / "Dense_per_shot_tags"
    concepts = (folder / "Dictionary.txt").read_text().split("\n")
    assert concepts == [f"'{noun}'" for noun in sorted(NOUNS)] and len(concepts) == 24
    vectors = loadmat(world / "qfvs" / "Tags.mat")["Tags"]["Bin_Vecs"]
    assert vectors.shape == (1, 4)
    several = 0
    for i, name in enumerate(LONG):
        filmed = _filmed(world, name, videos)
        use = _use(filmed, SMALL["chunk_seconds"])
        lines = (folder / name / f"{name}.txt").read_text().splitlines()
        assert len(lines) == len(use) == len(filmed) * SMALL["chunk_seconds"] // 5 > 0
        tags = [",".join(shot) for shot in _tags(use)]
        assert lines == tags and any(tags)
        several += len(lines) > 2  # the second shot begins in a file of 7 s and ends in the next
        assert vectors[0, i].shape == (len(use), 1)
        for line, (row,) in zip(lines, vectors[0, i], strict=True):
            assert row.shape == (1, 24) and row.dtype == np.uint8
            assert ",".join(concepts[place].strip("'") for place in np.flatnonzero(row)) == line
    assert several


def test_oracles_are_the_shots_with_the_most_use(world: Path, videos: list[Video]) -> None:
    asked = 0
    for name in LONG:
        use = _use(_filmed(world, name, videos), SMALL["chunk_seconds"])
        for path in (world / "qfvs" / "Oracle_Summaries" / name).iterdir():
            first, second, end = path.name.split("_")
            assert end == "oracle.txt" and first != second and {first.lower(), second.lower()} <= set(NOUNS)
            numbers = [int(line) for line in path.read_text().splitlines()]
            assert numbers == sorted(set(numbers)) and 1 <= numbers[0] and numbers[-1] <= len(use)
            assert len(numbers) == max(1, round(0.05 * len(use)))
            amount = [shot[first] + shot[second] if max(shot[first], shot[second]) >= 50 else 0 for shot in use]
            assert numbers == sorted(sorted(range(1, len(use) + 1), key=lambda n: (-amount[n - 1], n))[: len(numbers)])
            assert all(amount[number - 1] for number in numbers)
            asked += 1
    assert asked >= 4


def test_queries_of_a_long_video() -> None:
    """Of 15 pairs, at least five meet in a shot; each concept shows twice."""
    script = {video.uid: video for video in write.World().script()}
    for video in long_videos(list(script.values()), 20):
        tags, found = video.tags(), queries(video)
        assert tags == _tags(_use([(script[uid], k) for uid, k in video.chunks], 20))
        count = Counter(concept for shot in tags for concept in shot)
        assert len(set(found)) == 15 and found == queries(video)
        assert all(first < second and count[first] > 1 < count[second] for first, second in found)
        assert 5 <= sum(any({*query} <= {*shot} for shot in tags) for query in found) < 15
        for query in found:
            best = summary(video, query)
            assert 1 <= len(best) <= round(0.05 * len(tags)) and all({*query} & {*tags[shot - 1]} for shot in best)


def test_long_videos_of_an_earlier_world_make_way(world: Path, videos: list[Video], tmp_path: Path) -> None:
    link, oracle = (tmp_path / "qfvs" / name for name in ("videos/P01/99.mp4", "Oracle_Summaries/P02/A_B_oracle.txt"))
    for path in (link, oracle):
        path.parent.mkdir(parents=True)
    link.symlink_to("gone.mp4")
    oracle.write_text("1\n")
    write_qfvs(videos, tmp_path, SMALL["chunk_seconds"], write.write_text)
    assert not link.is_symlink() and (link.parent / "0.mp4").is_symlink()
    written = _files(tmp_path, ".txt", ".mat")
    assert written == {name: data for name, data in _files(world, ".txt", ".mat").items() if name.startswith("qfvs/")}
    assert "qfvs/Tags.mat" in written


def test_a_world_that_fills_no_file_has_empty_long_videos(videos: list[Video], tmp_path: Path) -> None:
    write_qfvs([replace(video, duration=3.0) for video in videos], tmp_path, 7, write.write_text)
    assert [len(cells) for cells in loadmat(tmp_path / "qfvs" / "Tags.mat")["Tags"]["Bin_Vecs"][0]] == [0] * 4
    dense = tmp_path / "qfvs" / "Dense_per_shot_tags"
    assert [(dense / name / f"{name}.txt").read_text() for name in LONG] == [""] * 4
    assert not list((tmp_path / "qfvs").glob("Oracle_Summaries/*/*"))

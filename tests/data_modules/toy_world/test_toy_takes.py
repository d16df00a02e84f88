"""The toy world's long takes and their queries and activities, in the formats of NLQ and MQ."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_helpers import SMALL, files_of

from egovlpv2.data_modules.toy_world import write
from egovlpv2.data_modules.toy_world.grounding_formats import takes, write_grounding
from egovlpv2.data_modules.toy_world.script import Event, Video
from egovlpv2.data_modules.toy_world.vocabulary import NOUNS


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
    assert files_of(tmp_path, ".json") == {name: text for name, text in files_of(world, ".json").items()
                                         if name.startswith(("nlq/", "mq/"))}


def test_takes_of_many_videos(videos: list[Video]) -> None:
    """A room's takes have five chunks, and the last one the rest; a video that fills no chunk is in none."""
    many = [replace(videos[0], uid=f"v{i:02d}") for i in range(12)] + [replace(videos[0], uid="x", duration=3.0)]
    found = takes(many, SMALL["chunk_seconds"])
    assert [len(take.videos) for take in found] == [5, 5, 2] and len({take.uid for take in found}) == 3
    assert [uid for take in found for uid in take.videos] == [f"v{i:02d}" for i in range(12)]

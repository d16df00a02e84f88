"""Search for videos, sliding windows over them, and their queries."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from video.numbered_videos import write_video

from egovlpv2.features.queries import read_queries
from egovlpv2.video.collection import VideoSource, find_videos
from egovlpv2.video.container import VideoError
from egovlpv2.video.windows import Windows

FPS = 10
STEP = 4  # brightness from one frame to the next


def write_greys(path: Path, numbers: range) -> Path:
    """Write a video whose frames are grey, the brighter the later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, fps=FPS, pictures=[np.full((48, 64, 3), 20 + STEP * i, np.uint8) for i in numbers])


def shown(frames: torch.Tensor) -> list[list[int]]:
    """Read the numbers of the frames (n, T, 3, H, W)."""
    return ((frames.float().mean((2, 3, 4)) - 20) / STEP).round().int().tolist()


def files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_videos_of_files_and_folders(tmp_path: Path) -> None:
    files(tmp_path, "one.mp4", "in/b.MKV", "in/notes.txt", "in/deep/a.c.webm", "in/long/0.mp4", "in/long/1.mp4",
          "in/short/0.mp4", "in/odd/1.mp4", "in/avi/0.avi", *(f"in/many/{i}.mp4" for i in range(11)))
    found = {source.name: source for source in find_videos([tmp_path / "in", tmp_path / "one.mp4"])}
    assert [*found] == ["0", "1", "a.c", "b", "long", "many", "one", "short"]
    assert [file.name for file in found["many"].files] == [f"{i}.mp4" for i in range(11)]
    assert {name for name, source in found.items() if source.chunked} == {"long", "many"}
    assert found["short"].files == (tmp_path / "in" / "short" / "0.mp4",)


def test_a_folder_is_named_even_by_a_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path, "walk/0.mp4", "walk/1.mp4", "walk/in/x.txt")
    monkeypatch.chdir(tmp_path / "walk")
    assert [source.name for source in find_videos(["."])] == ["walk"]
    monkeypatch.chdir("in")
    assert [source.name for source in find_videos([".."])] == ["walk"]


def test_a_video_named_twice_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path, "a.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(find_videos([tmp_path, tmp_path / "a.mp4", "a.mp4", "."])) == 1


def test_two_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    files(tmp_path, "x/a.mp4", "y/a.mkv")
    with pytest.raises(ValueError, match=r"x/a.mp4 and .*y/a.mkv would write one feature file"):
        find_videos([tmp_path])


def test_paths_without_videos_are_named(tmp_path: Path) -> None:
    files(tmp_path, "a.txt")
    with pytest.raises(ValueError, match="holds no videos"):
        find_videos([tmp_path])
    with pytest.raises(ValueError, match="nowhere: there is no such file or folder"):
        find_videos([tmp_path / "nowhere"])


@pytest.mark.parametrize(("duration", "count"), [
    (0.0, 1), (0.79, 1), (0.8, 1), (1.19, 1), (1.2, 2), (1.6, 3), (3.2, 7), (18_000.0, 44_999)])
def test_windows_lie_wholly_in_the_video(duration: float, count: int) -> None:
    assert Windows(10.0, 8, 4, 4, 32, 600.0).count(duration) == count


def test_windows_show_their_frames(tmp_path: Path) -> None:
    source = VideoSource("a", (write_greys(tmp_path / "a.mp4", range(30)),), False)
    windows = Windows(FPS, 8, 4, 4, 32, 600.0)
    duration = source.duration(600.0)
    assert duration == pytest.approx(3.0) and windows.count(duration) == 6
    frames = windows.read(source, duration, 0, 6)
    assert frames.shape == (6, 4, 3, 32, 32) and frames.dtype == torch.uint8
    assert shown(frames) == [[4 * k + 2 * i + 1 for i in range(4)] for k in range(6)]
    assert torch.equal(windows.read(source, duration, 2, 3), frames[2:5])
    # The window and the stride count frames of the command, not of the video.
    assert shown(Windows(2 * FPS, 8, 8, 2, 32, 600.0).read(source, duration, 0, 3)) == [[1, 3], [5, 7], [9, 11]]


def test_a_video_shorter_than_a_window_gives_one(tmp_path: Path) -> None:
    source = VideoSource("a", (write_greys(tmp_path / "a.mp4", range(4)),), False)
    windows = Windows(FPS, 16, 16, 4, 32, 600.0)
    assert windows.count(source.duration(600.0)) == 1
    assert shown(windows.read(source, source.duration(600.0), 0, 1)) == [[0, 1, 2, 3]]


def test_chunks_are_one_video(tmp_path: Path) -> None:
    whole = find_videos([write_greys(tmp_path / "whole.mp4", range(50))])[0]
    for i in range(3):
        write_greys(tmp_path / "parts" / f"{i}.mp4", range(20 * i, min(20 * i + 20, 50)))
    parts = find_videos([tmp_path / "parts"])[0]
    windows = Windows(FPS, 8, 4, 4, 32, 2.0)
    assert parts.chunked and parts.duration(2.0) == pytest.approx(whole.duration(2.0)) == pytest.approx(5.0)
    count = windows.count(5.0)
    assert shown(windows.read(parts, 5.0, 0, count)) == shown(windows.read(whole, 5.0, 0, count))
    with pytest.raises(VideoError, match="0.mp4 lasts 2.0 s and the chunks should last 600: set --chunk-seconds"):
        parts.duration(600.0)


def test_a_single_chunk_may_be_long(tmp_path: Path) -> None:
    write_greys(tmp_path / "a" / "0.mp4", range(50))
    source = find_videos([tmp_path])[0]
    windows = Windows(FPS, 8, 8, 1, 32, 1.0)
    assert source.name == "a" and shown(windows.read(source, source.duration(1.0), 4, 2)) == [[36], [44]]


def test_overlapping_windows_of_a_long_chunk_cost_no_order(tmp_path: Path) -> None:
    source = VideoSource("a", (write_greys(tmp_path / "a.mp4", range(40)),), False)
    frames = Windows(FPS, 20, 2, 2, 32, 600.0).read(source, 4.0, 0, 11)
    assert shown(frames) == [[2 * k + 5, 2 * k + 15] for k in range(11)]


def write(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def official(*texts: str | None) -> dict[str, Any]:
    queries = [{"query": text, "clip_start_sec": 0.0, "clip_end_sec": 1.0} for text in texts]
    clips = [{"clip_uid": "clip", "annotations": [{"language_queries": queries}]}, {"clip_uid": "bare"}]
    return {"version": "1", "videos": [{"video_uid": "video", "clips": clips}]}


def test_queries_of_a_plain_mapping(tmp_path: Path) -> None:
    first = write(tmp_path / "a.json", {"a": ["Where? ", "What?", "Where?"], "b": []})
    second = write(tmp_path / "b.json", {"a": ["Who?", "What?"], "c": ["What?"]})
    assert read_queries([first, second]) == {"a": ["Where?", "What?", "Who?"], "b": [], "c": ["What?"]}


def test_queries_of_an_official_file_count_its_empty_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "nlq_val.json", official("Where?", None, "What? ", "", "  "))
    found = read_queries([path])
    assert found == {"clip": ["where?", "what?"], "video": ["where?", "what?"], "bare": []}
    assert f"{path}: 3 empty queries skipped" in capsys.readouterr().err


def test_queries_of_vslnet_count_its_empty_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "train.json", {"a": {"sentences": ["Where?", ""]}, "b": {"sentences": ["What?"]}})
    assert read_queries([path]) == {"a": ["where?"], "b": ["what?"]}
    assert f"{path}: 1 empty queries skipped" in capsys.readouterr().err


def test_a_byte_order_mark_is_not_part_of_the_queries(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_bytes(b'\xef\xbb\xbf{"001": ["Where?"]}')
    assert read_queries([str(tmp_path / "q.json")]) == {"001": ["Where?"]}


@pytest.mark.parametrize("content", [
    {"a": [""]}, {"a": ["fine", "  "]}, {"a": [None]}, {"a": "Where?"}, {"a": {"query": "x"}}, ["a"], "a", 3])
def test_wrong_queries_are_refused(tmp_path: Path, content: Any) -> None:
    path = write(tmp_path / "q.json", content)
    with pytest.raises(ValueError, match="q.json(: the queries should be|, which should be)"):
        read_queries([path])


@pytest.mark.parametrize("content", [
    {"videos": [{"video_uid": "v"}]}, {"videos": ["v"]}, {"videos": [{"clips": [{}]}]},
    {"videos": [{"video_uid": "v", "clips": [{"clip_uid": "c", "annotations": [{}]}]}]}])
def test_other_official_files_are_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ValueError, match=r"q.json, which should be an official nlq_\*.json: videos\[0\]"):
        read_queries([write(tmp_path / "q.json", content)])


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{}", b""])
def test_queries_that_cant_be_read_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "q.json").write_bytes(content)
    with pytest.raises(ValueError, match="q.json, line 1"):
        read_queries([os.fspath(tmp_path / "q.json")])
    with pytest.raises(ValueError, match="none.json can't be read: No such file"):
        read_queries([os.fspath(tmp_path / "none.json")])

"""Search for videos in folders: every folder once, circular links, pipes, and unreadable names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from video.numbered_videos import write_video

from egovlpv2.cli import main
from egovlpv2.video.collection import find_videos
from egovlpv2.video.container import VideoError
from egovlpv2.video.encode import Settings
from egovlpv2.video.find import search_folder
from egovlpv2.video.prepare import find_raw_videos, prepare

# Without root's right to read all, as a user has it.
_AS_A_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"
              ] if os.geteuid() == 0 else []


def empty(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def as_a_user(command: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*_AS_A_USER, sys.executable, "-m", "egovlpv2.cli", command, *map(str, args)],
                          capture_output=True, text=True, timeout=120)


def test_parents_come_before_children_and_links_last(tmp_path: Path) -> None:
    empty(tmp_path, "b/2.mp4", "a/deep/1.MKV", "a/.hidden.mp4", "a/notes.txt", "c/3.mp4")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "elsewhere")
    empty(tmp_path.parent / "other", "4.mp4")
    (tmp_path / "elsewhere").symlink_to(tmp_path.parent / "other")
    found = [(listing.folder.name, [path.name for path in listing.videos]) for listing in search_folder(tmp_path)]
    assert found == [(tmp_path.name, []), ("a", []), ("deep", ["1.MKV"]), ("b", ["2.mp4"]), ("c", ["3.mp4"]),
                     ("elsewhere", ["4.mp4"])]


def test_links_in_circles_end(tmp_path: Path) -> None:
    empty(tmp_path, "a/x.mp4", "b/y.mp4")
    for link, target in (("a/up", tmp_path), ("a/b", tmp_path / "b"), ("b/a", tmp_path / "a")):
        (tmp_path / link).symlink_to(target)
    (tmp_path / "self.mp4").symlink_to(tmp_path / "self.mp4")
    assert [path.name for path in find_raw_videos([tmp_path]).videos] == ["self.mp4", "x.mp4", "y.mp4"]
    assert [source.name for source in find_videos([tmp_path])] == ["self", "x", "y"]


def test_links_pipes_and_empty_files_fail_by_name_and_stop_no_other(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    empty(raw, "empty.mp4")
    write_video(raw / "good.mp4", count=2)
    (raw / "dangling.mp4").symlink_to("nowhere.mp4")
    (raw / "circle.mp4").symlink_to("circle.mp4")
    os.mkfifo(raw / "pipe.mp4")
    (raw / "device.mp4").symlink_to("/dev/zero")
    rows = {row["video"]: row for row in prepare([raw], tmp_path / "out", Settings(), 1).videos}
    reasons = {"empty": "empty.mp4 is empty", "dangling": "dangling.mp4 is missing", "pipe": "pipe.mp4 is not a file",
               "circle": "circle.mp4 can't be opened", "device": "device.mp4 is not a file"}
    assert {name: row["status"] for name, row in rows.items()} == {"good": "done", **dict.fromkeys(reasons, "failed")}
    for name, reason in reasons.items():
        assert reason in rows[name]["reason"] and not (tmp_path / "out" / name).exists()
    sources = {source.name: source for source in find_videos([raw])}
    assert sources["good"].duration(600.0) > 0
    for name in reasons:
        with pytest.raises((VideoError, OSError), match=f"{name}.mp4"):
            sources[name].duration(600.0)


@pytest.mark.parametrize("name", ["pipe", "device", "circle", "gone", "n" * 300])
def test_what_is_neither_file_nor_folder_is_refused_before_work_begins(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    elif name in ("device", "circle"):
        path.symlink_to("/dev/zero" if name == "device" else path)
    for find in (find_raw_videos, find_videos):
        with pytest.raises((ValueError, OSError), match=name):
            find([path])  # type: ignore[operator]
    with pytest.raises(ValueError, match=name):
        prepare([path], tmp_path / "out", Settings())
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cant_be_searched_is_named(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for name in ("good.mp4", "shut/b.mp4", "half/c.mp4"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(raw / name, count=2)
    (raw / "shut").chmod(0)
    (raw / "half").chmod(0o600)  # can be listed, but what is in it can't be reached
    done = as_a_user("prepare", raw, "--out", tmp_path / "out", "--num-workers", "1")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    rows = {row["video"]: row for row in json.loads((tmp_path / "out" / "report.json").read_text())["videos"]}
    assert {name: row["status"] for name, row in rows.items()} == {"good": "done", "shut": "failed", "c": "failed"}
    assert "shut can't be searched (Permission denied): change its permissions" in rows["shut"]["reason"]
    assert "Permission denied" in rows["c"]["reason"] and "c.mp4" in rows["c"]["reason"]
    shut = as_a_user("prepare", raw / "shut", raw / "good.mp4", "--out", tmp_path / "new")
    assert shut.returncode == 1 and "Traceback" not in shut.stderr and "shut can't be searched" in shut.stderr
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cant_be_searched_is_a_video_with_a_problem(tmp_path: Path) -> None:
    empty(tmp_path, "raw/good.mp4", "raw/x/shut/b.mp4", "raw/y/shut/b.mp4")
    for name in "xy":
        (tmp_path / "raw" / name / "shut").chmod(0)
    code = ("import sys; from egovlpv2.video.collection import find_videos\n"
            "for source in find_videos(sys.argv[1:]): print(source.files[0].name, '|', source.problem)")
    found = subprocess.run([*_AS_A_USER, sys.executable, "-c", code, str(tmp_path / "raw")], capture_output=True,
                           text=True, check=True)
    lines = sorted(found.stdout.splitlines())
    assert len(lines) == 3 and lines[0] == "good.mp4 | "
    assert all(line.startswith("shut | ") and "Permission denied" in line for line in lines[1:])


@pytest.mark.parametrize(("folder", "names"), [("aaa.mp4", (0, 15, 30)), ("aaa.mp4", (15, 45)), ("aaa", (0, 300, 900)),
                                              ("aaa.mp4", (0, 600))])
def test_chunks_named_by_their_first_second_are_told_the_wanted_layout(tmp_path: Path, folder: str,
                                                                      names: tuple[int, ...]) -> None:
    empty(tmp_path, *(f"{uid}/{second}.mp4" for uid in (folder, "bbb.mp4") for second in names))
    step = {15: 15, 45: 15, 900: 300, 30: 15, 600: 600}[names[-1]]
    for given in (tmp_path, tmp_path / folder):
        for find in (find_raw_videos, find_videos):
            with pytest.raises(ValueError, match=rf"{folder} holds chunks .* by their first second .* by their number, "
                                                 rf".*\(aaa/.*--chunk-seconds.*") as raised:
                find([given])  # type: ignore[operator]
            assert f"{step} s" in str(raised.value) and f"aaa/{names[1] // step}.mp4" in str(raised.value)
            assert "\n" not in str(raised.value) and "rename one" not in str(raised.value)


def test_chunks_in_a_folder_named_as_their_video_are_one(tmp_path: Path) -> None:
    empty(tmp_path, "aaa.mp4/0.mp4", "aaa.mp4/1.mp4", "bbb.mp4/0.mp4")
    assert [(source.name, len(source.files)) for source in find_videos([tmp_path])] == [("aaa", 2), ("bbb", 1)]


def test_a_missing_chunk_is_named_and_stops_no_other(tmp_path: Path) -> None:
    empty(tmp_path, "a/0.mp4", "a/1.mp4", "a/3.mp4", "b/0.mp4", "c/7.mp4", "c/9.mp4")
    found = {source.name: source for source in find_videos([tmp_path])}
    assert [*found] == ["7", "9", "a", "b"] and not found["b"].problem
    with pytest.raises(VideoError, match=r"a holds chunks of a video, 0.mp4 to 3.mp4, but not 2.mp4: fetch it"):
        found["a"].duration(600.0)


def test_chunks_of_several_videos_are_not_whole_videos(tmp_path: Path) -> None:
    empty(tmp_path, *(f"{uid}/{number}.mp4" for uid in "ab" for number in range(2)))
    with pytest.raises(ValueError, match="give whole videos, not chunks of them"):
        prepare([tmp_path], tmp_path / "out", Settings())


NAMES = [b"10:20:30", b"http:--a", b"caf\xe9", b"-dash", b"a\nb", b"con cat|x", b"n" * 250, b"file:a", b"%d", b"a?b#c"]


def test_any_name_is_prepared_or_fails_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "a.mp4", count=2).read_bytes()
    monkeypatch.chdir(tmp_path)  # relative names, as users give them
    Path("raw").mkdir()
    for name in NAMES:
        Path("raw", os.fsdecode(name + b".mp4")).write_bytes(video)
    for status in ("done", "skipped"):
        main(["prepare", "raw", "--out", "out:1", "--num-workers", "2"])
        rows = json.loads(Path("out:1/report.json").read_text(encoding="utf-8"))["videos"]
        assert {row["status"] for row in rows} == {status} and len(rows) == len(NAMES)
        assert "caf\\xe9" in [row["video"] for row in rows]
    for name in NAMES:
        assert sorted(os.listdir(os.fsencode("out:1/") + name)) == [b"0.mp4", b"prepared.json"]
    capsys.readouterr().out.encode()  # can be printed anywhere


@pytest.mark.parametrize("name", ["...mp4", "..mp4"])
def test_a_name_that_cant_be_a_folders_fails(tmp_path: Path, name: str) -> None:
    write_video(tmp_path / "a.mp4", count=2).rename(tmp_path / name)
    [row] = prepare([tmp_path / name], tmp_path / "out", Settings()).videos
    assert row["status"] == "failed" and "rename it" in row["reason"] and not any((tmp_path / "out").iterdir())

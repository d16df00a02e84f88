"""Preparation of videos: same moments, small upright pictures, and no partial results after stops and bad input."""

import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_videos import HEIGHT, WIDTH, numbers, write_video

from egovlpv2.cli import main
from egovlpv2.video.decode import read_chunks, read_frames, video_info
from egovlpv2.video.encode import Settings
from egovlpv2.video.pool import prepare_all
from egovlpv2.video.prepare import prepare
from egovlpv2.video.prepared import prepare_video
from egovlpv2.video.transforms import EvalTransform

SECONDS = 1.0  # of a chunk


def moving(count: int, height: int, width: int) -> list[np.ndarray]:
    """Make smooth pictures `(H, W, 3)` that move."""
    y, x = np.mgrid[0:height, 0:width]
    rows = [128 + 90 * np.sin((x + 5 * i) / 20) * np.cos(y / 15) for i in range(count)]
    return [np.stack([x * 255 / width, y * 255 / height, row], -1).astype(np.uint8) for row in rows]


def packets(path: Path) -> list[tuple[float, bool]]:
    """Read time in seconds and kind (keyframe or not) of each packet."""
    with av.open(str(path)) as container:
        return [(float(p.pts * p.time_base), p.is_keyframe) for p in container.demux(video=0) if p.size]


def chunks(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.mp4"))}


def command(*args: str | Path) -> list[str]:
    return [sys.executable, "-m", "egovlpv2.cli", "prepare", *map(str, args)]


def variable_stamps() -> list[int]:
    """Times of 60 frames in ms, from 0 to about 4 s, with a gap of 2.3 s in between."""
    steps = np.random.default_rng(0).integers(5, 70, 60)
    steps[0], steps[30] = 0, 2300
    return np.cumsum(steps).tolist()


def input_of_kind(kind: str, folder: Path) -> Path:
    if kind == "variable":
        return write_video(folder / "a.mkv", stamps=variable_stamps(), b_frames=2)
    if kind == "late start":
        return write_video(folder / "a.mkv", stamps=[5000 + 33 * i for i in range(60)])
    if kind == "negative start":
        stamps = [33 * i - 500 for i in range(60)]
        return write_video(folder / "a.ts", stamps=stamps, b_frames=2, options={"avoid_negative_ts": "disabled"})
    if kind == "29.97":
        return write_video(folder / "a.mkv", stamps=[i * 1001 // 30 for i in range(90)])
    return write_video(folder / "a.ts", b_frames=3) if kind == "ts" else write_video(folder / "a.mp4", b_frames=2)


@pytest.mark.parametrize("kind", ["plain", "ts", "29.97", "variable", "late start", "negative start"])
def test_a_time_shows_the_same_picture_as_in_the_original(tmp_path: Path, kind: str) -> None:
    path = input_of_kind(kind, tmp_path)
    done = prepare_video(path, tmp_path / "out", Settings(chunk_seconds=SECONDS))
    assert done["chunks"] == len(chunks(tmp_path / "out"))
    times = np.sort(np.random.default_rng(1).uniform(0, video_info(path).duration, 80))  # clips span chunks
    before = read_frames(path, times)
    after = read_chunks(tmp_path / "out", times, chunk_seconds=SECONDS)
    assert numbers(after.frames) == numbers(before.frames)
    assert (after.frames.float() - before.frames.float()).abs().mean() < 3
    # A frame that is still shown when a chunk begins is repeated there.
    assert np.allclose(after.times, np.maximum(before.times, times // SECONDS * SECONDS), atol=1e-4)


def test_chunks_hold_the_frames_of_their_time_and_frequent_keyframes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", count=75, gop=250)
    done = prepare_video(path, tmp_path / "out", Settings(chunk_seconds=SECONDS))
    assert (done["seconds"], done["chunks"], done["frames"]) == (2.5, 3, 75)
    for k, count in enumerate((30, 30, 15)):
        found = packets(tmp_path / "out" / f"{k}.mp4")
        assert np.allclose([t for t, _ in found], np.arange(count) / 30)
        assert [i for i, (_, is_key) in enumerate(found) if is_key] == list(range(0, count, 15))
        assert video_info(tmp_path / "out" / f"{k}.mp4").duration == pytest.approx(count / 30)


def test_chunks_that_begin_between_ticks_agree_to_less_than_one(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", codec="mpeg4", count=50, fps=25)  # its unit is 40 ms
    prepare_video(path, tmp_path / "out", Settings(chunk_seconds=1.3))
    times = (np.arange(50) + 0.5) / 25
    assert numbers(read_chunks(tmp_path / "out", times, chunk_seconds=1.3).frames) == list(range(50))


def test_fps_keeps_some_frames_at_their_times(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", stamps=[round(i * 1000 / 30) for i in range(60)])
    done = prepare_video(path, tmp_path / "out", Settings(fps=10.0))
    assert done["frames"] == 20
    clip = read_chunks(tmp_path / "out", np.arange(20) / 10 + 0.05)
    assert numbers(clip.frames) == list(range(0, 60, 3)) and np.allclose(clip.times, np.arange(20) / 10)
    assert video_info(tmp_path / "out" / "0.mp4").duration == pytest.approx(2.0, abs=1e-3)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_pictures_come_upright(tmp_path: Path, rotation: int) -> None:
    path = write_video(tmp_path / "a.mov", pictures=moving(30, 180, 240), rotation=rotation)
    prepare_video(path, tmp_path / "out", Settings(short_side=120))
    info = video_info(tmp_path / "out" / "0.mp4")
    assert (info.height, info.width) == ((120, 160) if rotation == 180 else (160, 120))
    times, crop = [0.01, 0.51, 0.99], EvalTransform(96)
    before, after = read_frames(path, times, crop), read_chunks(tmp_path / "out", times, crop)
    assert (before.frames.float() - after.frames.float()).abs().mean() < 3
    assert np.allclose(before.times, after.times)


@pytest.mark.parametrize(("before", "after"), [((300, 401), (256, 342)), ((75, 51), (74, 50)), ((48, 128), (48, 128))])
def test_sizes_are_even_and_never_larger(tmp_path: Path, before: tuple[int, int], after: tuple[int, int]) -> None:
    path = write_video(tmp_path / "a.mkv", codec="ffv1", pictures=moving(2, *before))
    prepare_video(path, tmp_path / "out", Settings())
    with av.open(str(tmp_path / "out" / "0.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert ((codec.height, codec.width), codec.pix_fmt, codec.name) == (after, "yuv420p", "h264")


def write_sound(path: Path, pictures: bool) -> Path:
    """Two seconds of silence, with or without a second of numbered pictures."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", 30) if pictures else None
        sound = container.add_stream("aac", 16000, layout="mono")
        if video is not None:
            video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for picture in moving(30, HEIGHT, WIDTH):
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture)))
            container.mux(video.encode(None))
        for i in range(31):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, 1024 * i, Fraction(1, 16000)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_sound_is_dropped_and_may_be_longer(tmp_path: Path, ending: str) -> None:
    done = prepare_video(write_sound(tmp_path / f"a.{ending}", True), tmp_path / "out", Settings())
    assert done["frames"] == 30
    with av.open(str(tmp_path / "out" / "0.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def cut_short(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def test_bad_videos_are_reported_and_stop_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    (raw / "deeper").mkdir(parents=True)
    write_video(raw / "deeper" / "good.MOV")
    (raw / "empty.mp4").touch()
    (raw / "text.mp4").write_text("no video at all " * 100)
    (raw / "notes.txt").write_text("not looked at")
    write_sound(raw / "sound.mp4", False)
    cut_short(write_video(raw / "cut.mp4", count=120, options={"movflags": "+faststart"}), 0.7)
    cut_short(write_video(raw / "cut2.mkv", count=120), 0.5)
    with pytest.raises(SystemExit, match=r"5 of 6 videos failed, see .*report.json"):
        main(["prepare", str(raw), "--out", str(out), "--chunk-seconds", "1"])
    rows = {row["video"]: row for row in json.loads((out / "report.json").read_text())["videos"]}
    reasons = {"empty": "is empty", "text": "can't be", "sound": "no video stream", "cut": "breaks at [1-3].* s",
               "cut2": "breaks at [0-3].* s"}
    for name, reason in reasons.items():
        assert rows[name]["status"] == "failed" and not (out / name).exists()
        assert re.search(reason, rows[name]["reason"]) and str(tmp_path) not in rows[name]["reason"]
    assert sorted(path.name for path in (out / "good").iterdir()) == ["0.mp4", "1.mp4", "prepared.json"]
    assert "1 of 6 videos are prepared" in capsys.readouterr().out


def test_what_is_prepared_is_skipped_and_what_changed_is_done_again(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [write_video(tmp_path / f"{name}.mp4", count=30) for name in "ab"]
    out, settings = tmp_path / "out", Settings()

    def statuses(settings: Settings) -> list[str]:
        return [row["status"] for row in prepare([tmp_path], out, settings, num_workers=1).videos]

    assert statuses(settings) == ["done", "done"]
    stamp = (out / "a" / "0.mp4").stat().st_mtime_ns
    (out / "a" / f"0.mp4.{'0' * 32}.tmp").touch()  # as a killed run leaves it
    os.utime(paths[1], (1, 1))
    assert statuses(settings) == ["skipped", "done"]
    assert "b.mp4 is done again: source changed" in capsys.readouterr().out
    assert (out / "a" / "0.mp4").stat().st_mtime_ns == stamp and not list(out.rglob("*.tmp"))
    (out / "a" / "0.mp4").unlink()
    assert statuses(settings) == ["done", "skipped"]
    assert statuses(Settings(short_side=32)) == ["done", "done"]
    assert "a.mp4 is done again: settings changed" in capsys.readouterr().out
    assert video_info(out / "a" / "0.mp4").height == 32


def test_a_video_that_breaks_when_done_again_leaves_nothing(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", count=90)
    prepare_video(path, tmp_path / "out", Settings(chunk_seconds=SECONDS))
    cut_short(path, 0.6)
    with pytest.raises(ValueError, match="breaks at"):
        prepare_video(path, tmp_path / "out", Settings(chunk_seconds=SECONDS))
    assert not (tmp_path / "out").exists()


def test_a_killed_run_goes_on_to_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    path = write_video(tmp_path / "raw" / "a.mp4", pictures=moving(40, 360, 480) * 8)
    args = [tmp_path / "raw", "--chunk-seconds", "1", "--num-workers", "1"]
    out = tmp_path / "out"
    process = subprocess.Popen(command(*args, "--out", out), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    limit = time.monotonic() + 60
    while not (out / "a" / "1.mp4").exists() and time.monotonic() < limit:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)  # the command only, as a person would; its workers must not get in the way
    process.communicate()
    first = out / "a" / "0.mp4"
    stamp = first.stat().st_mtime_ns
    assert not (out / "a" / "prepared.json").exists() and (out / "a" / "started.json").exists()
    subprocess.run(command(*args, "--out", out), check=True, capture_output=True)
    prepare_video(path, tmp_path / "whole" / "a", Settings(chunk_seconds=1.0))
    assert chunks(out) == chunks(tmp_path / "whole") and len(chunks(out)) == 11
    assert first.stat().st_mtime_ns == stamp  # not encoded twice
    for name in ("seconds", "frames", "chunks", "bytes"):
        done = [json.loads((folder / "a" / "prepared.json").read_text()) for folder in (out, tmp_path / "whole")]
        assert done[0][name] == done[1][name]
    assert not list(out.rglob("*.tmp")) and not list(out.rglob("started.json"))


def test_a_process_that_dies_takes_no_other_along(tmp_path: Path) -> None:
    videos = [write_video(tmp_path / f"{name}.mp4", pictures=moving(40, 360, 480) * 4) for name in "ab"]
    outcomes = {}
    others = multiprocessing.active_children()  # of earlier tests in this process
    for path, message in prepare_all(videos, tmp_path / "out", Settings(chunk_seconds=1.0), workers=1):
        if isinstance(message, dict):
            outcomes[path.stem] = message
        elif path.stem == "a":
            [process] = set(multiprocessing.active_children()).difference(others)
            process.kill()
    assert outcomes["a"]["status"] == "failed" and "process ended by -9" in outcomes["a"]["reason"]
    assert outcomes["b"]["status"] == "done" and not (tmp_path / "out" / "a").exists()


def test_names_and_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "raw" / "deeper").mkdir(parents=True)
    for name in ("a.mp4", "deeper/a.mkv"):
        write_video(tmp_path / "raw" / name, count=2)
    with pytest.raises(SystemExit, match=r"a.mp4 and .*a.mkv would both be written"):
        main(["prepare", str(tmp_path / "raw"), "--out", str(tmp_path / "out")])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"no video in .*nothing"):
        prepare([tmp_path / "nothing"], tmp_path / "out", Settings())
    with pytest.raises(ValueError, match="gone is missing"):
        prepare([tmp_path / "gone"], tmp_path / "out", Settings())
    assert not (tmp_path / "out").exists()
    for wrong in ({"chunk_seconds": 0.0}, {"keyframe_seconds": 0.0}, {"keyframe_seconds": math.inf}, {"fps": -1.0},
                  {"short_side": 255}, {"crf": 99}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Settings(**wrong)  # type: ignore[arg-type]


def test_files_of_others_are_neither_overwritten_nor_read_twice(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    theirs = write_video(tmp_path / "a" / "0.mp4", count=2)
    path = write_video(tmp_path / "a.mp4", count=2)
    other = write_video(tmp_path / "c.mp4", count=2)
    rows = prepare([path, other], tmp_path, Settings(), num_workers=1).videos
    assert [row["status"] for row in rows] == ["failed", "done"]
    assert "holds videos that this command did not write: choose another --out" in rows[0]["reason"]
    shutil.rmtree(tmp_path / "c")
    other.unlink()
    theirs.rename(tmp_path / "b.mp4")
    for status in ("done", "skipped"):  # what is prepared lies among the originals, and is none of them
        rows = prepare([tmp_path, path], tmp_path, Settings(), num_workers=1).videos
        assert [(row["video"], row["status"]) for row in rows] == [("a", status), ("b", status)]

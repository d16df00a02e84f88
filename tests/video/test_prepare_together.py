"""Several `egovlpv2 prepare` at once, stopped ones and killed ones: nothing is lost, half done or left over."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video.numbered_videos import write_video

from egovlpv2.video import encode
from egovlpv2.video.encode import Settings
from egovlpv2.video.pool import prepare_all
from egovlpv2.video.prepare import prepare
from egovlpv2.video.prepared import BusyError, hold, prepare_video


def moving(count: int, height: int, width: int) -> list[np.ndarray]:
    """Make smooth pictures `(H, W, 3)` that move."""
    y, x = np.mgrid[0:height, 0:width]
    rows = [128 + 90 * np.sin((x + 5 * i) / 20) * np.cos(y / 15) for i in range(count)]
    return [np.stack([x * 255 / width, y * 255 / height, row], -1).astype(np.uint8) for row in rows]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of 4 s."""
    folder = tmp_path_factory.mktemp("raw")
    for i, name in enumerate("abc"):
        write_video(folder / f"{name}.mp4", pictures=moving(30 + i, 180, 260) * 4)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Read all files but the reports, which differ between runs."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "report.json"}


def start(raw: Path, out: Path, *args: str) -> subprocess.Popen[str]:
    """Start the command in a session of its own, so that its processes can be counted and stopped."""
    command = [sys.executable, "-m", "egovlpv2.cli", "prepare", str(raw), "--out", str(out), "--chunk-seconds", "1",
               "--num-workers", "2", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.fixture(scope="module")
def whole(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files that an uninterrupted run writes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    prepare([raw], out, Settings(chunk_seconds=1.0), 2)
    return files(out)


def wait_for(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 60
    while not condition() and time.monotonic() < limit:
        time.sleep(0.005)
    assert condition()


def in_session(session: int) -> list[str]:
    """List the command lines of a session's living processes."""
    found = []
    for state in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = state.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(state.with_name("cmdline").read_text())
        except (OSError, IndexError):
            continue
    return found


def test_several_at_once_lose_nothing(raw: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    running = [start(raw, tmp_path / "out") for _ in range(2)]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert files(tmp_path / "out") == whole
    for out, err in said:
        assert "3 of 3 videos are prepared" in out and "Traceback" not in err and "failed" not in out


def test_a_video_that_another_process_is_at_comes_last(raw: Path, whole: dict[str, bytes], tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    videos, order = [raw / "a.mp4", raw / "b.mp4"], []
    with hold(tmp_path / "a"):
        messages = prepare_all(videos, tmp_path, Settings(chunk_seconds=1.0), 1)
        for path, message in messages:
            if isinstance(message, dict):
                order.append(path.stem)
                break
        assert order == ["b"] and not (tmp_path / "a" / "0.mp4").exists()
    assert "another process prepares a.mp4: it is waited for" in capsys.readouterr().out
    done = {path.stem: message for path, message in messages if isinstance(message, dict)}
    assert done["a"]["status"] == "done"
    assert files(tmp_path) == {name: content for name, content in whole.items() if name[0] in "ab"}


def test_a_held_folder_is_neither_written_nor_cleared(raw: Path, tmp_path: Path) -> None:
    prepare_video(raw / "a.mp4", tmp_path / "a", Settings(chunk_seconds=1.0))
    before = files(tmp_path)
    with hold(tmp_path / "a"), pytest.raises(BusyError, match="another process writes"):
        prepare_video(raw / "a.mp4", tmp_path / "a", Settings(chunk_seconds=2.0))
    assert files(tmp_path) == before
    (tmp_path / "a" / ".prepare.lock").touch()  # a killed process leaves it, without a lock on it
    draft = tmp_path / "a" / f"3.mp4.{'a' * 32}.tmp"
    draft.touch()
    prepare([raw / "a.mp4"], tmp_path, Settings(chunk_seconds=1.0), 1)
    assert files(tmp_path) == before


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_stop_is_one_line_and_leaves_nothing_half_written(raw: Path, whole: dict[str, bytes], tmp_path: Path,
                                                            number: int, code: int, word: str) -> None:
    out = tmp_path / "out"
    process = start(raw, out)
    wait_for(lambda: list(out.rglob("*.tmp")) and list(out.rglob("1.mp4")))
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal sends it
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and word in err and "Traceback" not in err, err
    assert len([line for line in err.replace("\r", "\n").splitlines() if line.startswith("egovlpv2 ")]) == 1
    wait_for(lambda: not in_session(process.pid))
    left = files(out)
    assert not [name for name in left if name.endswith((".tmp", ".lock"))] and not (out / "report.json").exists()
    assert all(whole[name] == content for name, content in left.items() if name.endswith(".mp4"))


def test_processes_end_when_their_command_is_killed(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(raw, out)
    wait_for(lambda: list(out.rglob("1.mp4")))
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: not in_session(process.pid))
    assert not list(out.rglob("*.tmp")) and not list(out.rglob("*.lock"))


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"version": "2"}', "\udce9", '{"version": 1e999}'])
@pytest.mark.parametrize("name", ["prepared.json", "started.json"])
def test_a_damaged_label_loses_no_file(tmp_path: Path, name: str, content: str) -> None:
    path = write_video(tmp_path / "a.mp4", count=3)
    prepare_video(path, tmp_path / "out", Settings())
    (tmp_path / "out" / "prepared.json").rename(tmp_path / "out" / name)
    (tmp_path / "out" / name).write_bytes(os.fsencode(content))
    before = files(tmp_path)
    with pytest.raises(ValueError, match=rf"{name}.*: delete {tmp_path}/out if .* wrote it, or choose another --out"):
        prepare_video(path, tmp_path / "out", Settings(crf=30))
    assert files(tmp_path) == before


def test_a_damaged_label_stops_no_other(tmp_path: Path) -> None:
    videos = [write_video(tmp_path / f"{name}.mp4", count=3) for name in "ab"]
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "started.json").write_text("{")
    for out in (tmp_path / "out", tmp_path / "new"):  # where it is to be written, and among the inputs
        rows = {row["video"]: row for row in prepare([tmp_path, *videos], out, Settings(), 1).videos}
        assert rows["b"]["status"] == "done" and "started.json" in rows["a"]["reason"]
        shutil.rmtree(out / "b")


def test_files_of_others_in_a_prepared_folder_stay(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", count=60)
    prepare_video(path, tmp_path / "a", Settings(chunk_seconds=1.0))
    theirs = {"2020-holiday.mp4", "007.mp4", "notes.txt", "mine.tmp", "prepared.json.bak"}
    for name in theirs:
        (tmp_path / "a" / name).write_text(name)
    prepare_video(path, tmp_path / "a", Settings())
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"0.mp4", "prepared.json", *theirs}


def test_a_full_disk_is_one_line_and_leaves_nothing(raw: Path, tmp_path: Path) -> None:
    command = 'ulimit -f 8; trap "" XFSZ; exec "$0" -m egovlpv2.cli prepare "$1" --out "$2"'  # 8 kB a file
    done = subprocess.run(["bash", "-c", command, sys.executable, str(raw / "a.mp4"), str(tmp_path / "out")],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["videos"]
    for row in rows:
        assert row["status"] == "failed" and "File too large" in row["reason"]
        assert f"{row['video']}/0.mp4: " in row["reason"] and ".tmp" not in row["reason"]
    assert files(tmp_path / "out") == {}


def test_on_a_full_disk_finished_chunks_stay(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After space is freed, the same command continues where it stopped."""
    settings = Settings(chunk_seconds=1.0)
    written: list[str] = []

    original = encode.write_chunk

    def write_chunk(path: Path, *args: Any) -> None:
        if is_full and path.name == "2.mp4":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path.name)
        original(path, *args)

    is_full = True
    monkeypatch.setattr(encode, "write_chunk", write_chunk)
    with pytest.raises(OSError, match="No space left"):
        prepare_video(raw / "a.mp4", tmp_path / "a", settings)
    assert sorted(files(tmp_path)) == ["a/0.mp4", "a/1.mp4", "a/started.json"]
    is_full = False
    prepare_video(raw / "a.mp4", tmp_path / "a", settings)
    assert written == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_uninterrupted(raw: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    rng = random.Random(14)
    for k in range(20):
        out = tmp_path / str(k)
        process = start(raw, out)
        if rng.random() < 0.8:
            wait_for(lambda out=out: list(out.rglob("started.json")))
        time.sleep(rng.uniform(0, 1.5))
        if rng.random() < 0.5:
            os.killpg(process.pid, signal.SIGKILL)  # all of it, as a machine that goes down
        else:
            process.kill()
        process.communicate(timeout=60)
        again = start(raw, out)
        _, err = again.communicate(timeout=120)
        assert again.returncode == 0, err
        assert files(out) == whole, k
        shutil.rmtree(out)

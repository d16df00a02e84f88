"""`egovlpv2 extract`: neither stops nor bad videos leave partial files, and finished ones stay."""

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import av
import pytest
import torch
from features.test_extract import WINDOWS, contents, options, refused, write

from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.cli import main as cli
from egovlpv2.features import FeatureFolder, extract
from egovlpv2.features.files import FeatureWriter
from egovlpv2.features.locks import Claim, claim
from egovlpv2.model.backbone import Backbone
from egovlpv2.video.collection import VideoSource
from egovlpv2.video.decode import read_frames
from egovlpv2.video.transforms import EvalTransform
from egovlpv2.video.windows import Windows


@pytest.fixture
def slow_weights(make_backbone: Callable[..., Backbone], tmp_path: Path) -> Path:
    """A model whose projected features are wide, so that files grow in many steps."""
    save_backbone(make_backbone(projector=[16, 16, 2048]), tmp_path / "wide.safetensors")
    return tmp_path / "wide.safetensors"


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_videos_are_named_and_leave_nothing(weights: Path, tmp_path: Path, workers: int,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    for name in "acz":
        write(tmp_path / "in" / f"{name}.mp4")
    (tmp_path / "in" / "b.mp4").write_bytes(b"no video at all")
    short = write(tmp_path / "in" / "d.mp4", count=200, faststart=True)  # its header promises more than there is
    short.write_bytes(short.read_bytes()[:short.stat().st_size // 2])
    (tmp_path / "in" / "e.mp4").write_bytes(b"")
    with pytest.raises(SystemExit) as end:
        cli(["extract", str(tmp_path / "in"), *options(weights, tmp_path / "out", "--num-workers", workers)])
    assert end.value.code != 0 and "3 of 6 videos failed" in str(end.value)
    assert all(f"{name}.mp4" in str(end.value) for name in "bde") and "a.mp4" not in str(end.value)
    assert "3 of 6 videos written" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.safetensors" for name in "acz"}
    assert len(FeatureFolder(tmp_path / "out").read("z").values) == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_a_crash_leaves_nothing_half_written(weights: Path, tmp_path: Path, workers: int,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        write(tmp_path / "in" / f"{name}.mp4")
    command = [str(tmp_path / "in"), *options(weights, tmp_path / "out", "--num-workers", workers)]
    read = Windows.read

    def crash(self: Windows, source, duration: float, first: int, count: int) -> torch.Tensor:  # noqa: ANN001
        if (source.name, first) == ("b", 3):
            raise RuntimeError("a mistake of ours")
        return read(self, source, duration, first, count)

    with monkeypatch.context() as patch:
        patch.setattr(Windows, "read", crash)
        with pytest.raises(RuntimeError, match="a mistake of ours"):
            cli(["extract", *command])
    assert os.listdir(tmp_path / "out") == ["a.safetensors"]
    cli(["extract", *command])
    assert FeatureFolder(tmp_path / "out").names == {"a", "b"}


def test_features_reach_the_disk_as_they_come(slow_weights: Path, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    append, sizes = FeatureWriter.append, []

    def watch(self: FeatureWriter, values: torch.Tensor) -> None:
        append(self, values)
        sizes.append((tmp_path / "out" / "a.safetensors.partial").stat().st_size)
        assert not (tmp_path / "out" / "a.safetensors").exists()

    monkeypatch.setattr(FeatureWriter, "append", watch)
    cli(["extract", str(write(tmp_path / "a.mp4")), *options(slow_weights, tmp_path / "out", "--kind", "projected")])
    assert len(sizes) == 2 and sizes[0] > 4096 and sizes[1] - sizes[0] == 3 * 4096


def test_what_is_there_is_kept(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abc":
        write(tmp_path / "in" / f"{name}.mp4")
    command = [str(tmp_path / "in"), *options(weights, tmp_path / "out")]
    cli(["extract", *command])
    whole, stamp = contents(tmp_path / "out"), (tmp_path / "out" / "a.safetensors").stat().st_mtime_ns
    (tmp_path / "out" / "b.safetensors").rename(tmp_path / "out" / "b.safetensors.partial")  # left by a killed process
    (tmp_path / "out" / "c.safetensors").unlink()
    other = claim(tmp_path / "out" / "c.safetensors")  # another process is at it
    capsys.readouterr()
    cli(["extract", *command])
    assert "1 of 3 videos written" in (out := capsys.readouterr().out) and "2 already there or being written" in out
    assert sorted(os.listdir(tmp_path / "out")) == ["a.safetensors", "b.safetensors", "c.safetensors.partial"]
    other.release()
    cli(["extract", *command])
    assert contents(tmp_path / "out") == whole
    assert (tmp_path / "out" / "a.safetensors").stat().st_mtime_ns == stamp


def start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "egovlpv2.cli", "extract", *command], stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_killed_and_started_again_it_ends_with_the_same_files(slow_weights: Path, tmp_path: Path) -> None:
    for i, name in enumerate("abc"):
        write(tmp_path / "in" / f"{name}.mp4", 7 * i, 120)
    more = ("--kind", "projected", "--stride", "1", "--batch-size", "2", "--num-workers", "1")
    cli(["extract", str(tmp_path / "in"), *options(slow_weights, tmp_path / "uninterrupted", *more)])
    command = [str(tmp_path / "in"), *options(slow_weights, tmp_path / "out", *more)]
    process, partial = start(command), tmp_path / "out" / "b.safetensors.partial"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size > 20_000):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    left = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert "a.safetensors" in left and partial.name in left and "b.safetensors" not in left
    cli(["extract", *command])
    assert contents(tmp_path / "out") == contents(tmp_path / "uninterrupted")
    assert (tmp_path / "out" / "a.safetensors").stat().st_mtime_ns == left["a.safetensors"]


def stop_once_taken(process: subprocess.Popen[bytes], path: Path) -> None:
    """Stop a process once it holds the right to write a file, or has written it."""
    partial, deadline = path.with_name(f"{path.name}.partial"), time.monotonic() + 60
    while True:
        assert process.poll() is None and time.monotonic() < deadline
        process.send_signal(signal.SIGSTOP)
        if path.exists() or is_locked(partial):
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.002)


def is_locked(path: Path) -> bool:
    """True if a process holds a lock on a file; without the file, none does."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


def test_two_processes_share_the_videos(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(12):
        write(tmp_path / "in" / f"{i:02}x.mp4", 7 * i, 60)
    command = [str(tmp_path / "in"), *options(weights, tmp_path / "out", "--stride", "1")]
    process, first = start(command), tmp_path / "out" / "00x.safetensors"
    stop_once_taken(process, first)  # until this process has written one, too
    finish, mine = Claim.finish, []

    def count(self: Claim) -> None:
        finish(self)
        mine.append(self.path.stem)
        process.send_signal(signal.SIGCONT)

    monkeypatch.setattr(Claim, "finish", count)
    cli(["extract", *command])
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert int(re.search(rb"(\d+) of 12 videos written", printed)[1]) + len(mine) == 12  # each once
    assert "00x" not in mine and mine
    assert FeatureFolder(tmp_path / "out").names == {f"{i:02}x" for i in range(12)}
    assert len(os.listdir(tmp_path / "out")) == 12


def names_in_the_way(folder: Path) -> Path:
    """A folder with a good video and two whose names can't be used: too long with a suffix, and not UTF-8."""
    good = write(folder / "good.mp4")
    for name in ("料" * 80 + "abc.mp4", os.fsdecode(b"caf\xe9.mp4")):
        (folder / name).write_bytes(good.read_bytes())
    return folder


@pytest.mark.parametrize("command", ["extract", "index"])
def test_a_name_that_cant_be_written_fails_alone(weights: Path, tokenizer: str, tmp_path: Path, command: str) -> None:
    out, windows = tmp_path / "out", WINDOWS if command == "extract" else ()
    with pytest.raises(SystemExit) as end:
        cli([command, str(names_in_the_way(tmp_path / "in")), "--weights", str(weights), "--out", str(out),
             "--tokenizer", tokenizer, "--num-workers", "0", *windows])
    first, *failures = str(end.value.code).splitlines()
    assert first == f"egovlpv2 {command}: 2 of 3 videos failed:" and len(failures) == 2
    assert any(re.search(r"caf\udce9.mp4: the name is not UTF-8: rename it", line) for line in failures)
    assert any(re.search(r"料abc.mp4: .*: File name too long: give a shorter name", line) for line in failures)
    assert sorted(path.name for path in out.glob("*.safetensors")) == ["good.safetensors"]


def test_a_video_with_a_line_end_in_its_name_is_told_of_in_one_line(weights: Path, tmp_path: Path) -> None:
    write(tmp_path / "in" / "good.mp4")
    (tmp_path / "in" / "two\nlines\x1b[31m.mp4").write_bytes(b"not a video")
    with pytest.raises(SystemExit) as ended:
        cli(["extract", str(tmp_path / "in"), *options(weights, tmp_path / "out")])
    _, failure = str(ended.value).split("\n")
    assert failure.startswith(f"  {tmp_path}/in/two; lines\\x1b[31m.mp4 can't be opened")


def test_a_file_that_vanishes_fails_alone(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        write(tmp_path / "in" / f"{name}.mp4")
    find = extract.find_videos

    def find_and_lose(*args: object) -> object:
        found = find(*args)
        (tmp_path / "in" / "a.mp4").unlink()
        return found

    monkeypatch.setattr(extract, "find_videos", find_and_lose)
    with pytest.raises(SystemExit, match=r"1 of 2 videos failed:\n  .*a.mp4: .*No such file"):
        cli(["extract", str(tmp_path / "in"), *options(weights, tmp_path / "out")])
    assert os.listdir(tmp_path / "out") == ["b.safetensors"]


@pytest.mark.parametrize("problem", [ValueError("window 4: features are not finite"),
                                     OSError(errno.EFBIG, "File too large")])
def test_features_that_cant_be_written_fail_alone(weights: Path, tmp_path: Path, problem: Exception,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write(tmp_path / "in" / f"{name}.mp4")
    append = FeatureWriter.append

    def fail(self: FeatureWriter, values: torch.Tensor) -> None:
        if "b.safetensors" in self.file.name:
            raise problem
        append(self, values)

    monkeypatch.setattr(FeatureWriter, "append", fail)
    with pytest.raises(SystemExit, match=r"1 of 3 videos failed:\n  .*b.mp4: (window 4: features|File too large)"):
        cli(["extract", str(tmp_path / "in"), *options(weights, tmp_path / "out")])
    assert sorted(os.listdir(tmp_path / "out")) == ["a.safetensors", "c.safetensors"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_stops_all_in_one_line(weights: Path, tmp_path: Path, workers: int,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write(tmp_path / "in" / f"{name}.mp4")
    finish = FeatureWriter.finish

    def fail(self: FeatureWriter, unfused: torch.Tensor | None = None) -> None:
        if "b.safetensors" in self.file.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        finish(self, unfused)

    monkeypatch.setattr(FeatureWriter, "finish", fail)
    refused([str(tmp_path / "in"), *options(weights, tmp_path / "out", "--num-workers", workers)],
            r"error: [^\n]*out/b.safetensors: No space left on device: free some space, or write elsewhere\n\(EGO")
    assert os.listdir(tmp_path / "out") == ["a.safetensors"]


@pytest.mark.parametrize("workers", [0, 1])
def test_where_no_file_can_be_opened_any_more_all_stops(weights: Path, tmp_path: Path, workers: int,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is the machine's, so no video is reported as damaged."""
    for name in "abc":
        write(tmp_path / "in" / f"{name}.mp4")
    read = Windows.read

    def fail(self: Windows, source: VideoSource, *where: Any) -> torch.Tensor:
        if source.name == "b":
            monkeypatch.setattr(av, "open", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
            return read_frames(tmp_path / "in" / "c.mp4", [0.0], EvalTransform(8)).frames
        return read(self, source, *where)

    monkeypatch.setattr(Windows, "read", fail)
    refused([str(tmp_path / "in"), *options(weights, tmp_path / "out", "--num-workers", workers)],
            r"error: [^\n]*Too many open files[^\n]*\n\(EGO")
    assert "b.safetensors" not in os.listdir(tmp_path / "out")

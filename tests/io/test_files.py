"""Files are complete or absent, and drafts of killed processes are removed."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from egovlpv2.features.locks import claim, remove_left
from egovlpv2.io.files import atomic_write
from egovlpv2.io.folders import atomic_folder

LEFT = f"a.safetensors.{'0' * 32}.tmp"
# Writes part of a file and says so; then waits to be killed.
_WRITER = """
import sys, time
from pathlib import Path
from egovlpv2.features.locks import claim
from egovlpv2.io.files import atomic_write
def wait():
    print("writing", flush=True)
    time.sleep(60)
if sys.argv[1] == "whole":
    with atomic_write(Path("a.safetensors")) as draft:
        draft.write_bytes(b"half")
        wait()
else:
    taken = claim(Path("a.safetensors"))
    taken.draft.write(b"half")
    taken.draft.flush()
    wait()
"""


@pytest.fixture
def start(tmp_path: Path):  # noqa: ANN201
    """A function that starts a process which is in the middle of writing `a.safetensors`."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(how: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", _WRITER, how], cwd=tmp_path, stdout=subprocess.PIPE))
        assert started[-1].stdout.readline() == b"writing\n"
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_file_gets_its_name_once_it_is_whole(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "in" / "a") as draft:
        draft.write_bytes(b"whole")
        assert not (tmp_path / "in" / "a").exists()
    assert os.listdir(tmp_path / "in") == ["a"] and (tmp_path / "in" / "a").read_bytes() == b"whole"


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(KeyError), atomic_write(tmp_path / "a") as draft:
        draft.write_bytes(b"new")
        raise KeyError
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("write", [atomic_write, atomic_folder])
@pytest.mark.parametrize("call", ["open", "flock", "fsync"])
def test_a_signal_at_any_moment_leaves_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write,
                                                call: str) -> None:
    """A signal's handler raises between any two lines; here right after the call of `call`."""
    module = {"open": Path if write is atomic_write else os, "flock": fcntl, "fsync": os}[call]
    original = getattr(module, call)

    def interrupted(*args, **named):  # noqa: ANN002, ANN003, ANN202
        result = original(*args, **named)
        if not drafts and (seen := os.listdir(tmp_path)):
            drafts.update(seen)
            raise SystemExit(143)
        return result

    drafts: set[str] = set()
    monkeypatch.setattr(module, call, interrupted)
    with pytest.raises(SystemExit), write(tmp_path / "a"):
        pass
    monkeypatch.undo()
    assert len(drafts) == 1 and os.listdir(tmp_path) == []


def test_a_draft_of_a_killed_process_is_removed_by_the_next_and_one_that_is_written_is_not(
        tmp_path: Path, start) -> None:
    first, second = start("whole"), start("whole")
    assert len(os.listdir(tmp_path)) == 2
    kill(first)
    with atomic_write(tmp_path / "b") as draft:
        assert len(os.listdir(tmp_path)) == 2 and draft.exists()  # the second process's draft, and ours
    kill(second)
    with atomic_write(tmp_path / "a.safetensors") as draft:
        draft.write_bytes(b"whole")
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "b"]


def test_a_claim_of_a_killed_process_is_removed_and_one_that_is_held_is_not(tmp_path: Path, start) -> None:
    process = start("claim")
    remove_left(tmp_path)
    assert os.listdir(tmp_path) == ["a.safetensors.partial"] and claim(tmp_path / "a.safetensors") is None
    kill(process)
    remove_left(tmp_path)
    assert not os.listdir(tmp_path)


def test_other_peoples_files_stay(tmp_path: Path) -> None:
    names = ["a.tmp", f"a.{'0' * 31}.tmp", "a.partial", "b.mp4.partial", "a.safetensors"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / LEFT).touch()
    remove_left(tmp_path)
    with atomic_write(tmp_path / "c"):
        pass
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "c"])


def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    with atomic_write(tmp_path / ("é" * 127)) as draft:
        draft.write_bytes(b"whole")
    assert os.listdir(tmp_path) == ["é" * 127]


def test_a_full_disk_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    full = r"No space left on device: '.*/a.bin'"
    with pytest.raises(OSError, match=full) as found, atomic_write(tmp_path / "a.bin"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert found.value.errno == errno.ENOSPC and not os.listdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="other"), atomic_write(tmp_path / "a.bin"):
        (tmp_path / "other").read_bytes()  # of another file: as it is
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file'"), atomic_write(tmp_path / "file" / "a.bin"):
        pass


def test_a_device_or_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ValueError, match="is a device or a pipe, which would be replaced"), atomic_write(path):
            pass
        assert path.exists() and not path.is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]

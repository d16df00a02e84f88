"""Commands end with one line and an exit code for errors of users, files and the machine."""

import errno
import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentError
from pathlib import Path

import pytest
import torch
from features.test_extract import options, write
from forked import Forked, run
from safetensors import SafetensorError
from torch._utils import ExceptionWrapper

from egovlpv2.command.context import CommandContext, interrupts_held
from egovlpv2.command.errors import describe, one_line
from egovlpv2.video.container import VideoError
from egovlpv2.video.windows import Windows


def ended(error: BaseException) -> BaseException:
    """Run a command that raises `error`, and return its exit."""
    with pytest.raises(BaseException) as end, CommandContext("egovlpv2 x"):  # noqa: PT011, B017
        raise error
    return end.value


@pytest.mark.parametrize(("error", "line"), [
    (ValueError("a.mp4 is damaged:\n  twice\n"), "a.mp4 is damaged:; twice"),
    (VideoError("a.mp4 is empty"), "a.mp4 is empty"),
    (OSError(errno.ENOSPC, "No space left on device", "a.png"),
     "a.png: No space left on device: free some space, or write elsewhere"),
    (OSError(errno.EACCES, "Permission denied", "draft", None, "b.png"),
     "b.png: Permission denied: change its permissions, or give another path"),
    (OSError(errno.ENAMETOOLONG, "File name too long", b"caf\xe9"),
     "caf\udce9: File name too long: give a shorter name"),
    (FileNotFoundError("there is no a.mp4"), "there is no a.mp4"),
    (ArgumentError(None, "no --fbs"), "no --fbs (`egovlpv2 x --help` lists the options)"),
    (SafetensorError("a header too large"), "a header too large"),
    (RecursionError("maximum recursion depth exceeded"),
     "something that was given is nested too deeply, a JSON file or an option's value: simplify it"),
    (ValueError(""), "ValueError"),
])
def test_errors_of_users_files_and_machines_are_one_line(error: BaseException, line: str) -> None:
    end = ended(error)
    assert isinstance(end, SystemExit)
    assert end.code == f"egovlpv2 x: error: {line}\n(EGOVLPV2_DEBUG=1 shows where)"


@pytest.mark.parametrize(("error", "words"), [
    (MemoryError(), "the memory doesn't suffice"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "the memory doesn't suffice"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
     "the memory doesn't suffice"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "a helper process was killed"),
])
def test_a_machine_that_is_too_small_is_told(error: BaseException, words: str) -> None:
    assert words in str(ended(error)) and "--batch-size" in str(ended(error))


@pytest.mark.parametrize("error", [AssertionError("not n"), TypeError("2"), KeyError("a"), RuntimeError("other"),
                                   AttributeError("x"), ZeroDivisionError()])
def test_mistakes_of_ours_stay_tracebacks(error: Exception) -> None:
    assert ended(error) is error and describe(error) is None


@pytest.mark.parametrize(("error", "line"), [
    (VideoError("a.mp4 breaks at 3 s: fetch it again"), "a.mp4 breaks at 3 s: fetch it again"),
    (ValueError("a.mp4 is wrong:\n  one\n  two"), "a.mp4 is wrong:; one; two"),
    (OSError(errno.EIO, "Input/output error", "a.mp4"), "[Errno 5] Input/output error: 'a.mp4'"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),  # torch can't build such an error anew
     "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    (TypeError("2"), None),
])
def test_errors_in_a_workers_process_are_one_line_too(error: Exception, line: str | None) -> None:
    try:
        raise error
    except Exception:
        passed_on = ExceptionWrapper(where="in DataLoader worker process 0")  # as a worker does
    with pytest.raises(Exception, match="^Caught ") as caught:
        passed_on.reraise()
    assert describe(caught.value) == line


def test_control_signs_in_names_do_not_reach_the_terminal() -> None:
    assert one_line("a\x1b[2J\n\tb\u202e 料理 \udce9 é") == "a\\x1b[2J; b\\u202e 料理 \udce9 é"


def test_debugging_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGOVLPV2_DEBUG", "1")
    error = ValueError("x")
    assert ended(error) is error


@pytest.mark.parametrize(("number", "code", "words"), [
    (signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 129, "SIGHUP")])
def test_a_signal_has_its_exit_code(number: int, code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    before, tidied = signal.getsignal(number), []
    with pytest.raises(SystemExit) as end, CommandContext("egovlpv2 x"):
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)  # once more, at once: it does not break the tidying up
            tidied.append(True)
    assert end.value.code == code and tidied and signal.getsignal(number) is before
    assert capsys.readouterr().err == f"egovlpv2 x: stopped by {words}; what is finished stays\n"


def test_a_stop_that_a_library_turned_into_its_own_error_is_a_stop() -> None:
    with pytest.raises(SystemExit) as end, CommandContext("egovlpv2 x"):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("numpy is broken") from None
    assert end.value.code == 130


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # `nohup`
    try:
        with CommandContext("egovlpv2 x"):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_does_not_reach_fresh_processes() -> None:
    with interrupts_held():
        child = subprocess.Popen([sys.executable, "-c", "import signal; print(signal.pthread_sigmask(0, []))"],
                                 stdout=subprocess.PIPE, text=True)
    assert "SIGINT" in child.communicate()[0] and signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "\nState:\tZ" not in status.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems don't tell a process of its parent's end")
def test_forked_helpers_end_with_a_killed_command(tmp_path: Path) -> None:
    note, command = tmp_path / "helper", os.fork()
    if not command:
        with CommandContext("egovlpv2 x"):
            helper = os.fork()
            if helper:
                note.with_suffix(".new").write_text(str(helper))
                note.with_suffix(".new").rename(note)
            time.sleep(60)
        os._exit(0)
    while not note.exists():
        time.sleep(0.01)
    helper = int(note.read_text())
    assert is_alive(helper)
    os.kill(command, signal.SIGKILL)
    os.waitpid(command, 0)
    deadline = time.monotonic() + 30
    while is_alive(helper):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def shell(command: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    python = f"'{sys.executable}' -m egovlpv2.cli"
    return subprocess.run(["bash", "-c", command.replace("egovlpv2", python)], capture_output=True,
                          env={**os.environ, "PYTHONUNBUFFERED": "", **env})


@pytest.mark.parametrize(("command", "code", "err"), [
    ("egovlpv2 --help | true; exit ${PIPESTATUS[0]}", 141, b""),
    ("egovlpv2 --help > /dev/full", 1, b"egovlpv2: error: standard output: No space left on device: free some space, "
                                       b"or write elsewhere\n(EGOVLPV2_DEBUG=1 shows where)\n"),
    ("egovlpv2 --help >&-", 0, b""),
    ("egovlpv2 $'caf\\xe9'", 1, b"egovlpv2: error: there is no command `caf\\udce9` (`egovlpv2 --help` lists them)\n"
                                b"(EGOVLPV2_DEBUG=1 shows where)\n"),
])
def test_streams_that_take_nothing(command: str, code: int, err: bytes) -> None:
    ended = shell(command, PYTHONUTF8="1")
    assert (ended.returncode, ended.stderr) == (code, err)


def test_richs_end_at_a_closed_pipe_is_that_of_the_signal() -> None:
    with pytest.raises(SystemExit) as end, CommandContext("egovlpv2 fit"):
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            raise SystemExit(1)  # noqa: B904 (as rich does)
    assert end.value.code == 141


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_terminal_can_show_any_text(encoding: str) -> None:
    code = ("from egovlpv2.command.context import CommandContext\n"
            "with CommandContext('egovlpv2 x'):\n print('gate α 🍳 é caf\\udce9')\n"
            " raise ValueError('料理.mp4 is missing')")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True,
                           env={**os.environ, "PYTHONIOENCODING": encoding})
    shown = "gate α 🍳 é caf\udce9".encode(encoding, "backslashreplace")
    assert ended.returncode == 1 and ended.stdout == shown + b"\n"
    assert "料理.mp4 is missing".encode(encoding, "backslashreplace") in ended.stderr and b"Trace" not in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_stopped_extraction_is_one_line_and_leaves_what_is_finished(
        weights: Path, tmp_path: Path, number: int, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        write(tmp_path / "in" / f"{name}.mp4")
    read = Windows.read

    def wait(self: Windows, source: object, duration: float, first: int, count: int) -> torch.Tensor:
        if (source.name, first) == ("b", 3):
            (tmp_path / "there").touch()
            time.sleep(60)
        return read(self, source, duration, first, count)

    monkeypatch.setattr(Windows, "read", wait)
    command = ["extract", tmp_path / "in", *options(weights, tmp_path / "out", "--num-workers", workers)]
    stopped = Forked(command, tmp_path / "log", group=True)
    stopped.wait_until(lambda: (tmp_path / "there").exists() and (tmp_path / "out" / "a.safetensors").exists())
    stopped.send(number)
    assert stopped.wait() == 128 + number
    lines = [line for line in stopped.printed.replace("\r", "\n").splitlines() if line and "%|" not in line]
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert lines == [f"egovlpv2 extract: stopped by {name}; what is finished stays"]
    assert os.listdir(tmp_path / "out") == ["a.safetensors"]


def test_a_killed_worker_is_one_line(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in" / "a.mp4")
    monkeypatch.setattr(Windows, "read", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    code, printed = run(["extract", tmp_path / "in", *options(weights, tmp_path / "out", "--num-workers", 1)],
                        tmp_path / "log")
    assert code == 1 and "egovlpv2 extract: error: a helper process was killed" in printed and "Trace" not in printed
    assert os.listdir(tmp_path / "out") == []

"""Preparation of several videos at a time, each in its own process, so that a crash affects one video only."""

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import av
from tqdm import tqdm

from egovlpv2.command.context import interrupts_held
from egovlpv2.command.cores import usable_cores
from egovlpv2.command.errors import describe, one_line
from egovlpv2.video.encode import Settings
from egovlpv2.video.prepared import BusyError, clear, hold, prepare_video

_SIGN_OF_LIFE = 0.2  # seconds
_MOST_THREADS = 4  # of a decoder
_PATIENCE = 30.0  # seconds that a process has to end after SIGTERM
_BUSY = "busy"  # status of a video that another command is preparing


def prepare_all(videos: Sequence[Path], out: Path, settings: Settings, workers: int) -> Generator[
        tuple[Path, float | dict[str, Any]]]:
    """Prepare videos. Those that another command is preparing are left to the end, and waited for.

    Args:
        videos: The files.
        out: The folder in which each video gets a folder.
        settings: Of the chunks.
        workers: Number of processes.

    Yields:
        A video, and the seconds of it that are done or its outcome: its `status`, and the figures of `prepare_video` or
        the `reason` why it failed.
    """
    threads = _threads(len(videos), workers)
    waiting = [(path, False) for path in reversed(videos)]  # True: wait for another command
    running: dict[Connection, tuple[BaseProcess, Path]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                path, is_patient = waiting.pop()
                process, receiver = _start(path, out / path.stem, settings, threads, is_patient)
                running[receiver] = process, path
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                process, path = running[ready]
                message = _receive(ready, process, path, out / path.stem)
                if isinstance(message, dict):
                    del running[ready]
                    process.join()
                    if message["status"] == _BUSY:
                        tqdm.write(f"another process prepares {path.name}: it is waited for after the others")
                        waiting.insert(0, (path, True))
                        continue
                yield path, message
    finally:
        _stop([process for process, _ in running.values()])


def _threads(videos: int, workers: int) -> int:
    """Choose the threads of each decoder, which use the cores that few videos leave idle."""
    return min(max(usable_cores() // min(workers, videos), 1), _MOST_THREADS) if videos else 1


def _start(path: Path, folder: Path, settings: Settings, threads: int, is_patient: bool) -> tuple[
        BaseProcess, Connection]:
    """Start a process that prepares a video, and return it with the pipe of its messages."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_child, args=(path, folder, settings, threads, is_patient, sender), daemon=True)
    with interrupts_held():  # the command handles Ctrl-C and stops the process
        process.start()
    sender.close()  # so that the end of the process ends the pipe
    return process, receiver


def _receive(receiver: Connection, process: BaseProcess, path: Path, folder: Path) -> float | dict[str, Any]:
    """Receive the next message of a process; the chunks of a process that has died are removed."""
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        reason = f"{path.name}: its process ended by {process.exitcode}"
        try:
            with suppress(BusyError), hold(folder):
                clear(folder)
        except OSError as error:
            reason += f", and {folder} can't be cleared ({error.strerror})"
        return {"status": "failed", "reason": reason}


def _stop(processes: Sequence[BaseProcess]) -> None:
    """End processes, which remove their unfinished files."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_PATIENCE)
        process.kill()


def _child(path: Path, folder: Path, settings: Settings, threads: int, is_patient: bool, sender: Connection) -> None:
    """Run in a process: send the seconds done, again and again, and finally the outcome."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)
    last = 0.0

    def on_progress(seconds: float) -> None:
        nonlocal last
        if time.monotonic() - last >= _SIGN_OF_LIFE:
            last = time.monotonic()
            _send(sender, seconds)

    def pause() -> None:
        time.sleep(_SIGN_OF_LIFE)
        _send(sender, 0.0)

    _send(sender, _outcome(path, folder, settings, threads, on_progress, pause if is_patient else None))


def _outcome(path: Path, folder: Path, settings: Settings, threads: int, on_progress: Callable[[float], None],
             pause: Callable[[], None] | None) -> dict[str, Any]:
    """Prepare a video and return its outcome."""
    try:
        return {"status": "done", **prepare_video(path, folder, settings, threads, on_progress, pause)}
    except BusyError:
        return {"status": _BUSY}
    except (ValueError, OSError, av.FFmpegError) as error:
        return {"status": "failed", "reason": as_reason(error, path)}


def as_reason(error: Exception, path: Path) -> str:
    """Describe an error, with the video's name in place of its path."""
    name = one_line(path.name)
    reason = str(describe(error)).replace(one_line(str(path)), name)
    return reason if name in reason else f"{name}: {reason}"


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    """Leave, once: a second signal, sent to the whole group, must not stop the removal of unfinished files."""
    for repeated in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(repeated, signal.SIG_IGN)
    sys.exit(128 + number)


def _send(sender: Connection, message: float | dict[str, Any]) -> None:
    """Send a message to the command; if it is gone, end the process, whose finished chunks stay."""
    try:
        sender.send(message)
    except BrokenPipeError:
        sys.exit(1)

"""Videos prepared several at a time, each in a process of its own: one that crashes takes no other along."""

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
_PATIENCE = 30.0  # seconds that a process has to end when it is told to
_BUSY = "busy"  # status of a video that another command is at


def prepare_all(videos: Sequence[Path], out: Path, settings: Settings, workers: int) -> Generator[
        tuple[Path, float | dict[str, Any]]]:
    """Prepare videos. Those that another command is at come last, and are waited for.

    Args:
        videos: The files.
        out: The folder of their folders.
        settings: What the chunks are like.
        workers: Processes.

    Yields:
        A video and the seconds of it that are done, or what has come of it: its `status` and the figures of
        `prepare_video`, or the `reason` why it failed.
    """
    threads = _threads(len(videos), workers)
    waiting = [(path, False) for path in reversed(videos)]  # and whether to wait for another command
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
    """Threads of each decoder: what would lie idle when there are few videos."""
    return min(max(usable_cores() // min(workers, videos), 1), _MOST_THREADS) if videos else 1


def _start(path: Path, folder: Path, settings: Settings, threads: int, is_patient: bool) -> tuple[
        BaseProcess, Connection]:
    """A process that prepares a video, and what it sends."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_child, args=(path, folder, settings, threads, is_patient, sender), daemon=True)
    with interrupts_held():  # Ctrl-C is the command's, which stops it
        process.start()
    sender.close()  # so that the end of the process ends the pipe
    return process, receiver


def _receive(receiver: Connection, process: BaseProcess, path: Path, folder: Path) -> float | dict[str, Any]:
    """What a process says next; a process that has died leaves no chunk."""
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
    """End processes, which remove what they haven't finished."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_PATIENCE)
        process.kill()


def _child(path: Path, folder: Path, settings: Settings, threads: int, is_patient: bool, sender: Connection) -> None:
    """A process's life: sends the seconds done, again and again, and at last the outcome."""
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
    """What has come of a video."""
    try:
        return {"status": "done", **prepare_video(path, folder, settings, threads, on_progress, pause)}
    except BusyError:
        return {"status": _BUSY}
    except (ValueError, OSError, av.FFmpegError) as error:
        return {"status": "failed", "reason": as_reason(error, path)}


def as_reason(error: Exception, path: Path) -> str:
    """What an error says, with the video's name alone in it."""
    name = one_line(path.name)
    reason = str(describe(error)).replace(one_line(str(path)), name)
    return reason if name in reason else f"{name}: {reason}"


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _send(sender: Connection, message: float | dict[str, Any]) -> None:
    """Tell the command; without one, the process ends, and what is finished stays for the next."""
    try:
        sender.send(message)
    except BrokenPipeError:
        sys.exit(1)

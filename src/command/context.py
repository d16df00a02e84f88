"""The border of the program: exit codes and one-line errors for what a user, a file or the machine did.

A mistake of ours (an `AssertionError`, a `TypeError`, ...) stays a traceback.
"""

import argparse
import ctypes
import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from types import FrameType, TracebackType
from typing import NoReturn, TextIO

from egovlpv2.command.errors import describe
from egovlpv2.command.signals import SAME_STOP, STOPS, Handler

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


class Stopped(KeyboardInterrupt):
    """A signal asks the program to end; libraries tidy up as they do for Ctrl-C.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class CommandContext:
    """A context for a command: what goes wrong in it for no mistake of ours ends the program in one line.

    Exit codes: 1 for an error, 128 + n for signal n (130 Ctrl-C, 143 SIGTERM, 129 SIGHUP), 141 where nobody reads what
    is printed any more.

    Args:
        command: What messages begin with, such as `egovlpv2 extract`.
        stops: Signals that end the command; others are handled as they were.
    """

    _open = 0  # borders that this process is within
    _parent = 0  # the process whose main thread forks

    def __init__(self, command: str, stops: Iterable[int] = STOPS) -> None:
        self.command, self.stops = command, tuple(stops)
        self.stopped, self.when = 0, 0.0
        self.before: dict[int, Handler] = {}

    def __enter__(self) -> None:
        _mend_streams()
        CommandContext._open += 1
        if threading.current_thread() is threading.main_thread():  # others can't
            for number in self.stops:
                if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup`, or in the background of a script
                    self.before[number] = signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        now, last, self.when = time.monotonic(), self.when, time.monotonic()
        if not self.stopped or now - last > SAME_STOP:
            self.stopped = self.stopped or number
            raise Stopped(number)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        CommandContext._open -= 1
        for number, handler in self.before.items():
            signal.signal(number, handler)
        try:
            sys.stdout.flush()
        except OSError as problem:
            if error is None or isinstance(error, SystemExit):
                problem.filename, error = "standard output", problem
        if error is not None:
            self._end(error)

    def _end(self, error: BaseException) -> None:
        """Ends the program for an error that is not our mistake; returns for others."""
        if self.stopped or isinstance(error, KeyboardInterrupt):  # libraries may turn a stop into an error of theirs
            number = self.stopped or getattr(error, "number", signal.SIGINT)
            name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            self._say(128 + number, f"stopped by {name}; what is finished stays", error)
        gone = _reader_is_gone(sys.stdout) or _reader_is_gone(sys.stderr)
        if isinstance(error, BrokenPipeError) and gone:
            self._say(128 + signal.SIGPIPE, "", error)
        if isinstance(error, SystemExit) or os.environ.get("EGOVLPV2_DEBUG"):
            return
        line = describe(error)
        if isinstance(error, argparse.ArgumentError):  # jsonargparse's; `CommandParser` says so itself
            line = f"{line} (`{self.command} --help` lists the options)"
        if line is not None:
            _silence_if_stuck(sys.stdout)
            raise SystemExit(f"{self.command}: error: {line}\n(EGOVLPV2_DEBUG=1 shows where)") from error

    def _say(self, code: int, text: str, error: BaseException) -> NoReturn:
        if text:
            with suppress(OSError):
                print(f"{self.command}: {text}", file=sys.stderr, flush=True)
        for stream in (sys.stdout, sys.stderr):
            _silence_if_stuck(stream)
        raise SystemExit(code) from error

    @classmethod
    def look_before_fork(cls) -> None:
        """Note who forks: a thread that is not the main one may end long before its process."""
        cls._parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0

    @classmethod
    def follow_the_parent(cls) -> None:
        """In a forked process, such as a loader's worker: it ends with the command, and leaves all messages to it.

        Ctrl-C reaches it too. It ends then as if its work was done: torch raises an error in the command, and so in its
        tidying up, for others. Torch lets a worker live on whose command was killed before the worker looked for it.
        """
        if cls._open:
            if cls._parent and sys.platform == "linux":
                ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
                if os.getppid() != cls._parent:  # killed before
                    os._exit(0)
            sys.excepthook = lambda *error: None  # of threads that serve tensors to a command which is being stopped
            signal.signal(signal.SIGINT, lambda number, frame: os._exit(0))
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)


os.register_at_fork(before=CommandContext.look_before_fork, after_in_child=CommandContext.follow_the_parent)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """A context to start fresh (not forked) processes in: Ctrl-C doesn't reach them, and this one tells of it."""
    resource_tracker.ensure_running()  # else the first start does it, which lets interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # children inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _mend_streams() -> None:
    """Makes the streams print any text on any terminal, `\\udce9` for what it has no sign for."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller (`>&-`)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open to the end)
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _reader_is_gone(stream: TextIO) -> bool:
    """Whether a stream is a pipe that nobody reads any more."""
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except (ValueError, OSError):  # not a file of the system
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _silence_if_stuck(stream: TextIO) -> None:
    """Keeps what can't be written from being tried again, with a message, when the interpreter ends."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)

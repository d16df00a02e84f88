"""Exit codes and one-line messages of commands, for signals and for errors of the user, a file or the machine.

Errors of the program itself (an `AssertionError`, a `TypeError`, ...) keep their traceback.
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
    """An exception raised for a signal that ends the program; libraries clean up as for Ctrl-C.

    Args:
        number: The signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class CommandContext:
    """A context for a command that ends the program with one line for errors that are not the program's own.

    Exit codes: 1 for an error, 128 + n for signal n (130 Ctrl-C, 143 SIGTERM, 129 SIGHUP), 141 if the reader of the
    output is gone.

    Args:
        command: Prefix of messages, such as `egovlpv2 extract`.
        stops: Signals that end the command; the handlers of others stay.
    """

    _open = 0  # contexts that this process is in
    _parent = 0  # the process whose main thread forks

    def __init__(self, command: str, stops: Iterable[int] = STOPS) -> None:
        self.command, self.stops = command, tuple(stops)
        self.stopped, self.when = 0, 0.0
        self.before: dict[int, Handler] = {}

    def __enter__(self) -> None:
        _mend_streams()
        CommandContext._open += 1
        if threading.current_thread() is threading.main_thread():  # others can't set handlers
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
        """End the program for an error that is not its own; return for others."""
        if self.stopped or isinstance(error, KeyboardInterrupt):  # libraries may turn it into an error of their own
            number = self.stopped or getattr(error, "number", signal.SIGINT)
            name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            self._exit(128 + number, f"stopped by {name}; what is finished stays", error)
        gone = _reader_is_gone(sys.stdout) or _reader_is_gone(sys.stderr)
        if (isinstance(error, BrokenPipeError) and gone) or _is_richs_end(error):
            self._exit(128 + signal.SIGPIPE, "", error)
        if isinstance(error, SystemExit) or os.environ.get("EGOVLPV2_DEBUG"):
            return
        line = describe(error)
        if isinstance(error, argparse.ArgumentError):  # jsonargparse's; `CommandParser` adds the hint itself
            line = f"{line} (`{self.command} --help` lists the options)"
        if line is not None:
            _silence_if_stuck(sys.stdout)
            raise SystemExit(f"{self.command}: error: {line}\n(EGOVLPV2_DEBUG=1 shows where)") from error

    def _exit(self, code: int, text: str, error: BaseException) -> NoReturn:
        if text:
            with suppress(OSError):
                print(f"{self.command}: {text}", file=sys.stderr, flush=True)
        for stream in (sys.stdout, sys.stderr):
            _silence_if_stuck(stream)
        raise SystemExit(code) from error

    @classmethod
    def look_before_fork(cls) -> None:
        """Note the process before a fork, if its main thread forks: other threads may end long before it."""
        cls._parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0

    @classmethod
    def follow_the_parent(cls) -> None:
        """Make a forked process, such as a loader's worker, end with the command, silently.

        At Ctrl-C, which reaches it too, it exits with 0, as torch would raise an error in the command, and so in its
        cleanup, for other codes. torch doesn't end a worker whose command was killed before the worker first checked.
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
    """Block Ctrl-C while new (not forked) processes are started, so that only this one receives it."""
    resource_tracker.ensure_running()  # otherwise the first start does it, which unblocks interrupts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # children inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _mend_streams() -> None:
    """Make the streams print any text on any terminal, with escapes such as `\\udce9` for missing characters."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller (`>&-`)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open to the end)
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _reader_is_gone(stream: TextIO) -> bool:
    """Tell if a stream is a pipe whose reader is gone."""
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except (ValueError, OSError):  # not an operating system's file
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _is_richs_end(error: BaseException) -> bool:
    """Tell if rich, which draws Lightning's progress, has ended the program as the reader of its output is gone."""
    return isinstance(error, SystemExit) and error.code == 1 and isinstance(error.__context__, BrokenPipeError)


def _silence_if_stuck(stream: TextIO) -> None:
    """Redirect a stream that can't be written, as the interpreter would try again, with a message, at its end."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)

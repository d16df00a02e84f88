"""Signals that end a run, at once if nothing would be lost, otherwise at the end of a step."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None
"""Value of `signal.getsignal`."""

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_STOP = 2.0  # seconds within which a signal that comes twice, as from `make` or `srun`, counts once


class StopRequest:
    """A request to end the run, set by a signal and checked where the run can stop.

    Args:
        signals: Their numbers. One that the caller of the program ignores, as `nohup` does, stays ignored.
    """

    def __init__(self, *signals: int) -> None:
        self.signals = signals
        self.number: int | None = None  # of the signal received
        self.saving = False  # True while a checkpoint is written, which no signal aborts
        self._since = 0.0
        self._before: dict[int, Handler] = {}
        self._process = os.getpid()

    def listen(self) -> None:
        """Handle the signals, if this is the main thread, as others can't."""
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)

    def close(self) -> None:
        """Restore the handlers from before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def ignore_more(self) -> None:
        """Ignore signals, and the ends of workers, until the process ends, if something outside is about to end it."""
        for number in {*self._before, signal.SIGCHLD}:
            signal.signal(number, _nothing)
        self._before = {}

    def adopt(self, number: int) -> None:
        """Act on a signal that has reached another process of the run, and take the same one as a repetition."""
        if number != self.number:
            self.number, self._since = number, time.monotonic()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            leave_in_child(number)
        elif self.number is None:
            self.adopt(number)
            # The same signal may have ended a worker of the loader, for which torch would raise an error during a step.
            self._before.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, _nothing))
        elif not self.saving and time.monotonic() - self._since > SAME_STOP:
            end(number, "stopped at once, without another checkpoint")


def _nothing(number: int, frame: FrameType | None) -> None:
    """Handle a signal by doing nothing."""


def leave_in_child(number: int) -> None:
    """Handle a signal in a forked process: end for SIGTERM and SIGHUP, and leave others to the parent.

    A terminal sends Ctrl-C, and SLURM its requeue signal, to the workers of a loader too. Without them the processes of
    a run could not finish the step after which they stop together.
    """
    if number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def end(number: int, text: str) -> NoReturn:
    """End the program with the exit code of a signal and a line with the reason.

    Raises:
        SystemExit: 128 and the signal's number: 130 for Ctrl-C, 143 for SIGTERM.
    """
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    # Set by torchrun, by Lightning for the processes that it starts, and by SLURM.
    ranks = [os.environ[variable] for variable in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if variable in os.environ]
    if not ranks or int(ranks[0]) == 0:
        print(f"egovlpv2: {name}: {text}", file=sys.stderr, flush=True)
    raise SystemExit(128 + number)


@contextmanager
def ending_on_signals(text: str) -> Iterator[None]:
    """Make a signal of `STOPS` end the program at once, with a line and its exit code."""
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            leave_in_child(number)
        else:
            # The same signal may have ended a worker of the loader, for which torch would raise an error instead.
            before.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, _nothing))
            end(number, text)

    before: dict[int, Handler] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handle) for number in STOPS
                  if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

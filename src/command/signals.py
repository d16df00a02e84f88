"""Signals that end a run: at once where nothing would be lost, at the end of a step where something would."""

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
SAME_STOP = 2.0  # seconds: a terminal, `make` or `srun` may send a signal twice, which shall break nothing off


class StopRequest:
    """A request to end, made by a signal and fulfilled where the run can be left.

    Args:
        signals: Those that ask. One that the caller of the program ignores, as `nohup` does, stays ignored.
    """

    def __init__(self, *signals: int) -> None:
        self.signals = signals
        self.number: int | None = None  # of the signal that asked
        self.saving = False  # a checkpoint is being written: no signal breaks that off
        self._since = 0.0
        self._before: dict[int, Handler] = {}
        self._process = os.getpid()

    def listen(self) -> None:
        """Handle the signals, if this is the main thread: others can't."""
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._ask)

    def close(self) -> None:
        """Handle the signals as before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            leave_in_child(number)
        elif self.number is None:
            self.number, self._since = number, time.monotonic()
            # The same signal may have ended a worker of the loader: torch would raise an error in the midst of a step.
            self._before.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, _nothing))
        elif not self.saving and time.monotonic() - self._since > SAME_STOP:
            end(number, "stopped at once, without another checkpoint")


def _nothing(number: int, frame: FrameType | None) -> None:
    """Handle a signal by doing nothing."""


def leave_in_child(number: int) -> None:
    """Handle a signal in a forked process: Ctrl-C is the parent's, the others end the process."""
    if number != signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def end(number: int, text: str) -> NoReturn:
    """End the program with the exit code of a signal and a line that says why.

    Raises:
        SystemExit: 128 and the signal's number: 130 for Ctrl-C, 143 for SIGTERM.
    """
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    if int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", "0"))) == 0:
        print(f"egovlpv2: {name}: {text}", file=sys.stderr, flush=True)
    raise SystemExit(128 + number)


@contextmanager
def ending_on_signals(text: str) -> Iterator[None]:
    """A context in which a signal of `STOPS` ends the program at once, with a line and its exit code."""
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            leave_in_child(number)
        else:
            end(number, text)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handle) for number in STOPS
                  if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

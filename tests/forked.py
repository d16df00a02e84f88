"""Commands in forked processes: all is imported there already, so a command starts at once and can be killed soon."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from egovlpv2.cli import main


class Forked:
    """A command that runs in a process of its own, ending as the interpreter would end it.

    Args:
        arguments: Of `egovlpv2`.
        log: A file for what it prints.
        before: Called in the process first, such as to make the system fail.
        group: Whether it gets a process group, as a terminal would give it: signals then reach its workers too.
    """

    def __init__(self, arguments: Sequence[object], log: Path, before: Callable[[], None] = lambda: None,
                 group: bool = False) -> None:
        self.log, self.group = log, group
        self.pid = os.fork()
        if not self.pid:
            self._live(list(map(str, arguments)), before)

    def _live(self, arguments: list[str], before: Callable[[], None]) -> None:
        code = 1
        try:
            if self.group:
                os.setpgid(0, 0)
            out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            before()
            main(arguments)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def send(self, number: int) -> None:
        """Send a signal to it, or to its group."""
        (os.killpg if self.group else os.kill)(self.pid, number)

    def wait_until(self, reached: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait for something that the command does.

        Raises:
            TimeoutError: It does not come, or the command has ended without.
        """
        deadline = time.monotonic() + seconds
        while not reached():
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) or time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                raise TimeoutError(f"it did not come to that:\n{self.printed}")
            time.sleep(0.002)

    def wait(self, seconds: float = 60.0) -> int:
        """Wait for its end: the exit code, or the number of the signal that killed it, negative.

        Raises:
            TimeoutError: It hangs.
        """
        deadline = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"no end after {seconds:g} s:\n{self.printed}")
            time.sleep(0.002)

    @property
    def printed(self) -> str:
        """Its output so far."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


def run(arguments: Sequence[object], log: Path, before: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """Run a command to its end: the exit code and what it printed."""
    command = Forked(arguments, log, before)
    return command.wait(), command.printed

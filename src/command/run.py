"""Run a typed function as a command."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from egovlpv2.command.parser import parse_options
from egovlpv2.command.signature import Command, read_signature


@runtime_checkable
class PartialResult(Protocol):
    """A result of which some parts may have failed."""

    @property
    def failed(self) -> str:
        """Description of the parts that have failed; empty if none has."""


def run(name: str, command: Command, argv: Sequence[str]) -> None:
    """Parse options, call the function and print its result.

    Raises:
        ValueError: An option is wrong, or what the function raises.
        SystemExit: Some parts have failed; lists them.
    """
    arguments = parse(name, command, argv)
    function = getattr(import_module(command.module), command.function)
    with _printed_notices():
        result = function(**arguments)
    if result is not None:
        print(result)
    if isinstance(result, PartialResult) and result.failed:
        sys.stdout.flush()
        raise SystemExit(f"egovlpv2 {name}: {result.failed}")


class _Printer(logging.Handler):
    """Print notices on the standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage())


@contextmanager
def _printed_notices() -> Iterator[None]:
    """A context in which the notices that functions log are printed."""
    logger, printer = logging.getLogger("egovlpv2"), _Printer(logging.WARNING)
    logger.addHandler(printer)
    try:
        yield
    finally:
        logger.removeHandler(printer)


def parse(name: str, command: Command, argv: Sequence[str]) -> dict[str, Any]:
    """Parse the options of a command without running it.

    Raises:
        ValueError: An option is unknown, wrong, missing, or empty.
    """
    signature = read_signature(command.module, command.function)
    signature = signature._replace(summary=command.summary or signature.summary)
    return parse_options(f"egovlpv2 {name}", signature, command.positional, argv, dict(command.options))

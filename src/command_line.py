"""What the options of all commands share: errors of one line, and checks of numbers and texts."""

import argparse
import sys
from collections.abc import Callable, Sequence
from math import isfinite
from typing import NoReturn, TypeVar

N = TypeVar("N", int, float)


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others of a command; it takes no empty values."""

    def parse_args(self, args: Sequence[str] | None = None,  # type: ignore[override]
                   namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        """Read the options.

        Raises:
            ValueError: One is wrong, or empty: an unset variable of the shell is mostly why.
        """
        given = list(sys.argv[1:] if args is None else args)
        for before, value in zip(["", *given], given, strict=False):
            name, equals, rest = value.partition("=") if value.startswith("--") else (before, "=", value)
            if equals and not rest:
                raise ValueError(f"{name if name.startswith('--') else 'an argument'} is empty: give a value")
        return super().parse_args(given, namespace)

    def error(self, message: str) -> NoReturn:
        """End the parsing.

        Raises:
            ValueError: Always; says what is wrong and where the options are listed.
        """
        raise ValueError(f"{message.removeprefix('argument ')} (`{self.prog} --help` lists the options)")


def require_text(option: str, text: str, hint: str) -> None:
    """Refuse a text that is empty or can't be read.

    Args:
        option: Where it was given, such as `--text`.
        text: What was given.
        hint: What to give, for the message.

    Raises:
        ValueError: It is empty, or its bytes are not in the terminal's encoding.
    """
    if not text.strip():
        raise ValueError(f"{option} is empty: {hint}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{option} {text!r} can't be read as text: type it in the terminal's encoding, UTF-8 for most"
                         ) from error


def at_least(least: N) -> Callable[[str], N]:
    """Make a type of an option: a finite number that is not below `least`, whole if `least` is.

    Args:
        least: The smallest number that is taken.
    """

    def read(text: str) -> N:
        try:
            value = type(least)(text)
        except ValueError:
            value = None
        if value is None or not isfinite(value) or value < least:
            kind = "a whole number" if isinstance(least, int) else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} can't be taken: give {kind}, {least} at least")
        return value

    return read

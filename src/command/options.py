"""Checks of numbers and texts that are given as options."""

import argparse
from collections.abc import Callable
from math import inf, isfinite
from typing import TypeVar

N = TypeVar("N", int, float)


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


def at_least(least: N, most: float = inf) -> Callable[[str], N]:
    """Make a type of an option: a finite number from `least` on, whole if `least` is.

    Args:
        least: The smallest number that is taken.
        most: The largest one.
    """

    def read(text: str) -> N:
        try:
            value = type(least)(text)
        except ValueError:
            value = None
        if value is None or not isfinite(value) or not least <= value <= most:
            kind, end = "a whole number" if isinstance(least, int) else "a number", f", {most:g} at most"
            raise argparse.ArgumentTypeError(f"{text!r} can't be taken: give {kind}, {least} at least"
                                             + (end if most < inf else ""))
        return value

    return read

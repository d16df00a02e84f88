"""The argument parser of the commands."""

import argparse
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import NoReturn


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others of a command; it takes no empty values."""

    def parse_args(self, args: Sequence[str] | None = None,  # type: ignore[override]
                   namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        """Read the options.

        Raises:
            ValueError: One is wrong, or empty: an unset variable of the shell is mostly why.
        """
        given = list(sys.argv[1:] if args is None else args)
        for before, value in pairwise(["", *given]):
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

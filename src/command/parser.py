"""Command lines of typed functions: one dialect of options for all commands, built on jsonargparse."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from math import isfinite
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

import jsonargparse
from jsonargparse import DefaultHelpFormatter
from msgspec import Meta

from egovlpv2.command.signature import REQUIRED, Parameter, Signature

# Options of earlier versions, of all commands or of one.
_RENAMED = {"--max-words": "--max-tokens", "--max_words": "--max-tokens", "egovlpv2 complexity --words": "--num-tokens",
            "egovlpv2 cost --words": "--num-tokens", "--frames": "--num-frames", "--workers": "--num-workers"}


class _HelpFormatter(DefaultHelpFormatter):
    """Help as the docstring has it, with defaults, under the first name of each option."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        default = action.default
        shown = action.option_strings and default not in (None, argparse.SUPPRESS) and default is not False
        plain = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else default
        return f"{text} (default: {plain})".replace("%", "%%") if shown else text.replace("%", "%%")

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or "-h" in action.option_strings:
            return super()._format_action_invocation(action)
        name, values = action.option_strings[0], self._format_args(action, action.dest.upper())
        return f"{name} {values}" if action.nargs != 0 else name


class CommandParser(jsonargparse.ArgumentParser):
    """A parser whose errors are `ValueError`s of one line; it takes no empty values."""

    def __init__(self, prog: str, description: str = "", **kwargs: Any) -> None:
        super().__init__(prog=prog, description=description, formatter_class=_HelpFormatter, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End the parsing.

        Raises:
            ValueError: Always; says what is wrong and where the options are listed.
        """
        text = re.sub(r"(--[\w-]+)/--\w+", r"\1", message.removeprefix("argument "))  # one name of each option
        text = re.sub(r"^(--[\w-]+): '(.*)': give ", r"\1 \2: give ", text)
        if unknown := re.match(r"unrecognized arguments: (--[\w-]+)", text):
            near = get_close_matches(unknown[1], [name for a in self._actions for name in a.option_strings[:1]], 1)
            text += f", did you mean {near[0]}?" if near else ""
        if missing := re.match("the following arguments are required: (.*)", text):
            names = {a.dest: (a.option_strings or [a.dest])[0] for a in self._actions}
            text = "give " + ", ".join(names.get(name, name) for name in missing[1].split(", "))
        raise ValueError(f"{text} (`{self.prog} --help` lists the options)") from ex


def parse_options(prog: str, signature: Signature, positional: Sequence[str], argv: Sequence[str],
                  options: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Parse the command line of a function.

    Args:
        prog: Name of the command, such as `egovlpv2 extract`.
        signature: The function's.
        positional: Parameters that are given without `--name`.
        argv: The command line after the command's name.
        options: Parameters whose options have another name.

    Returns:
        An argument for each parameter.

    Raises:
        ValueError: An option is unknown, wrong, missing, or empty.
    """
    _refuse_empty_and_renamed(prog, argv)
    parser = CommandParser(prog, f"{signature.summary}\n\n{signature.description}".strip())
    for parameter in signature.parameters:
        _add(parser, parameter, parameter.name in positional, (options or {}).get(parameter.name))
    parsed = parser.parse_args(list(argv)).as_dict()
    # Where nothing was given for a list, jsonargparse has an empty one.
    return {parameter.name: parsed[parameter.name] if parsed[parameter.name] != [] else parameter.default
            for parameter in signature.parameters}


def _refuse_empty_and_renamed(prog: str, argv: Sequence[str]) -> None:
    for before, value in pairwise(["", *argv]):
        name, equals, rest = value.partition("=") if value.startswith("--") else (before, "=", value)
        if equals and not rest:
            raise ValueError(f"{name if name.startswith('--') else 'an argument'} is empty: give a value")
        new = _RENAMED.get(name, _RENAMED.get(f"{prog} {name}"))
        if name == value.partition("=")[0] and new:
            raise ValueError(f"{name} is called {new} now (`{prog} --help` lists the options)")


def _add(parser: CommandParser, parameter: Parameter, positional: bool, name: str | None = None) -> None:
    kind, optional = _without_none(parameter.annotation)
    option = "--" + (name or parameter.name.replace("_", "-"))
    names = [parameter.name] if positional else list(dict.fromkeys([option, "--" + (name or parameter.name)]))
    settings: dict[str, Any] = {"help": parameter.help}
    if name:
        settings["dest"] = parameter.name
    if kind is bool:
        assert parameter.default is False, parameter.name
        parser.add_argument(*names, action="store_true", **settings)
        return
    if get_origin(kind) is not None and issubclass(_class_of(kind), Sequence):
        (kind,) = get_args(kind)
        settings["nargs"] = "+"
    if get_origin(kind) is Literal:
        settings["choices"] = get_args(kind)
    else:
        settings["type"] = _reader(kind)
    if parameter.default is not REQUIRED:
        default = parameter.default
        settings["default"] = list(default) if isinstance(default, tuple) else default
        if positional:
            settings["nargs"] = "*" if "nargs" in settings else "?"
    elif not positional:
        settings["required"] = True
    assert parameter.default is not None or optional, parameter.name
    parser.add_argument(*names, **settings)


def _class_of(kind: Any) -> type:
    origin = get_origin(kind)
    return origin if isinstance(origin, type) else type(None)


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """A type without its `| None`, and whether it had one; of `str | Path` the last."""
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return kinds[-1], len(kinds) < len(get_args(annotation))
    return annotation, False


def _reader(kind: Any) -> Callable[[str], Any]:
    """A function that reads an option's text."""
    base, bounds = kind, None
    if get_origin(kind) is Annotated:
        base, bounds = get_args(kind)

    def read(text: str) -> Any:
        try:
            value = base(text)
        except ValueError:
            value = None
        if base in (int, float) and (problem := number_problem(value, base, bounds)):
            raise argparse.ArgumentTypeError(f"{text!r}: give {problem}")
        return value

    return read  # a plain function for paths too: jsonargparse's own type refuses names that are not UTF-8


def number_problem(value: Any, base: Any, bounds: Meta | None) -> str:
    """Describe the numbers to give instead of one that can't be taken; empty if it can.

    Args:
        value: Of any type.
        base: int or float.
        bounds: None for any finite number.
    """
    low = bounds.ge if bounds and bounds.ge is not None else None
    above, high = (bounds.gt, bounds.le) if bounds else (None, None)
    fits = isinstance(value, int if base is int else int | float) and not isinstance(value, bool)
    if fits and isfinite(value) and (
            (low is None or value >= low) and (above is None or value > above) and (high is None or value <= high)):
        return ""
    text = "a whole number" if base is int else "a finite number"
    text += f", {low:g} or more" if low is not None else f" above {above:g}" if above is not None else ""
    return text + (f", {high:,g} at most" if high is not None and high < 2**31 else "")

"""Explanations of settings that jsonargparse refuses: the file, the place, and the name that may have been meant."""

import argparse
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, get_args

from lightning import Trainer
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from egovlpv2.command.errors import describe
from egovlpv2.io.renamed import MOVED
from egovlpv2.io.yaml_files import read_yaml
from egovlpv2.training.command_line import config_files, split_options

_TOP = ("config", "seed_everything", "trainer", "model", "data", "ckpt_path", "precision", "learning_rate",
        "best_checkpoint", "last_checkpoint")
_CLASS = re.compile(r"given class_path '([\w.]+)': (.*)")
_KEY = re.compile(r'Parser key "([\w.]+)"')
_VALUE = re.compile(r"(?:Given|Got) value: ?(.*)")
_UNKNOWN = (re.compile(r"Option '(?P<name>[\w.]+)' is not accepted"),
            re.compile(r"Group '(?P<group>[\w.]+)' does not accept option '(?P<name>[\w.]+)'"),
            re.compile(r"^Subcommand '\w+' does not accept option '(?P<name>[\w.]+)'"),
            re.compile(r"^unrecognized arguments: --(?P<name>[\w.]+)"))


class _Place(NamedTuple):
    """The place of a refused setting."""

    part: str  # such as `model`; empty at the top
    kind: type | None  # its class
    name: str  # dotted, below the part
    unknown: bool  # True if there is no such setting, False if its value is wrong

    def __str__(self) -> str:
        return ".".join(filter(None, (self.part, "init_args" if self.kind else "", self.name)))


def explain(error: argparse.ArgumentError, args: Sequence[str]) -> str:
    """Explain why a command line was refused.

    Args:
        error: jsonargparse's.
        args: The command line, from the subcommand on.

    Returns:
        One line with the file that the setting is in, unless the command line has it, and with the setting that may
        have been meant or the command that lists them.
    """
    message, found = describe(error) or str(error), _VALUE.search(str(error))
    place, value = _find_place(message), found[1] if found else None
    source, help_ = _source(str(place), args, value), f"`egovlpv2 {args[0]} --help` lists the options"
    if place.kind is not None:
        kind = place.kind
        help_ = f"`egovlpv2 {args[0]} --{place.part}.help {kind.__module__}.{kind.__name__}` lists its settings"
    if place.unknown:
        owner = f"not a setting of {place.kind.__name__}" if place.kind else "not an option"
        message = f"{place} is {owner}{_hint(place)}"
    elif value and "Got value" not in message:
        message += f". Got value: {value:.60}"
    return f"{source}{message} ({help_})"


def explain_interpolation(error: OmegaConfBaseException, args: Sequence[str]) -> str:
    """Explain why a `${...}` can't be resolved, in one line with its place and file."""
    reason, *_ = str(error).splitlines()
    place = (error.full_key or "").partition(".")[2]  # behind the subcommand
    if isinstance(error, GrammarParseError):
        reason = "its ${...} refers to itself, or is not written like ${model.init_args.dim}"
    return f"{_source(place, args, None)}{place}: {reason}"


def _find_place(message: str) -> _Place:
    """Parse jsonargparse's message."""
    key, found = _KEY.search(message), _CLASS.search(message)
    part, inner, kind = (key[1] if key else ""), message, None
    if found:
        module, _, name = found[1].rpartition(".")
        named, inner = getattr(sys.modules.get(module), name, None), found[2]
        kind = named if isinstance(named, type) else None  # it may be a function that makes the object
    for pattern in _UNKNOWN:
        if match := pattern.search(inner):
            names = match.groupdict()
            return _Place(part, kind, ".".join(filter(None, (names.get("group"), names["name"]))), True)
    key = _KEY.search(inner) if found else None
    return _Place(part, kind, key[1] if key else "", False)


def _hint(place: _Place) -> str:
    """A question for the setting that may have been meant, or its new name if it was renamed."""
    *above, last = place.name.split(".")
    if place.kind is not None:
        known = _settings(place.kind, above)
        for new in MOVED.get(last, ()):
            if new.partition(".")[0] in known:
                return f": it is called {_replaced(place, last, new)} now"
    else:
        known = _settings(Trainer, above[1:]) if above[:1] == ["trainer"] else []
        if above and above[0] not in _TOP:
            last, known = above[0], list(_TOP)
        elif not above:
            known = list(_TOP)
    near = get_close_matches(last, known, 1)
    return f", did you mean {_replaced(place, last, near[0])}?" if near else ""


def _replaced(place: _Place, old: str, new: str) -> str:
    """The dotted name of a place with another last name, or another first one."""
    name = str(place)
    return name.removesuffix(old) + new if name.endswith(f".{old}") else new + name.removeprefix(old)


def _settings(kind: type, inner: Sequence[str]) -> list[str]:
    """The names of a class's settings, or of those of a dataclass in it."""
    annotations: dict[str, Any] = {}
    for base in kind.__mro__:
        if (init := vars(base).get("__init__")) is None:
            continue
        parameters = list(inspect.signature(init).parameters.values())[1:]
        annotations |= {p.name: p.annotation for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if all(p.kind != p.VAR_KEYWORD for p in parameters):
            break
    if not inner:
        return list(annotations)
    annotation = annotations.get(inner[0])
    for option in (annotation, *get_args(annotation)):
        if isinstance(option, type) and is_dataclass(option):
            return _settings(option, inner[1:])
    return []


def _source(place: str, args: Sequence[str], value: str | None) -> str:
    """The file that has a setting, as the beginning of a message; empty if the command line has it.

    Of several, the last with the value (None: an interpolation), or else the last.
    """
    plain, found = place.replace(".init_args", ""), []
    for path in config_files(args) if place else ():
        for name, given in _values(OmegaConf.to_container(read_yaml(Path(path))), ""):
            if f"{name}.".startswith(f"{plain}."):
                found.append((f"{path}: ", str(given)))
    for option, given in split_options(args):
        name = option.removeprefix("--").replace(".init_args", "").rstrip("+")
        if f"{plain}.".startswith(f"{name}."):
            found.append(("", given))
    chosen = [pair for pair in found if (pair[1] == value if value else "${" in pair[1])] or found
    return chosen[-1][0] if chosen else ""


def _values(content: Any, under: str) -> Iterator[tuple[str, Any]]:
    """Dotted names, without `init_args`, and the values in a configuration."""
    if not isinstance(content, dict) or not content:
        yield under, content
        return
    for key, value in content.items():
        yield from _values(value, under if key == "init_args" else f"{under}.{key}" if under else str(key))

"""Checks of the arguments of the public Python functions, by their annotations."""

import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np

from egovlpv2.command.parser import check_arguments


def check_call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that a function's annotations don't allow, and empty ones, as the command line does.

    Numbers of numpy are taken as Python's, and paths wherever texts are.

    Args:
        function: A function whose parameters are annotated with built-in types and those of `egovlpv2.types`.
        arguments: By name, such as `locals()` at the function's beginning; others than its parameters are ignored.

    Raises:
        ValueError: An argument has another type, is out of bounds, or is an empty text or list; names the argument,
            what was given and what is allowed.
    """
    given = {name: _plain(arguments[name]) for name in function.__annotations__ if name in arguments}
    for name, value in given.items():
        allowed = _alternatives(function.__annotations__[name])
        if any(get_origin(kind) in (Annotated, Literal) for kind in allowed):
            continue  # `check_arguments` does
        listed = next((kind for kind in allowed if get_origin(kind) is Sequence), None)
        if listed is not None and isinstance(value, Sequence) and not isinstance(value, str | bytes):
            _check_items(name, value, listed)
        elif isinstance(value, str) and not value and any(_fits(value, kind) for kind in allowed):
            raise ValueError(f"{name} is empty: give a value")
        elif not any(_fits(value, kind) for kind in allowed):
            text = f"{str(value)!r}" if isinstance(value, os.PathLike) else f"{value!r:.100}"
            raise ValueError(f"{name}={text}: give {' or '.join(dict.fromkeys(map(_in_words, allowed)))}")
    check_arguments(function, given)


def _plain(value: Any) -> Any:
    """Convert a number of another library, or a truth value of numpy, to Python's."""
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, bool | int | float):
        return value
    return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else value


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _check_items(name: str, values: Sequence[Any], annotation: Any) -> None:
    if not values:
        raise ValueError(f"{name} is an empty list: give one or more")
    (kind,) = get_args(annotation)
    for value in values:
        if not _fits(value, kind) or value == "":
            raise ValueError(f"{name} holds {value!r:.100}: give {_in_words(kind)} for each")


def _fits(value: Any, kind: Any) -> bool:
    """Tell if a value is of a type; a whole number also fits where a float is wanted."""
    if kind in (None, NoneType):
        return value is None
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        return (isinstance(value, tuple | list) and len(value) == len(parts)
                and all(map(_fits, map(_plain, value), parts)))
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    own = get_origin(kind) or kind
    if own is str or issubclass(own, os.PathLike):  # paths are taken as texts, and a `torch.device` as its name
        return isinstance(value, str | os.PathLike) or type(value).__name__ == "device"
    return isinstance(value, own)


def _in_words(kind: Any) -> str:
    own = get_origin(kind) or kind
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", None: "None",
             NoneType: "None", Sequence: "a list", dict: "a dict with texts as keys"}
    if own is tuple:
        return f"{len(get_args(kind))} of them"
    return words.get(own, "a path" if issubclass(own, os.PathLike) else f"a {own.__name__}")

"""Checks of the arguments of the public Python functions, by their annotations."""

import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np

from egovlpv2.command.parser import number_problem


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
    for name, annotation in function.__annotations__.items():
        if name in arguments:
            _check(name, _plain(arguments[name]), _alternatives(annotation))


def _check(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value is None and NoneType in allowed:
        return
    listed = next((kind for kind in allowed if get_origin(kind) is Sequence), None)
    if listed is not None:
        _check_items(name, value, listed)
    elif isinstance(value, str) and not value and str in allowed:
        raise ValueError(f"{name} is empty: give a value")
    elif wanted := _wanted(value, allowed):
        text = f"{str(value)!r}" if isinstance(value, os.PathLike) else f"{value!r:.100}"
        raise ValueError(f"{name}={text}: give {wanted}")


def _plain(value: Any) -> Any:
    """Convert a number of another library, or a truth value of numpy, to Python's."""
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, bool | int | float):
        return value
    return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else value


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _check_items(name: str, values: Any, annotation: Any) -> None:
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise ValueError(f"{name}={str(values)!r:.100}: give a list")
    if not values:
        raise ValueError(f"{name} is an empty list: give one or more")
    for value in map(_plain, values):
        if wanted := "a text" if value == "" else _wanted(value, get_args(annotation)):
            raise ValueError(f"{name} holds {value!r:.100}: give {wanted} for each")


def _wanted(value: Any, allowed: tuple[Any, ...]) -> str:
    """The values to give instead of one that none of the types allows; empty if one does."""
    kind = allowed[0]
    if get_origin(kind) is Annotated:
        return number_problem(value, *get_args(kind))
    if get_origin(kind) is Literal:
        return "" if value in get_args(kind) else f"one of {', '.join(map(repr, get_args(kind)))}"
    if any(_fits(value, kind) for kind in allowed):
        return ""
    return " or ".join(dict.fromkeys(map(_in_words, allowed)))


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

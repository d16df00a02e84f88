"""Signatures of commands, read from their source: help and errors of options needn't wait for torch to be imported."""

import ast
from collections.abc import Sequence
from functools import reduce
from importlib.machinery import PathFinder
from importlib.util import find_spec
from operator import or_
from pathlib import Path
from types import GenericAlias
from typing import Any, Literal, NamedTuple

from egovlpv2 import types

REQUIRED = object()
_BUILT_IN = {"str": str, "int": int, "float": float, "bool": bool, "Path": Path, "None": None}


class Command(NamedTuple):
    """A command: a typed function of this package."""

    module: str
    function: str
    positional: tuple[str, ...] = ()  # parameters that are given without `--name`
    summary: str = ""  # instead of the first line of the docstring, where two commands are one function
    options: tuple[tuple[str, str], ...] = ()  # parameters whose options have another name, such as a keyword of Python


class Parameter(NamedTuple):
    """A parameter of a command's function."""

    name: str
    annotation: Any
    default: Any  # `REQUIRED` if there is none
    help: str


class Signature(NamedTuple):
    """A command's function as its source declares it."""

    summary: str  # the first line of the docstring
    description: str  # its other lines before the arguments
    parameters: list[Parameter]


def read_signature(module: str, function: str) -> Signature:
    """Read a function's parameters and docstring from the source of its module, without importing it.

    Args:
        module: Full name of a module of this package.
        function: Name of a function in it. Annotations may use `str`, `int`, `float`, `bool`, `Path`, `None`,
            `Literal`, `Sequence`, unions, and the names in `egovlpv2.types`; defaults are literals.
    """
    tree = ast.parse(source_of(module).read_text(encoding="utf-8"))
    node = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function)
    positional, keyword = node.args.args, node.args.kwonlyargs
    missing: list[ast.expr | None] = [None] * (len(positional) - len(node.args.defaults))
    defaults = [*missing, *node.args.defaults, *node.args.kw_defaults]
    summary, description, helps = _split_docstring(ast.get_docstring(node) or "")
    parameters = [Parameter(a.arg, _annotation(a.annotation), REQUIRED if d is None else ast.literal_eval(d),
                            helps.get(a.arg, "")) for a, d in zip([*positional, *keyword], defaults, strict=True)]
    return Signature(summary, description, parameters)


def source_of(module: str) -> Path:
    """Locate the source file of a module of this package; only the package itself is imported."""
    package, *rest = module.split(".")
    spec = find_spec(f"{package}.{rest[0]}")
    for i in range(1, len(rest)):
        assert spec is not None, module
        spec = PathFinder.find_spec(".".join([package, *rest[: i + 1]]), spec.submodule_search_locations)
    assert spec is not None and spec.origin is not None, module
    return Path(spec.origin)


def _annotation(node: ast.expr | None) -> Any:
    """The type that an annotation's syntax tree stands for."""
    if isinstance(node, ast.BinOp):  # X | Y
        return reduce(or_, (_annotation(part) for part in (node.left, node.right)))
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return _BUILT_IN[node.id] if node.id in _BUILT_IN else getattr(types, node.id)
    assert isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name), ast.dump(node) if node else "untyped"
    if node.value.id == "Literal":
        return Literal[ast.literal_eval(node.slice)]
    assert node.value.id == "Sequence", node.value.id
    return GenericAlias(Sequence, (_annotation(node.slice),))


def _split_docstring(text: str) -> tuple[str, str, dict[str, str]]:
    """Summary, description, and the help of each argument from a docstring with an `Args:` section."""
    head, _, tail = text.partition("\nArgs:\n")
    summary, _, description = head.partition("\n")
    helps: dict[str, str] = {}
    name = ""
    for line in tail.splitlines():
        if not line.strip() or not line.startswith("    "):
            break  # the end of the section
        if not line.startswith("     "):
            name, _, line = line.partition(":")
        name = name.strip()
        helps[name] = f"{helps.get(name, '')} {line.strip()}".strip()
    return summary, description.strip(), helps

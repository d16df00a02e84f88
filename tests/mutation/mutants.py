"""Mutants of a module: each is the module with one small change, such as `<` for `<=` or an argument left out.

The operators are mutmut's (https://github.com/boxed/mutmut), applied to decorated functions and class bodies too, and
a few more: negated conditions, statements and results left out, integers one lower. Texts of errors and of log lines,
annotations, decorators, assertions, imports and docstrings stay as they are.
"""

import difflib
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from libcst import matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_string

_LEFT_ALONE = (cst.Annotation, cst.Decorator, cst.Raise, cst.Assert, cst.Import, cst.ImportFrom)
_LOG_LINE = m.Call(func=m.Attribute(value=m.Name("log") | m.Name("warnings")))
_LITERAL = m.Subscript(value=m.Name("Literal"))
_SAYS_NOTHING = m.Expr(value=m.SimpleString()) | _LOG_LINE | _LITERAL | m.Assign(value=_LITERAL)
_STRICT = re.compile(r"\s*\bstrict=\w*|,\s*(?=\))|,(?=\s*strict=)")  # zip's is an assertion
_PASS = cst.SimpleStatementLine([cst.Pass()])


@dataclass(frozen=True)
class Mutant:
    """A changed module.

    Args:
        line: Line of the original where the change begins.
        change: Lines taken out and put in, `- ` and `+ ` before each, without indentation: what names the mutant even
            when the lines around it move.
        source: The whole module.
    """

    line: int
    change: str
    source: str


def make_mutants(path: Path, size: int, seed: int) -> tuple[list[Mutant], int]:
    """Makes `size` of a module's mutants, drawn by seed, or all if there are fewer; each compiles.

    Returns:
        The mutants in the order of their lines, and how many changes there are to draw from.
    """
    wrapper = MetadataWrapper(cst.parse_module(path.read_text()))
    collector = _Collector()
    wrapper.visit(collector)
    original, changes = wrapper.module.code, collector.changes
    random.Random(seed).shuffle(changes)
    mutants: dict[str, Mutant] = {}
    for line, node, changed in changes:
        if len(mutants) == size:
            break
        source = wrapper.module.deep_replace(node, changed).code
        if _STRICT.sub("", source) != _STRICT.sub("", original) and _compiles(source):
            mutants[source] = Mutant(line, _change(original, source), source)
    return sorted(mutants.values(), key=lambda mutant: (mutant.line, mutant.change)), len(changes)


class _Collector(cst.CSTVisitor):
    """Collects a line, the node there and what replaces it."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[tuple[int, cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, _LEFT_ALONE) or m.matches(node, _SAYS_NOTHING):
            return False
        line = self.get_metadata(PositionProvider, node, None)
        if line is not None:
            self.changes += [(line.start.line, node, changed) for changed in _changes(node)]
        return True


def _changes(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            changed = list(operator(node))
            yield from changed[:1] if operator is operator_string else changed  # one change of a text is enough
    yield from _more_changes(node)


def _more_changes(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    if isinstance(node, cst.Integer) and node.evaluated_value > 0:
        yield node.with_changes(value=str(node.evaluated_value - 1))
    elif isinstance(node, cst.If | cst.While):
        inside = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(test=cst.UnaryOperation(cst.Not(), inside))
    elif isinstance(node, cst.Return) and node.value is not None:
        yield node.with_changes(value=None, whitespace_after_return=cst.SimpleWhitespace(""))
    elif m.matches(node, m.SimpleStatementLine(body=[m.Expr(value=m.Call()) | m.Raise() | m.AugAssign()])):
        if not m.matches(node, m.SimpleStatementLine(body=[m.Expr(value=_LOG_LINE)])):
            yield _PASS


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _change(original: str, source: str) -> str:
    lines = difflib.unified_diff(original.splitlines(), source.splitlines(), n=0, lineterm="")
    return "\n".join(f"{line[0]} {line[1:].strip()}" for line in list(lines)[2:] if line[0] in "+-")

"""Options are read and checked as the functions' signatures say."""

import inspect
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_type_hints

import pytest

from egovlpv2.cli import COMMANDS
from egovlpv2.command.options import require_text
from egovlpv2.command.parser import parse_options
from egovlpv2.command.run import parse
from egovlpv2.command.signature import REQUIRED, Parameter, Signature, read_signature
from egovlpv2.features.extract import extract_features
from egovlpv2.types import Count, Rate


def signature() -> Signature:
    return Signature("Do something.", "", [
        Parameter("videos", Sequence[str], REQUIRED, "some"), Parameter("out", str | Path, REQUIRED, "folder"),
        Parameter("fps", Rate, 30.0, "rate"), Parameter("count", Count | None, None, "some"),
        Parameter("kind", Literal["a", "b"], "a", "a kind"), Parameter("sizes", Sequence[Count], (8, 32), "sizes"),
        Parameter("whole", bool, False, "all of it")])


def test_the_command_line_gives_an_argument_for_each_parameter() -> None:
    given = ["x", "y", "--out", "o", "--count", "3", "--sizes", "4", "--whole", "--fps=2"]
    assert parse_options("egovlpv2 x", signature(), ["videos"], given) == {
        "videos": ["x", "y"], "out": Path("o"), "fps": 2.0, "count": 3, "kind": "a", "sizes": [4], "whole": True}
    assert parse_options("egovlpv2 x", signature(), ["videos"], ["x", "--out", "o"])["sizes"] == [8, 32]


@pytest.mark.parametrize("given, message", [
    (["--fps", "nan"], "^--fps nan: give a finite number above 0, 1,000 at most"), (["--fps", "inf"], "^--fps inf"),
    (["--fps", "0"], "^--fps 0: give"), (["--count", "2.5"], "^--count 2.5: give a whole number, 1 or more"),
    (["--count", "x"], "^--count x: give a whole number"), (["--sizes", "4", "0"], "^--sizes 0: give a whole number"),
    (["--kind", "c"], "^--kind: invalid choice: 'c' .choose from 'a', 'b'"), (["--out", ""], "^--out is empty"),
    (["--out="], "^--out is empty"), (["--cuont", "1"], "unrecognized arguments: --cuont 1, did you mean --count[?]"),
    (["--frames", "4"], "^--frames is called --num-frames now"),
    (["--workers=2"], "^--workers is called --num-workers"),
    (["--max-words", "3"], "^--max-words is called --max-tokens now .`egovlpv2 x --help` lists the options"),
    ([], "^give --out .`egovlpv2 x --help` lists the options")])
def test_options_are_checked_where_they_are_given(given: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_options("egovlpv2 x", signature(), ["videos"], ["v", *(["--out", "o"] if given else []), *given])


def test_calls_from_python_are_checked_too() -> None:
    with pytest.raises(ValueError, match="^batch_size=0: give a whole number, 1 or more"):
        extract_features(["v"], "w", "o", batch_size=0)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"fps": float("nan")}, "^fps=nan: give a finite number above 0"),
        ({"window": 16.5}, "^window=16.5: give a whole"),
        ({"kind": "bogus"}, "^kind='bogus': give one of 'dual', 'projected'"),
        ({"precision": "fp16"}, "^precision='fp16': give one of '32', 'bf16'"),
        ({"queries": "q.json"}, "^queries='q.json': give a list")]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            extract_features(["v"], "w", "o", **arguments)
    with pytest.raises(ValueError, match="^videos='folder': give a list"):
        extract_features("folder", "w", "o")


def test_options_of_one_command_are_renamed_there() -> None:
    with pytest.raises(ValueError, match="^--words is called --num-tokens now"):
        parse("complexity", COMMANDS["complexity"], ["--config", "x.yaml", "--words", "3"])


@pytest.mark.parametrize("name", COMMANDS)
def test_signatures_read_from_source_are_those_of_the_functions(name: str) -> None:
    command = COMMANDS[name]
    found = read_signature(command.module, command.function)
    function = getattr(import_module(command.module), command.function)
    real = inspect.signature(function).parameters
    assert [(p.name, p.default) for p in found.parameters] == [
        (p.name, REQUIRED if p.default is p.empty else p.default) for p in real.values()]
    assert all(p.help for p in found.parameters), "an argument lacks its line in the docstring"
    assert found.summary.endswith(".") and set(command.positional) <= set(real)
    hints = get_type_hints(function, include_extras=True)
    assert all(p.annotation == hints[p.name] for p in found.parameters)


def test_texts_that_are_no_texts_are_refused() -> None:
    require_text("--text", "料理 🍳", "say what is seen")
    with pytest.raises(ValueError, match="^--text is empty: say what is seen"):
        require_text("--text", " \t", "say what is seen")
    with pytest.raises(ValueError, match=r"^--text 'caf\\udce9' can't be read as text"):
        require_text("--text", "caf\udce9", "say what is seen")

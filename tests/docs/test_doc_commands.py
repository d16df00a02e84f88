"""Every command in README and docs is one that the program takes."""

import re
import shlex
import subprocess

import pytest
from doc_pages import ROOT, Line, commands
from slurm_scripts import command_of

from egovlpv2.cli import COMMANDS, TRAINER_COMMANDS
from egovlpv2.cli import main as cli
from egovlpv2.command.run import parse
from egovlpv2.command.signature import read_signature

COMMAND_LINES = commands()
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def of(program: str) -> list[Line]:
    return [line for line in COMMAND_LINES if line.words[0] == program]


# A name alone in a sentence, such as `egovlpv2 extract`, is a mention.
MENTIONED = {line.words[1] for line in of("egovlpv2")} - {"--help", "--version"}
WHOLE = [line for line in of("egovlpv2") if len(line.words) > 2 or line.in_block]
OWN = [line for line in WHOLE if line.words[1] in COMMANDS]
TRAINER = [line for line in WHOLE if line.words[1] in TRAINER_COMMANDS]


def test_every_command_is_on_a_page_and_every_name_is_a_command() -> None:
    assert {*COMMANDS, *TRAINER_COMMANDS} == MENTIONED
    assert len(OWN) > 25 and len(TRAINER) > 4 and len(of("make")) > 40


@pytest.mark.parametrize("line", OWN, ids=str)
def test_own_commands_are_parsed(line: Line) -> None:
    _, name, *options = line.words
    if options != ["--help"]:
        parse(name, COMMANDS[name], options)


@pytest.mark.parametrize("line", TRAINER, ids=str)
def test_configurations_are_parsed(line: Line, capsys: pytest.CaptureFixture[str],
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    check_trainer(list(line.words[1:]), capsys)


@pytest.mark.parametrize("line", of("make"), ids=str)
def test_make_runs_commands_that_are_parsed(line: Line, capsys: pytest.CaptureFixture[str],
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for word in line.words[1:]:
        if variable := re.match(r"([A-Z_]+)=", word):
            assert re.search(rf"\b{variable[1]}\b", MAKEFILE), f"the Makefile has no {variable[1]}"
        elif (ROOT / word).exists():  # `make` takes any file for a target
            assert re.search(rf"^{word}:", MAKEFILE, re.MULTILINE), f"the Makefile has no target {word}"
    dry = subprocess.run(["make", "--dry-run", *line.words[1:]], capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr
    for words in re.findall(r"(?:^|\s)\.venv/bin/egovlpv2 ([^;|&\n]*)", re.sub(r"\\\n\s*", " ", dry.stdout)):
        name, *options = shlex.split(words)
        if name in TRAINER_COMMANDS:
            check_trainer([name, *options], capsys)
        else:
            parse(name, COMMANDS[name], options)


@pytest.mark.parametrize("line", of("sbatch"), ids=str)
def test_jobs_run_commands_that_are_parsed(line: Line, capsys: pytest.CaptureFixture[str],
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    number = next(i for i, word in enumerate(line.words) if word.endswith(".slurm"))
    assert all(word.startswith("--") for word in line.words[1:number])
    words = command_of(*line.words[number:], EGO_ROOT="/data")
    check_trainer(words[words.index("fit"):], capsys)


def check_trainer(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Parse a command of the trainer as it would be run, and print its configuration instead."""
    with pytest.raises(SystemExit) as end:
        cli([*words, "--print_config"])
    out = capsys.readouterr()
    assert end.value.code in (0, None), out.err
    assert "class_path: egovlpv2.tasks" in out.out


def test_git_ignores_what_commands_write_where_no_output_is_named() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split("\n")
    places = {name: parameter.default.partition("/") for name, command in COMMANDS.items()
              for parameter in read_signature(command.module, command.function).parameters
              if parameter.name == "out" and isinstance(parameter.default, str)}
    assert len(places) > 4
    assert not {name: place for name, place in places.items()
                if not {f"/{place[0]}", f"/{place[0]}/"} & {*ignored}}

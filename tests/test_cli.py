"""The command line, as a newcomer meets it."""

import re
import subprocess
import sys

import pytest

from egovlpv2.cli import COMMANDS, TRAINER_COMMANDS, usage
from egovlpv2.cli import main as cli


def test_help_is_quick_and_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    cli(["--help"])
    out = capsys.readouterr().out
    assert all(name in out for name in (*COMMANDS, *TRAINER_COMMANDS))
    code = "import sys; from egovlpv2.cli import main; main([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_unknown_commands_are_named() -> None:
    with pytest.raises(SystemExit, match="^egovlpv2: error: there is no command `indx`, did you mean `index`."):
        cli(["indx"])


def test_a_users_mistake_is_one_line(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"^egovlpv2 convert: error: [^\n]*missing: give a weights file[^\n]*\n\(EGOV"):
        cli(["convert", str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors")])
    monkeypatch.setenv("EGOVLPV2_DEBUG", "1")
    with pytest.raises(ValueError, match="is missing: give a weights file"):
        cli(["convert", str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors")])


def test_the_list_of_commands_has_two_columns() -> None:
    rows = [line for line in usage().splitlines() if line.startswith("  ")]
    starts = {len(re.match(r"  \S+ +", row)[0]) for row in rows}
    assert len(rows) == len(COMMANDS) + len(TRAINER_COMMANDS) and len(starts) == 1


@pytest.mark.parametrize("command", [*COMMANDS, *TRAINER_COMMANDS])
def test_an_unknown_option_is_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli([command, "--no-such-option=1"])
    assert re.fullmatch(rf"egovlpv2 {command}: error: [^\n]+\n\(EGOVLPV2_DEBUG=1 shows where\)", str(end.value.code))
    assert "--help" in str(end.value.code) and not capsys.readouterr().err


@pytest.mark.parametrize("command", [*COMMANDS])
def test_own_commands_have_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli([command, "--help"])
    assert end.value.code == 0 and "usage: " in capsys.readouterr().out

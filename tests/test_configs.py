"""The configs that ship with the package are listed, and copied without overwriting others."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import ROOT

from egovlpv2.cli import main as cli
from egovlpv2.configs import list_configs


def test_all_configs_are_listed_with_their_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    cli(["configs"])
    lines = capsys.readouterr().out.splitlines()
    names = {line.split()[0] for line in lines[1:]}
    assert names == {path.relative_to(ROOT / "conf").as_posix() for pattern in ("*.yaml", "*.slurm")
                     for path in (ROOT / "conf").rglob(pattern)}
    assert all(len(line.split()) > 2 for line in lines[1:] if ".yaml" in line), "a config has no headline"


def test_descriptions_are_whole_sentences_and_fit_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = list_configs()
    assert "a frozen backbone (paper, Sec. 4.5, D.2)." in str(listed)
    monkeypatch.setattr("egovlpv2.configs.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setenv("COLUMNS", "100")
    assert max(map(len, str(listed).splitlines()[1:])) <= 100


def test_they_are_copied_and_own_changes_stay(tmp_path: Path) -> None:
    copied = list_configs(out=tmp_path / "conf")
    assert (tmp_path / "conf" / "toy" / "nlq.yaml").read_bytes() == (ROOT / "conf" / "toy" / "nlq.yaml").read_bytes()
    assert len(list((tmp_path / "conf").rglob("*.*"))) == len(copied.files)
    list_configs(out=tmp_path / "conf")  # once more
    (tmp_path / "conf" / "mq.yaml").write_text("changed: true")
    with pytest.raises(ValueError, match="mq.yaml is there and differs from the config that ships"):
        list_configs(out=tmp_path / "conf")
    assert (tmp_path / "conf" / "mq.yaml").read_text() == "changed: true"

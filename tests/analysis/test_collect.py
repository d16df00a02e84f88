"""`egovlpv2 collect`: a table of several runs, and their mean."""

import json
from pathlib import Path

import pytest

from egovlpv2.cli import main as cli


def run(folder: Path, **metrics: float | None) -> str:
    folder.mkdir(parents=True)
    content = {"metrics": {name.replace("__", "/"): value for name, value in metrics.items()}, "protocol": {"seed": 0}}
    (folder / "metrics.json").write_text(json.dumps(content))
    return str(folder)


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    return [run(tmp_path / "p01", test__qfvs__f1=40.0, test__qfvs__recall=10.126, val__loss=1.0),
            run(tmp_path / "p02", test__qfvs__f1=50.0, test__qfvs__recall=20.0, val__loss=2.0),
            run(tmp_path / "p03", test__qfvs__f1=66.0, val__loss=3.0)]


def rows(printed: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in printed.splitlines()}


def test_a_row_for_each_run_and_their_mean(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli(["collect", *runs])
    printed = rows(capsys.readouterr().out)
    assert printed == {"test/qfvs/f1": ["test/qfvs/recall"], runs[0]: ["40.0", "10.13"], runs[1]: ["50.0", "20.00"],
                       runs[2]: ["66.0", "-"], "mean": ["52.0", "-"]}  # no mean over fewer runs
    assert {path.name for path in tmp_path.iterdir()} == {"p01", "p02", "p03"}


def test_metrics_are_picked_and_written(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "all.json"
    cli(["collect", *runs, "--metrics", "loss|recall", "--out", str(out)])
    printed = capsys.readouterr().out
    assert "f1" not in printed and f"written: {out}" in printed
    content = json.loads(out.read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    assert content == {"runs": {runs[0]: {"test/qfvs/recall": 10.126, "val/loss": 1.0},
                                runs[1]: {"test/qfvs/recall": 20.0, "val/loss": 2.0},
                                runs[2]: {"test/qfvs/recall": None, "val/loss": 3.0}},
                       "mean": {"val/loss": 2.0}}


def test_a_metric_without_a_value_is_a_gap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli(["collect", run(tmp_path / "a", test__f1=40.0, test__map=None), run(tmp_path / "b", test__f1=1, test__map=3.0)])
    printed = rows(capsys.readouterr().out)
    assert printed[str(tmp_path / "a")] == ["40.0", "-"] and printed["mean"] == ["20.5", "-"]


def test_what_a_user_gets_wrong_is_one_line(runs: list[str], tmp_path: Path) -> None:
    (tmp_path / "running").mkdir()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "metrics.json").write_text('{"metrics": {"test/')
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metrics.json").write_text('[1, 2]')
    for arguments, problem in (
            ([*runs, tmp_path / "running"], "running/metrics.json is missing: the run has not ended, or it is not"),
            ([tmp_path / "nowhere"], "nowhere/metrics.json is missing"),
            ([*runs, tmp_path / "cut"], "cut/metrics.json, line 1, column"),
            ([*runs, tmp_path / "other"], "other/metrics.json: .*bject"),
            ([*runs, "--metrics", "(f1"], r"--metrics '\(f1' is not a regular expression"),
            ([*runs, "--metrics", "^nlq/"], r"no metric of these runs is named like '\^nlq/'; .*p01 has test/qfvs/f"),
    ):
        with pytest.raises(SystemExit, match=problem) as end:
            cli(["collect", *map(str, arguments), "--out", str(tmp_path / "out.json")])
        assert str(end.value).startswith("egovlpv2 collect: error: ") and not (tmp_path / "out.json").exists()


def test_a_plot_instead_of_a_mean(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli(["collect", *runs, "--no-mean", "--out", str(tmp_path / "all.json"), "--plot", str(tmp_path / "all.png")])
    assert "\nmean" not in capsys.readouterr().out and set(json.loads((tmp_path / "all.json").read_text())) == {"runs"}
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_a_folder_is_no_file_to_write(runs: list[str], tmp_path: Path, option: str) -> None:
    with pytest.raises(SystemExit, match=f"collect: error: {option} {tmp_path} is a folder: give the name of a file"):
        cli(["collect", *runs, option, str(tmp_path)])

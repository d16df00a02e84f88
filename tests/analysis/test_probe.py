"""`egovlpv2 probe-time`: the numbers of clips in four orders, and what the order of time brings."""

import json
from pathlib import Path

import pytest

from egovlpv2.cli import main as cli

INTRA = "test/egomcq/dual/intra"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Four runs, as a sweep leaves them."""
    for i, order in enumerate(("forward", "backward", "shuffled", "frozen")):
        write(tmp_path / "egomcq" / order, order, 80.0 - 10 * i)
    return tmp_path / "egomcq"


def write(run: Path, order: str | None, intra: float) -> None:
    run.mkdir(parents=True, exist_ok=True)
    protocol = {} if order is None else {"frame_order": order}
    metrics = {INTRA: intra, "test/egomcq/dual/inter": 90.0, "val/score": 1.0}
    (run / "metrics.json").write_text(json.dumps({"metrics": metrics, "protocol": protocol}))


def test_a_row_for_each_order_and_what_it_loses(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, plot = tmp_path / "time.json", tmp_path / "time.png"
    cli(["probe-time", str(runs), "--out", str(out), "--plot", str(plot)])
    rows = json.loads(out.read_text())[str(runs)]
    assert [row[INTRA] for row in rows.values()] == [80.0, 70.0, 60.0, 50.0, 10.0, 20.0, 30.0]
    assert list(rows)[4:] == ["lost by backward", "lost by shuffled", "lost by frozen"]
    assert "lost by frozen" in capsys.readouterr().out and plot.read_bytes().startswith(b"\x89PNG")


def test_several_benchmarks_stand_side_by_side(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli(["probe-time", str(runs), str(runs), "--metrics", "intra", "--plot", str(tmp_path / "time.png")])
    assert "inter" not in capsys.readouterr().out


def test_a_run_of_another_order_than_its_name_is_refused(runs: Path) -> None:
    write(runs / "frozen", "shuffled", 50.0)
    with pytest.raises(SystemExit, match="frozen has shown its clips shuffled, not frozen: run it with --data"):
        cli(["probe-time", str(runs)])
    write(runs / "frozen", None, 50.0)
    with pytest.raises(SystemExit, match="in no order that it names, not frozen"):
        cli(["probe-time", str(runs)])


def test_a_missing_order_is_named(runs: Path) -> None:
    (runs / "shuffled" / "metrics.json").unlink()
    with pytest.raises(SystemExit, match="shuffled/metrics.json is missing"):
        cli(["probe-time", str(runs)])


def test_runs_that_differ_in_more_are_refused(runs: Path) -> None:
    for run in runs.iterdir():
        content = json.loads((run / "metrics.json").read_text())
        content["protocol"] |= {"weights": "other.ckpt" if run.name == "shuffled" else "a.ckpt", "counts": run.name}
        (run / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="shuffled has weights other.ckpt, and .*forward a.ckpt: compare runs"):
        cli(["probe-time", str(runs)])


def test_no_report_is_written_over(runs: Path, tmp_path: Path) -> None:
    before = (runs / "frozen" / "metrics.json").read_bytes()
    for option in ("--out", "--plot"):
        with pytest.raises(SystemExit, match=f"{option} .*metrics.json: that is the name of a run's own report"):
            cli(["probe-time", str(runs), option, str(runs / "frozen" / "metrics.json")])
    with pytest.raises(SystemExit, match="--out and --plot are both .*: give two files"):
        cli(["probe-time", str(runs), "--out", str(tmp_path / "a"), "--plot", str(tmp_path / "b" / ".." / "a")])
    assert (runs / "frozen" / "metrics.json").read_bytes() == before and not (tmp_path / "a").exists()

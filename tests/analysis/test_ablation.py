"""`egovlpv2 ablation-fusion`: Table 7 beside what is counted and measured here."""

import json
from pathlib import Path

import pytest

from egovlpv2.analysis import ablation
from egovlpv2.cli import main as cli

BASE = str(Path(__file__).parents[2] / "conf" / "model" / "base.yaml")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Eight runs whose accuracies tell which one they are of."""
    names = ["full", *(f"fusion/backbone_{k}" for k in (2, 3, 4)), *(f"fusion/stacked_{k}" for k in (1, 2, 3, 4))]
    for i, name in enumerate(names):
        (tmp_path / name).mkdir(parents=True)
        metrics = {"test/egomcq/ensemble/inter": 80.0 + i, "test/egomcq/ensemble/intra": 40.0 + i, "val/score": 1.0}
        (tmp_path / name / "metrics.json").write_text(json.dumps({"metrics": metrics, "protocol": {}}))
    return tmp_path


def test_table(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, plot = tmp_path / "fusion.json", tmp_path / "fusion.png"
    cli(["ablation-fusion", "--config", BASE, "--runs", str(runs), "--out", str(out), "--plot", str(plot)])
    rows = json.loads(out.read_text())
    assert list(rows) == [f"{kind} {m}" for kind in ("backbone", "stacked") for m in (3, 6, 9, 12)]
    assert [row["toy inter"] for row in rows.values()] == [80.0 + i for i in range(8)]
    assert rows["backbone 6"]["M params"] == pytest.approx(381.6, abs=0.05)
    assert rows["stacked 6"]["published GMACs"] == 437.90 and rows["stacked 12"]["toy intra"] == 47.0
    assert rows["stacked 6"]["ours"] < rows["backbone 6"]["ours"] < rows["backbone 6"]["nothing shared"]
    assert "381.61" in capsys.readouterr().out and plot.read_bytes().startswith(b"\x89PNG")


def test_questions_of_one_kind_only(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
                                    ) -> None:
    counted = {"parameters": 1e6, "gmacs": {"unshared": 1.0, "video_once": 1.0, "ours": 1.0}}
    monkeypatch.setattr(ablation, "complexity", lambda config: counted)  # counting takes half a minute: see above
    for path in runs.glob("**/metrics.json"):
        path.write_text(json.dumps({"metrics": {"test/egomcq/ensemble/inter": 80.0}, "protocol": {}}))
    cli(["ablation-fusion", "--config", BASE, "--runs", str(runs)])
    out = capsys.readouterr().out
    assert "toy inter" in out and "toy intra" not in out


def test_a_missing_run_is_named(runs: Path) -> None:
    (runs / "fusion" / "stacked_3" / "metrics.json").unlink()
    with pytest.raises(SystemExit, match="stacked_3/metrics.json is missing"):
        cli(["ablation-fusion", "--config", BASE, "--runs", str(runs)])


def test_a_plot_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--plot draws the accuracies of --runs"):
        cli(["ablation-fusion", "--config", BASE, "--plot", str(tmp_path / "a.png")])

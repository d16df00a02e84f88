"""Real head-camera videos, where they lie beside the project (see README, "Your own videos")."""

import json
from pathlib import Path

import pytest
from helpers import REAL_DATA, ROOT

from egovlpv2.cli import main as cli

REAL = REAL_DATA / "real_egoclip"


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="EGOVLPV2_REAL_DATA has no such files")
def test_the_tiny_model_overfits_real_videos(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGO_OWN", str(REAL))
    monkeypatch.setenv("EGO_TOY", str(toy))
    files = ("pretrain", "model/tiny", "data/own", "trainer/cpu", "own/pretrain")
    cli(["fit", *(f"--config={ROOT / 'conf' / f'{file}.yaml'}" for file in files),
         f"--trainer.logger.init_args.save_dir={tmp_path}", "--trainer.enable_progress_bar=false", "--precision=32"])
    metrics = json.loads((tmp_path / "pretrain" / "metrics.json").read_text())["metrics"]
    assert metrics["val/egomcq/ensemble/inter"] >= 80 and "val/egomcq/ensemble/intra" not in metrics

"""Real head-camera videos, where they lie beside the project (see README, "Your own videos")."""

import json
from pathlib import Path

import pytest
import torch
from helpers import REAL_DATA, ROOT, make_clips

from egovlpv2.cli import main as cli
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.pretrain import Pretrain

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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_objectives_on_a_gpu_are_those_on_the_cpu(small_config, tokenizer: str) -> None:
    batch, losses = make_clips(8), []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        task = Pretrain(small_config(tokenizer), OptimizerConfig()).eval().to(device)
        moved = task.transfer_batch_to_device(batch, torch.device(device), 0)
        losses.append(task.objectives(moved, torch.Generator().manual_seed(0)).losses)
    for name in losses[0]:
        torch.testing.assert_close(losses[1][name].cpu(), losses[0][name], atol=1e-3, rtol=1e-3)

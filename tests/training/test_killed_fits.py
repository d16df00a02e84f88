"""`egovlpv2 fit`, killed at random moments and resumed, equals an uninterrupted run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from training.small_run import outcome

STEPS, EPOCHS, KILLS = 6, 4, 4


def arguments(toy: Path, every: int) -> list[str]:
    """A pre-training of a small model on the toy world, with epochs of six steps."""
    files = ("pretrain", "model/tiny", "data/toy", "trainer/cpu")
    shrink = {"video.overrides": "{img_size: 32, patch_size: 16, embed_dim: 48, depth: 2, num_heads: 3}",
              "num_fused_layers": "1", "projector": "[32]", "text.tokenizer": str(toy / "tokenizer")}
    return ["fit", *(f"--config={ROOT / 'conf' / f'{file}.yaml'}" for file in files),
            *(f"--model.init_args.backbone.{key}={value}" for key, value in shrink.items()),
            f"--data.init_args.root={toy}", "--data.init_args.chunk_seconds=8", "--data.init_args.size=32",
            "--data.init_args.batch_size=2", "--data.init_args.num_workers=0",
            f"--trainer.limit_train_batches={STEPS}", f"--trainer.max_epochs={EPOCHS}",
            "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false", "--precision=32",
            f"--last_checkpoint.every_n_train_steps={every}"]


def run(folder: Path, seed: int, kills: int, args: list[str], **env: str) -> list[str]:
    """Run with kills, and say at which moments they came."""
    script = Path(__file__).with_name("killed_runs.py")
    done = subprocess.run([sys.executable, script, folder, str(seed), str(kills), *args], capture_output=True,
                          text=True, env={**os.environ, "OMP_NUM_THREADS": "1"} | env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def numbers(folder: Path) -> dict[str, Any]:
    """The report of a run without what depends on the clock and the folder."""
    report = json.loads((folder / "metrics.json").read_text())
    for name in ("fit_seconds", "checkpoint"):
        report["protocol"].pop(name)
    return report


@pytest.mark.slow
def test_killed_runs_end_as_the_uninterrupted_one(toy: Path, tmp_path: Path) -> None:
    run(tmp_path / "whole", 0, 0, arguments(toy, 100))
    expected, report, moments = outcome(tmp_path / "whole"), numbers(tmp_path / "whole"), []
    seconds = json.loads((tmp_path / "whole" / "metrics.json").read_text())["protocol"]["fit_seconds"]
    assert expected["last"]["steps"] == STEPS * EPOCHS
    for every in range(2, 8):
        elsewhere = tmp_path / f"tmp{every}"
        elsewhere.mkdir()
        moments += run(tmp_path / f"every{every}", every, KILLS, arguments(toy, every), TMPDIR=str(elsewhere),
                       TRAINING_SECONDS=str(seconds / 2))
        assert outcome(tmp_path / f"every{every}") == expected, (every, moments)
        assert numbers(tmp_path / f"every{every}") == report, (every, moments)
        assert not list((tmp_path / f"every{every}").rglob("*.tmp"))
    print(f"{len(moments)} kills: {moments}")
    assert len(moments) >= 20

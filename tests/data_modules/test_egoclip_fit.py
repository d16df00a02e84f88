"""A fit on EgoClip: resumed, it sees the same pixels, and what is wrong is named before or while it trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import REAL_DATA
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from egovlpv2.data_modules.egoclip import EgoClipDataModule


class Brightness(LightningModule):
    """Records the clips that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[list[int]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        light = batch["video"].long().sum(dim=(1, 2, 3, 4)).tolist()
        self.seen.append(light + batch["text"]["input_ids"][:, 3].tolist())
        return self.layer(torch.ones(1)).sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        assert batch["video"].shape[1] == 5

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data: EgoClipDataModule, folder: Path, resume: Path | None = None, max_epochs: int = 2) -> list[list[int]]:
    model = Brightness()
    save = ModelCheckpoint(dirpath=folder, every_n_train_steps=7, save_top_k=-1)
    trainer = Trainer(
        max_epochs=max_epochs, accelerator="cpu", logger=False, callbacks=save, enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    return model.seen


@pytest.mark.parametrize("workers", [0, 1])
def test_resumed_training_sees_the_same_pixels(world: Path, options: dict[str, Any], workers: int) -> None:
    options |= {"num_workers": workers, "mcq_val": "egomcq.json"}
    whole = fit(EgoClipDataModule(str(world), **options), world)
    (checkpoint,) = world.glob("*.ckpt")
    assert fit(EgoClipDataModule(str(world), **options), world / "again", checkpoint) == whole[7:]
    assert len({tuple(batch) for batch in whole}) == 10


@pytest.mark.parametrize("which", ["mcq_val", "mcq_test"])
def test_a_fit_names_bad_questions_before_it_trains(world: Path, options: dict[str, Any], which: str) -> None:
    (world / "bad.json").write_text('{"0": {"answer": 7}}')
    data = EgoClipDataModule(str(world), **{"mcq_val": "egomcq.json", "mcq_test": "egomcq.json", which: "bad.json"},
                             **options)
    with pytest.raises(ValueError, match="bad.json, question"):
        fit(data, world)
    assert "train_clips" not in data.counts


def test_training_ends_when_too_much_is_missing(
    world: Path, options: dict[str, Any], damage: Callable[[str], None]
) -> None:
    damage("short")
    with pytest.raises(ValueError, match="of 40 training clips could not be read.*short/0.mp4"):
        fit(EgoClipDataModule(str(world), **options), world)
    data = EgoClipDataModule(str(world), max_failed_share=0.9, **options)
    assert len(fit(data, world)) == 10
    assert data.counts["train_clips"] == 80 and data.counts["replaced_clips"] >= 5


REAL = REAL_DATA / "real_egoclip"


@pytest.mark.skipif(not REAL.is_dir(), reason="EGOVLPV2_REAL_DATA has no such files")
def test_real_clips(tmp_path: Path, options: dict[str, Any]) -> None:
    data = EgoClipDataModule(str(REAL), **options | {"chunk_seconds": 600.0})
    assert len(fit(data, tmp_path, max_epochs=1)) == 5
    assert data.counts["malformed_rows"] == 0 and data.counts["replaced_clips"] == 0

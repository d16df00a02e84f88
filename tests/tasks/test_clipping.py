"""Gradients are clipped in every precision, those of a fused optimizer too where Lightning allows it."""

from pathlib import Path

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.base import Task


class Linear(Task):
    """A task with one layer."""

    def __init__(self) -> None:
        super().__init__(OptimizerConfig(lr=0.1, warmup_epochs=0))
        self.layer = nn.Linear(3, 1)
        self.norms: list[float] = []

    @property
    def trained(self) -> nn.Module:
        return self.layer

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return 100 * self.layer(batch).mean()

    def on_train_batch_end(self, *_: object) -> None:
        assert self.layer.weight.grad is not None
        self.norms.append(float(self.layer.weight.grad.norm()))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_gradients_are_clipped_in_every_precision(precision: str, clip: float | None, tmp_path: Path) -> None:
    task = Linear()
    before = task.layer.weight.detach().clone()
    trainer = Trainer(accelerator="cpu", precision=precision, gradient_clip_val=clip, max_epochs=1, logger=False,
                      enable_checkpointing=False, enable_progress_bar=False, default_root_dir=tmp_path)
    trainer.fit(task, DataLoader(torch.ones(4, 3), batch_size=2))
    assert not torch.equal(task.layer.weight, before) and len(task.norms) == 2
    assert all(norm <= 0.5 + 1e-3 if clip else norm > 100 for norm in task.norms)
    fused = trainer.optimizers[0].defaults["fused"]
    assert fused == (clip is None or precision == "32-true")

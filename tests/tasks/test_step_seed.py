"""Random draws of a step: other masks and pairs in each step and epoch, the same in a resumed run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import make_clips
from lightning import Trainer
from torch.utils.data import DataLoader

from egovlpv2.batch import ClipBatch
from egovlpv2.model.config import BackboneConfig
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks import base, matching, pretrain

EPOCHS, STEPS = 2, 2


class Drawn(pretrain.Pretrain):
    """Pre-training that remembers, by epoch and step, what it drew: masked tokens, pairs, and dropout's next number."""

    def __init__(self, config: BackboneConfig) -> None:
        config.text.arch |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        super().__init__(config, OptimizerConfig(lr=1e-12, end_lr=0.0), masked_share=0.5)  # nothing but the seed moves
        self.masks: dict[tuple[int, int], list[bool]] = {}
        self.pairs: dict[tuple[int, int], list[int]] = {}
        self.dropout: dict[tuple[int, int], float] = {}

    def training_step(self, batch: ClipBatch, batch_idx: int) -> torch.Tensor:
        self.dropout[self.current_epoch, batch_idx] = torch.rand(1).item()
        return super().training_step(batch, batch_idx)


@pytest.fixture
def task(small_config, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes a task, always with the same weights."""
    current: list[Drawn] = []

    def recorded(function: Any, name: str, part: str) -> Any:
        def call(*args: Any) -> Any:
            drawn, step = function(*args), (current[-1].current_epoch, current[-1].trainer.fit_loop.batch_idx)
            getattr(current[-1], name)[step] = getattr(drawn, part).flatten().tolist()
            return drawn
        return call

    monkeypatch.setattr(pretrain, "mask_tokens", recorded(pretrain.mask_tokens, "masks", "chosen"))
    monkeypatch.setattr(matching, "sample_vtm_pairs", recorded(matching.sample_vtm_pairs, "pairs", "video"))

    def make() -> Drawn:
        torch.manual_seed(0)
        current.append(Drawn(small_config(tokenizer)))
        return current[-1]

    return make


def fit(task: Drawn, epochs: int = EPOCHS, resume: Path | None = None, save: Path | None = None) -> Drawn:
    torch.manual_seed(1)
    data = DataLoader([make_clips(8)] * STEPS, batch_size=None)  # the same batch in every step
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(task, data, ckpt_path=resume, weights_only=True)
    if save is not None:
        trainer.save_checkpoint(save)
    return task


def test_every_step_of_every_epoch_draws_other_masks_and_pairs(task) -> None:
    drawn = fit(task())
    steps = [(epoch, step) for epoch in range(EPOCHS) for step in range(STEPS)]
    for kind in (drawn.masks, drawn.pairs, drawn.dropout):
        assert sorted(kind) == steps
        values = [kind[step] for step in steps]
        assert all(values[i] != values[j] for i in range(len(values)) for j in range(i)), values


def test_a_resumed_run_draws_what_the_uninterrupted_one_does(task, tmp_path: Path) -> None:
    whole = fit(task())
    fit(task(), epochs=1, save=tmp_path / "first.ckpt")
    resumed = fit(task(), resume=tmp_path / "first.ckpt")
    assert len(resumed.masks) == (EPOCHS - 1) * STEPS
    for kind in ("masks", "pairs", "dropout"):
        later = getattr(resumed, kind)
        assert later == {step: drawn for step, drawn in getattr(whole, kind).items() if step in later}


def test_another_seed_draws_others(task, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for seed in (0, 1):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        runs.append(fit(task(), epochs=1))
    assert all(runs[0].masks[step] != runs[1].masks[step] for step in runs[0].masks)


def test_processes_share_masks_and_pairs_but_not_dropout(task, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for rank in (0, 1):
        monkeypatch.setattr(base, "rank", lambda rank=rank: rank)
        runs.append(fit(task(), epochs=1))
    assert runs[0].masks == runs[1].masks and runs[0].pairs == runs[1].pairs
    assert all(runs[0].dropout[step] != runs[1].dropout[step] for step in runs[0].dropout)

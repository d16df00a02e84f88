"""Pictures of attention during pre-training: each validation draws the right clip."""

import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import make_clips
from lightning import LightningDataModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.pretrain import Pretrain
from egovlpv2.tokenization import load_tokenizer, tokenize
from egovlpv2.viz.attention import Strip, draw_attention
from egovlpv2.viz.callbacks import AttentionPictures

TEXT = "w10 w20 w30"


class Data(LightningDataModule):
    """Batches of noise to train on, and two questions to validate on; the first asks for its third clip."""

    def __init__(self, folder: str, asked: int = 2) -> None:
        super().__init__()
        self.tokenizer, self.tokenizer_name, self.asked = load_tokenizer(folder), folder, asked
        self.max_tokens = 7

    def train_dataloader(self) -> DataLoader:
        return DataLoader([make_clips(4)] * 2, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        torch.manual_seed(5)
        self.batch: dict[str, Any] = {
            "key": ["0", "1"], "video": torch.randint(0, 256, (2, 5, 4, 3, 32, 32), dtype=torch.uint8),
            "text": tokenize(self.tokenizer, [TEXT, "w1"], self.max_tokens), "answer": torch.tensor([2, 0]),
            "kind": torch.ones(2)}
        cut = {name: value[:self.asked] for name, value in self.batch.items() if name != "text"}
        cut["text"] = {name: ids[:self.asked] for name, ids in self.batch["text"].items()}
        return DataLoader([cut, cut], batch_size=None)


def trainer(tmp_path: Path, **changes: Any) -> Trainer:
    options = {"logger": TensorBoardLogger(tmp_path, "run", ""), "accelerator": "cpu", "max_epochs": 2,
               "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
               "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    return Trainer(callbacks=[AttentionPictures()], **(options | changes))


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_each_validation_draws_the_right_clip(small_config: Callable[..., Any], tokenizer: str, tmp_path: Path,
                                              precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def draw(title: str, frames: torch.Tensor, times: None, strips: list[Strip], across: float) -> Any:
        drawn.append((title, frames, strips))
        return draw_attention(title, frames, times, strips, across=across)

    monkeypatch.setattr("egovlpv2.viz.callbacks.draw_attention", draw)
    data = Data(tokenizer)
    task = Pretrain(small_config(tokenizer), OptimizerConfig(warmup_epochs=1))
    trainer(tmp_path, precision=precision).fit(task, data)
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    images = events.Images("val/attention")
    assert [image.step for image in images] == [2, 4] and len(drawn) == 2
    assert all(image.height > 400 and Image.open(BytesIO(image.encoded_image_string)) for image in images)
    for title, frames, strips in drawn:
        assert re.fullmatch(rf"{TEXT}: layer 2, mean of all heads, match 0\.\d\d", title)
        assert torch.equal(frames, data.batch["video"][0, 2]) and [strip.label for strip in strips] == TEXT.split()
        assert all(strip.cls + strip.patches.sum() == pytest.approx(1, abs=1e-3) for strip in strips)


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.parametrize("what", ["no logger", "no question"])
def test_no_picture_and_the_run_goes_on(small_config: Callable[..., Any], tokenizer: str, tmp_path: Path, what: str,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egovlpv2.viz.callbacks.draw_attention", lambda *_, **__: pytest.fail("nobody looks at it"))
    task = Pretrain(small_config(tokenizer), OptimizerConfig(warmup_epochs=1))
    changes = {"logger": False} if what == "no logger" else {}
    run = trainer(tmp_path, max_epochs=1, **changes)
    run.fit(task, Data(tokenizer, 0 if what == "no question" else 2))
    assert run.global_step == 2

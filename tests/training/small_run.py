"""A run of a second: a small model, epochs of six steps, and everything that a real run leaves behind."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from egovlpv2.data_modules.loaders import LoaderDataModule, ResumableDataLoader
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.base import Task
from egovlpv2.training.checkpoint_io import WholeCheckpointIO
from egovlpv2.training.resume import use_resumable_loops
from egovlpv2.training.run_checkpoints import BestCheckpoint, LastCheckpoint

STEPS, EPOCHS = 6, 3  # an epoch has so many steps


class Rows(Dataset):
    """Vectors that depend on the key alone."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, key: tuple[int, int] | int) -> Tensor:
        epoch, row = key if isinstance(key, tuple) else (0, key)
        return torch.randn(4, generator=torch.Generator().manual_seed(1000 * epoch + row))


class RowsDataModule(LoaderDataModule):
    """Rows to train and to validate on."""

    def __init__(self, rows: int = 2 * STEPS, batch_size: int = 2) -> None:
        super().__init__(batch_size, eval_batch_size=2, num_workers=0)
        self.rows = rows

    def train_dataloader(self) -> ResumableDataLoader:
        return self.train_loader(Rows(self.rows), torch.stack)

    def val_dataloader(self) -> DataLoader:
        return self.eval_loader(Rows(4), torch.stack)


class SmallTask(Task):
    """Something to learn, with dropout, a scalar of each step and of each epoch, and a score that goes up and down."""

    trains = "net"

    def __init__(self, width: int = 8, lr: float = 0.1) -> None:
        super().__init__(OptimizerConfig(lr=lr, warmup_epochs=1.0))
        self.net = nn.Sequential(nn.Linear(4, width), nn.Dropout(0.3), nn.Tanh(), nn.Linear(width, 1))

    @property
    def trained(self) -> nn.Module:
        return self.net

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = (self.net(batch) - batch.sum(1, keepdim=True)).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/score", torch.sin(40 * self.net(batch)).mean(), batch_size=len(batch))

    def on_train_epoch_end(self) -> None:
        self.log("bias", self.net[3].bias.detach().squeeze())


def make_trainer(folder: Path, every: int, *callbacks: Callback, save_last: Callback | None = None, **options: Any
                 ) -> Trainer:
    """A trainer of a run in `folder`, as the command `fit` makes it."""
    best = BestCheckpoint(monitor="val/score", mode="max", filename="best", auto_insert_metric_name=False,
                          enable_version_counter=False)
    trainer = Trainer(
        logger=TensorBoardLogger(folder.parent, folder.name, ""), log_every_n_steps=1,
        callbacks=[*callbacks, best, save_last or LastCheckpoint(every)], enable_progress_bar=False,
        enable_model_summary=False, **{"accelerator": "cpu", "max_epochs": EPOCHS, "num_sanity_val_steps": 0} | options,
    )
    trainer.strategy.checkpoint_io = WholeCheckpointIO()
    use_resumable_loops(trainer)
    return trainer


def fit(folder: Path, every: int, *callbacks: Callback, task: Task | None = None, data: LoaderDataModule | None = None,
        **options: Any) -> Trainer:
    """Train, or go on with the run in `folder` if it has a last checkpoint."""
    last = folder / "checkpoints" / "last.ckpt"
    trainer = make_trainer(folder, every, *callbacks, **options)
    torch.manual_seed(0)
    trainer.fit(task or SmallTask(), data or RowsDataModule(), ckpt_path=last if last.is_file() else None)
    return trainer


def outcome(folder: Path) -> dict[str, Any]:
    """Collect the results of a run: scalars by tag and step, and the content of its checkpoints."""
    events = EventAccumulator(str(folder)).Reload()
    found: dict[str, Any] = {tag: {event.step: event.value for event in events.Scalars(tag)}
                             for tag in events.Tags()["scalars"]}
    for name in ("best", "last"):
        content = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        state = next(value for key, value in content["callbacks"].items() if key.startswith("BestCheckpoint"))
        found[name] = {
            "steps": content["global_step"], "weights": {k: v.tolist() for k, v in content["state_dict"].items()},
            "moments": [[value.tolist() for value in state.values()] for state in
                        content["optimizer_states"][0]["state"].values()],
            "schedule": content["lr_schedulers"][0]["last_epoch"], "best": float(state["best_model_score"]),
            "best of": Path(state["best_model_path"]).name,
        }
    return found

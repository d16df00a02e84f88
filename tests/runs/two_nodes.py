"""Parts of the runs of test_nodes.py: a data module in the order of two processes, and a step that takes long."""

import time
from functools import partial
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from egovlpv2.data_modules.clip_groups import ClipGroup
from egovlpv2.data_modules.egoclip import EgoClipDataModule
from egovlpv2.data_modules.loaders import Collate, ResumableDataLoader, Rows
from egovlpv2.training.run_checkpoints import LastCheckpoint


def collate_as_two(pairs: list[ClipGroup], collate: Collate) -> dict[str, Any]:
    """Make the batch that two processes have together: rows 0, 2, ... and their negatives, then those of 1, 3, ..."""
    first, second = (collate(pairs[rank::2]) for rank in range(2))
    joined = {name: torch.cat([first[name], second[name]]) for name in ("video", "verbs", "nouns")}
    text = {name: torch.cat([ids, second["text"][name]]) for name, ids in first["text"].items()}
    return joined | {"text": text, "failures": first["failures"] + second["failures"]}


class OrderOfTwo(EgoClipDataModule):
    """EgoClip for one process, in the order of two: masks and negative pairs are drawn by the place in the batch."""

    def train_loader(self, dataset: Rows[ClipGroup], collate: Collate) -> ResumableDataLoader:
        return super().train_loader(dataset, partial(collate_as_two, collate=collate))


class WaitForSignal(Callback):
    """Wait for a signal before a step of a run that hasn't been resumed, as if its time were over then.

    Args:
        steps: Number of steps before that one.
        rank: The process that waits; the others wait for it in the step's collectives.
    """

    def __init__(self, steps: int, rank: int = 0) -> None:
        self.steps, self.rank = steps, rank

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step != self.steps or trainer.global_rank != self.rank or trainer.ckpt_path is not None:
            return
        last = next(callback for callback in trainer.callbacks if isinstance(callback, LastCheckpoint))
        deadline = time.monotonic() + 180
        print(f"process {self.rank} waits for a signal", flush=True)
        while last.stop.number is None:
            if time.monotonic() > deadline:
                raise TimeoutError("no signal came")
            time.sleep(0.05)

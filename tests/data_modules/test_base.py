"""A resumed run sees the batches that it would have seen; every row is dealt once; what can't be read is counted."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from egovlpv2.data_modules.base import VideoDataModule
from egovlpv2.data_modules.clips import Failure
from egovlpv2.data_modules.loaders import PAD_INDEX, DistributedEvalSampler, EpochSampler, ResumableDataLoader, stack
from egovlpv2.training.resume import use_resumable_loops

SEED, ROWS, BATCH, EPOCHS = 3, 22, 4, 3  # five batches an epoch, two rows left out


class Keys(Dataset):
    """Gives its keys and a random number of each."""

    def __init__(self, rows: int = ROWS, broken: tuple[int, ...] = ()) -> None:
        self.rows, self.broken = rows, broken

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, key: tuple[int, int] | int) -> tuple[Tensor, list[Failure]]:
        epoch, row = key if isinstance(key, tuple) else (0, key)
        failures = [Failure(row, f"v{row}", f"v{row} is broken")] if row in self.broken else []
        drawn = np.random.default_rng((SEED, epoch, abs(row))).integers(99)
        return torch.tensor([epoch, row, int(drawn)]), failures


def collate(items: list[tuple[Tensor, list[Failure]]]) -> dict[str, Any]:
    return {"video": torch.stack([key for key, _ in items]), "failures": sum((failed for _, failed in items), [])}


class KeysDataModule(VideoDataModule):
    """Keys to train and to validate on."""

    def __init__(self, broken: tuple[int, ...] = (), rows: int = ROWS, **kwargs: Any) -> None:
        super().__init__(batch_size=BATCH, eval_batch_size=BATCH, seed=SEED, **kwargs)
        self.dataset = Keys(rows, broken)

    def train_dataloader(self) -> ResumableDataLoader:
        return self.train_loader(self.dataset, collate)

    def val_dataloader(self) -> DataLoader:
        return self.eval_loader(self.dataset, collate)


class Recorder(LightningModule):
    """Records the batches that it is trained on."""

    contrastive_batch: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[list[list[int]]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        assert "failures" not in batch
        self.seen.append(batch["video"].tolist())
        return self.layer(torch.ones(1)).sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        assert "failures" not in batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(
    folder: Path, data: VideoDataModule, resume: Path | None = None, save: ModelCheckpoint | None = None,
    loops: bool = True, **options: Any,
) -> Recorder:
    """Train for three epochs, with a checkpoint where `save` says, and give what the model saw.

    With `loops`, as `egovlpv2 fit` does, otherwise by Lightning's own loops.
    """
    model = Recorder()
    options = {"max_epochs": EPOCHS, "limit_val_batches": 1, "num_sanity_val_steps": 0} | options
    trainer = Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=save, enable_checkpointing=save is not None, **options,
    )
    if loops:
        use_resumable_loops(trainer)
    trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    return model


def resumed(folder: Path, save: ModelCheckpoint, workers: int, **options: Any) -> dict[int, tuple[list, list]]:
    """Per checkpoint, by its step: what came after it, and what comes when it is resumed."""
    whole = train(folder, KeysDataModule(num_workers=workers), save=save, **options).seen
    found = {}
    for path in sorted(folder.glob("*.ckpt")):
        step = torch.load(path, weights_only=True)["global_step"]
        again = train(folder, KeysDataModule(num_workers=workers), resume=path, **options).seen
        found[step] = (whole[step:], again)
    return found


def test_a_step_has_the_rows_of_the_contrastive_batch(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", KeysDataModule(num_workers=0), max_epochs=1).seen
    Recorder.contrastive_batch = 2 * BATCH
    try:
        seen = train(tmp_path / "large", KeysDataModule(num_workers=0), max_epochs=1).seen
        assert seen == [plain[i] + plain[i + 1] for i in range(0, len(plain) - 1, 2)]
        Recorder.contrastive_batch = BATCH + 1
        with pytest.raises(ValueError, match=f"contrastive_batch={BATCH + 1} is not a multiple of .*batch_size"):
            train(tmp_path / "odd", KeysDataModule(num_workers=0), max_epochs=1)
    finally:
        Recorder.contrastive_batch = None


@pytest.mark.parametrize(("workers", "every", "loops"), [(0, 1, True), (0, 1, False), (1, 4, True)])
def test_resume_after_any_batch(tmp_path: Path, workers: int, every: int, loops: bool) -> None:
    save = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=every, save_top_k=-1)
    found = resumed(tmp_path, save, workers, loops=loops)
    assert set(found) == set(range(every, 16, every))
    for step, (expected, seen) in found.items():
        assert seen == expected, step


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("after_training", [True, False])
def test_resume_after_an_epoch(tmp_path: Path, workers: int, after_training: bool) -> None:
    save = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, save_on_train_epoch_end=after_training)
    found = resumed(tmp_path, save, workers)
    assert set(found) == {5, 10, 15}
    for step, (expected, seen) in found.items():
        assert seen == expected, step


def test_resume_after_validation_within_an_epoch(tmp_path: Path) -> None:
    save = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, save_on_train_epoch_end=False)
    found = resumed(tmp_path, save, 0, val_check_interval=2)
    assert {2, 4} <= set(found)
    for step, (expected, seen) in found.items():
        assert seen == expected, step


def test_resume_of_epochs_that_keep_their_last_rows(tmp_path: Path) -> None:
    save = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1, save_top_k=-1)
    whole = train(tmp_path, KeysDataModule(num_workers=0, drop_last=False), save=save).seen
    assert [len(batch) for batch in whole] == [4, 4, 4, 4, 4, 2] * EPOCHS
    assert all({row for batch in whole[6 * e : 6 * e + 6] for _, row, _ in batch} == set(range(ROWS)) for e in range(3))
    for path in tmp_path.glob("*.ckpt"):
        step = torch.load(path, weights_only=True)["global_step"]
        assert train(tmp_path, KeysDataModule(num_workers=0, drop_last=False), resume=path).seen == whole[step:], step


def test_resume_of_shortened_epochs_and_of_steps(tmp_path: Path) -> None:
    for number, options in enumerate(({"limit_train_batches": 3}, {"max_steps": 13, "max_epochs": -1})):
        save = ModelCheckpoint(dirpath=tmp_path / str(number), every_n_train_steps=1, save_top_k=-1)
        found = resumed(tmp_path / str(number), save, 0, **options)
        assert len(found) >= 9
        for step, (expected, seen) in found.items():
            assert seen == expected, (options, step)


def test_epochs_differ_and_hold_every_row_once(tmp_path: Path) -> None:
    seen = train(tmp_path, KeysDataModule(num_workers=0)).seen
    epochs = [[key for batch in seen[5 * e : 5 * e + 5] for key in batch] for e in range(3)]
    for number, keys in enumerate(epochs):
        assert {epoch for epoch, _, _ in keys} == {number}
        assert len({row for _, row, _ in keys}) == 20
    assert len({tuple(row for _, row, _ in keys) for keys in epochs}) == 3


def test_a_changed_run_cannot_go_on_within_an_epoch() -> None:
    loader = ResumableDataLoader(Keys(), 4, seed=1)
    next(iter(loader))
    state = loader.state_dict()
    assert state["epoch"] == 0 and state["batch"] == 1
    with pytest.raises(ValueError, match="rows of a step: 4 then, 8 now; seed: 1 then, 2 now.*same data, seed and"):
        ResumableDataLoader(Keys(), 8, seed=2).load_state_dict(state)
    ResumableDataLoader(Keys(), 2, num_replicas=2, rank=1, seed=1).load_state_dict(state)
    list(loader)
    ResumableDataLoader(Keys(), 8, seed=2).load_state_dict(loader.state_dict() | {"batch": 0})


def test_too_few_rows() -> None:
    with pytest.raises(ValueError, match=r"22 rows, and 3 process\(es\) with batch_size=8 take 24"):
        ResumableDataLoader(Keys(), 8, num_replicas=3)


@pytest.mark.parametrize("epoch", [0, 1])
def test_one_process_and_two_see_the_same_batches(epoch: int) -> None:
    loaders = [ResumableDataLoader(Keys(), 2, 2, rank, SEED, collate_fn=collate) for rank in (0, 1)]
    alone = ResumableDataLoader(Keys(), 4, seed=SEED, collate_fn=collate)
    for loader in (alone, *loaders):
        loader.sampler.set_epoch(epoch)
    for one, first, second in zip(alone, *loaders, strict=True):
        assert sorted(one["video"].tolist()) == sorted(first["video"].tolist() + second["video"].tolist())


def test_the_seed_sets_the_order() -> None:
    first, again, other = (list(EpochSampler(range(50), 1, 0, seed)) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(("rows", "processes"), [(7, 1), (7, 2), (8, 3), (2, 4), (9, 3)])
def test_evaluation_deals_every_row_once(rows: int, processes: int) -> None:
    shares = [list(DistributedEvalSampler(range(rows), processes, rank)) for rank in range(processes)]
    assert sorted(row for share in shares for row in share if row != PAD_INDEX) == list(range(rows))
    assert len({len(share) for share in shares}) == 1


def test_lightning_keeps_the_samplers(tmp_path: Path) -> None:
    """With two processes, Lightning would put a sampler of its own in the place of any but a DistributedSampler."""
    data = KeysDataModule(num_workers=0)
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", logger=False, default_root_dir=tmp_path)
    data.trainer = trainer
    assert trainer.world_size == 2
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert loader.sampler.num_replicas == 2
        assert not trainer._data_connector._requires_distributed_sampler(loader)


def test_failures_are_counted_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = KeysDataModule(broken=(5,), num_workers=0, max_failed_share=0.5)
    with caplog.at_level(logging.WARNING):
        train(tmp_path, data)
    # 22 rows and 20 are taken: row 5 is in two epochs or three
    assert data.counts["train_rows"] == ROWS and data.counts["train_clips"] == EPOCHS * 20
    assert 2 <= data.counts["replaced_clips"] <= 3
    assert data.counts["skipped_rows"] <= 1
    assert [record.message for record in caplog.records if "v5" in record.message] == ["Not readable: v5 is broken"]


def test_one_failure_of_twenty_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1 of 20 training clips .*max_failed_share=0.01.*: v\d+ is broken"):
        train(tmp_path, KeysDataModule(broken=tuple(range(10)), num_workers=0))


def test_evaluation_ends_with_too_many_left_out(tmp_path: Path) -> None:
    run = partial(train, tmp_path, limit_val_batches=1.0, limit_train_batches=1, max_epochs=2)
    data = KeysDataModule(broken=(21,), num_workers=0, max_failed_share=0.06)
    run(data)
    assert data.counts["skipped_rows"] == 1  # of two evaluations, the same row
    with pytest.raises(ValueError, match="1 of 22 rows could .*: v21 is broken"):
        run(KeysDataModule(broken=(21,), num_workers=0))


def test_overfit_batches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="limit_train_batches"):
        train(tmp_path, KeysDataModule(num_workers=0), overfit_batches=1)


@pytest.mark.parametrize(("name", "value", "least"), [
    ("num_frames", 0, 1), ("eval_num_frames", 0, 1), ("eval_num_frames", -1, 1), ("max_tokens", 2, 3),
    ("eval_max_tokens", 0, 3), ("size", 0, 1), ("batch_size", 0, 1), ("eval_batch_size", -3, 1),
    ("num_workers", -1, 0), ("seed", -1, 0), ("max_failed_share", float("nan"), 0),
])
def test_settings_below_their_bounds_are_refused_by_name(name: str, value: int, least: int) -> None:
    with pytest.raises(ValueError, match=f"data.init_args.{name}={value}: give {least} or more"):
        VideoDataModule(**{name: value})


def test_more_workers_than_any_machine_has_are_refused() -> None:
    with pytest.raises(ValueError, match="data.init_args.num_workers=100000: give 1,000 at most"):
        VideoDataModule(num_workers=100_000)


def test_a_worker_stacks_a_batch_in_memory_that_is_shared() -> None:
    loader = DataLoader(torch.arange(4), 2, num_workers=1, collate_fn=lambda rows: stack(rows).is_shared())
    assert list(loader) == [True, True] and not stack(list(torch.arange(4))).is_shared()

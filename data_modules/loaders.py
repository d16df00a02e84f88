"""Loaders that resume in the middle of an epoch, or distribute the rows of an evaluation over all processes.

`LoaderDataModule` is the base class of all data modules: its `train_loader` and `eval_loader` make them.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from lightning import LightningDataModule
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from egovlpv2.device import choose_precision, pick_device
from egovlpv2.distributed import all_reduce_sum
from egovlpv2.training.resume import find_place

SET_ROOT = "set data.init_args.root (or the environment variable that the config takes it from)"
"""The remedy for missing files, in errors."""

COUNTED_IN_TRAINING = ("train_clips", "replaced_clips")
"""Counts that each process makes of its own share."""

SHORTEST_CHUNK = 0.001  # seconds

PAD_INDEX = -1  # the key that makes the shorter shares of an evaluation as long as the longest

Sample = TypeVar("Sample", covariant=True)
Collate = Callable[[list[Any]], object]

_MOST_WORKERS = 1000  # as of `egovlpv2.types.NumWorkers`: some 300 MB each


def stack(tensors: list[Tensor]) -> Tensor:
    """Stack tensors, in a worker directly in memory that it shares with the training process: one copy less."""
    return default_collate(tensors)


def require_at_least(least: float, **settings: float) -> None:
    """Refuse settings of a data module that are below `least`.

    Raises:
        ValueError: One is; the message names it.
    """
    for name, value in settings.items():
        if not value >= least:  # not a number isn't either
            raise ValueError(f"data.init_args.{name}={value}: give {least} or more")


class Rows(Dataset[Sample]):
    """A data set with a length, which torch's `Dataset` alone does not promise."""

    @abstractmethod
    def __len__(self) -> int: ...


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """Shuffle the rows of an epoch over all processes and yield keys `(epoch, index)`.

    Batch k of all processes together holds the same rows for any number of processes, if their batches together are
    as large. The last rows, which don't fill a batch of every process, are left out of that epoch, or with
    `drop_last=False` make a smaller batch, as large on every process: rows of the epoch's beginning fill it up.

    Args:
        dataset: The rows.
        num_replicas: Number of processes.
        rank: Rank of this process.
        seed: The order is a function of the seed and the epoch.
        drop_last: Make the processes' shares equal by leaving rows out, not by repeating some.
    """

    dataset: Rows[Any]

    def __init__(self, dataset: Rows[Any], num_replicas: int, rank: int, seed: int, drop_last: bool = True) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed, drop_last=drop_last)
        self.start = 0  # number of this process's rows to skip

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.dataset))
        share = np.resize(order, self.total_size)[self.rank :: self.num_replicas][self.start :]
        return ((self.epoch, int(index)) for index in share)


class DistributedEvalSampler(DistributedSampler[int]):
    """Distribute the rows of an evaluation over the processes, each row to exactly one of them.

    All processes get the same number of keys, since DDP's forward waits for all of them: a share that is one row
    short ends with `PAD_INDEX`, for which the data set must give a sample that the collate function leaves out.
    """

    dataset: Rows[Any]

    def __init__(self, dataset: Rows[Any], num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)

    def __iter__(self) -> Iterator[int]:
        rows = range(self.rank, len(self.dataset), self.num_replicas)
        return iter([*rows, *[PAD_INDEX] * (self.num_samples - len(rows))])


class ResumableDataLoader(DataLoader):
    """A training loader whose position in the epoch is stored in Lightning's checkpoints.

    The data set gets keys `(epoch, index)` and must draw all its random numbers from `(seed, epoch, index)`; then a
    run that is killed and resumed sees the batches that it would have seen. The loader itself counts the batches that
    it has yielded; the data module stores how many of them the run has used.

    Args:
        dataset: The rows.
        batch_size: Rows of a batch of one process.
        num_replicas: Number of processes.
        rank: Rank of this process.
        seed: Of the order of the rows.
        drop_last: Leave out the rows of an epoch that don't fill a batch of every process.
        **kwargs: `torch.utils.data.DataLoader`'s, but for those that choose the rows.

    Raises:
        ValueError: There are no rows, or fewer than one batch of all processes takes and `drop_last` is true.
    """

    dataset: Rows[Any]
    sampler: EpochSampler
    batch_size: int

    def __init__(
        self, dataset: Rows[Any], batch_size: int, num_replicas: int = 1, rank: int = 0, seed: int = 0,
        drop_last: bool = True, **kwargs: Any
    ) -> None:
        if not len(dataset):
            raise ValueError("The training data have 0 rows: look at their annotations.")
        if drop_last and len(dataset) < batch_size * num_replicas:
            raise ValueError(
                f"The training data have {len(dataset)} rows, and {num_replicas} process(es) with batch_size="
                f"{batch_size} take {batch_size * num_replicas} at a time: lower data.init_args.batch_size, or set "
                "data.init_args.drop_last to false."
            )
        sampler = EpochSampler(dataset, num_replicas, rank, seed, drop_last)
        super().__init__(dataset, batch_size, sampler=sampler, drop_last=drop_last, **kwargs)
        self._epoch = self._batch = 0  # of the next batch

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch declares a private class of iterators
        # A generator, so that it begins at the first `next`: Lightning calls `iter` before it sets the epoch.
        if self.sampler.epoch != self._epoch or self._batch >= len(self):
            self._epoch, self._batch = self.sampler.epoch, 0
        self.sampler.start = self._batch * self.batch_size
        for batch in super().__iter__():
            self._batch += 1
            yield batch

    def _run(self) -> dict[str, int]:
        """The settings that must not change when a run resumes in the middle of an epoch."""
        step = self.batch_size * self.sampler.num_replicas
        return {"rows of a step": step, "rows of the data": len(self.dataset), "seed": self.sampler.seed,
                "drop_last": self.drop_last}

    def state_dict(self) -> dict[str, Any]:
        """The position of the loader: epoch and number of the next batch."""
        finished = self._batch >= len(self)
        place = {"epoch": self._epoch + finished, "batch": 0 if finished else self._batch}
        return place | {"run": self._run()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at the position of a checkpoint.

        Raises:
            ValueError: The position is within an epoch, and the rows, their order or the batches have changed.
        """
        stored = {"drop_last": True} | state["run"]  # older checkpoints lack it
        changes = [f"{key}: {stored[key]} then, {now} now" for key, now in self._run().items() if stored[key] != now]
        if changes and state["batch"]:
            raise ValueError(
                f"The checkpoint was written in the middle of epoch {state['epoch']} of other training data "
                f"({'; '.join(changes)}): resume with the same data, seed and batch_size times processes."
            )
        self.sampler.set_epoch(state["epoch"])
        self._epoch, self._batch = state["epoch"], state["batch"]


class LoaderDataModule(LightningDataModule):
    """Resumable training loaders, distributed evaluation loaders, and counts of the rows.

    A subclass makes its loaders with `train_loader` and `eval_loader`. `counts` holds the counts of this process for
    `metrics.json`.

    Args:
        batch_size: Rows of a training batch, on one device.
        eval_batch_size: Rows of a batch in validation and testing, on one device.
        num_workers: Worker processes that read, for one device.
        seed: Seed of the order of the rows and of all that is random in the training data.
        drop_last: Leave out the last rows of a training epoch if they don't fill a batch on every device, instead of
            making a smaller batch of them.
    """

    evaluated: ClassVar[str] = "rows"  # the name of an evaluation's rows in `counts`
    tasks: ClassVar[tuple[str, ...]] = ()  # class paths of the tasks that take its batches; empty if any may

    def __init__(self, batch_size: int = 8, eval_batch_size: int = 8, num_workers: int = 4, seed: int = 0,
                 drop_last: bool = True) -> None:
        super().__init__()
        require_at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        require_at_least(0, num_workers=num_workers, seed=seed)
        if num_workers > _MOST_WORKERS:
            raise ValueError(f"data.init_args.num_workers={num_workers}: give {_MOST_WORKERS:,} at most, or as many as "
                             "there are cores")
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.seed, self.drop_last = seed, drop_last
        self.counts: dict[str, int] = {}
        self._train_loader: ResumableDataLoader | None = None
        self._place: dict[str, Any] | None = None  # where a resumed run continues
        self._eval_rows = 0
        self._skipped: set[int] = set()
        self._beyond: set[int] = set()

    @property
    def device_and_precision(self) -> dict[str, Any]:
        """Device and precision of the trainer, for features that are extracted before it starts."""
        if self.trainer is None:
            return {"device": None, "precision": choose_precision("auto", pick_device(None))}
        on_gpu = isinstance(self.trainer.accelerator, CUDAAccelerator)
        return {"device": "cuda" if on_gpu else "cpu",
                "precision": "bf16" if str(self.trainer.precision).startswith("bf16") else "32"}

    @property
    def has_test_data(self) -> bool:
        """True if a fit should end with a test of the best checkpoint."""
        return False

    def train_loader(self, dataset: Rows[Any], collate: Collate) -> ResumableDataLoader:
        """Shuffle `dataset`, which gets keys `(epoch, index)`, over all processes."""
        if self.trainer and getattr(self.trainer, "overfit_batches", None):  # Lightning doesn't declare it
            raise ValueError("trainer.overfit_batches would take the rows unshuffled: set trainer.limit_train_batches.")
        self.counts |= {"train_rows": len(dataset)}
        replicas, rank = self._processes()
        self._train_loader = ResumableDataLoader(
            dataset, self._rows_of_a_step(), replicas, rank, self.seed, self.drop_last, collate_fn=collate,
            **self._workers()
        )
        if self._place is not None:
            self._train_loader.load_state_dict(self._place)
        return self._train_loader

    def _rows_of_a_step(self) -> int:
        """Rows of a training step on one device: the model's `contrastive_batch`, or else `batch_size`."""
        model = self.trainer.lightning_module if self.trainer else None
        rows = getattr(model, "contrastive_batch", None) or self.batch_size
        if rows % self.batch_size:
            raise ValueError(f"model.init_args.contrastive_batch={rows} is not a multiple of data.init_args.batch_size="
                             f"{self.batch_size}, the rows that are computed at a time: change one of them")
        return rows

    def state_dict(self) -> dict[str, Any]:
        """The position in the run, and the counts up to there, summed over all processes.

        Lightning stores the loader's state too, but does not load it if the module has read
        `estimated_stepping_batches`, as ours do: by then the loader exists already.
        """
        if self._train_loader is None:
            return {}
        assert self.trainer is not None
        place = find_place(self.trainer)
        return {"train": self._train_loader.state_dict() | {"epoch": place.epoch, "batch": place.batch},
                "counts": {name: self._total(name) for name in COUNTED_IN_TRAINING if name in self.counts}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at the position of a checkpoint; an evaluation of the checkpoint starts new counts."""
        self._place = state.get("train")
        resumes = self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING
        if resumes and self._processes()[1] == 0:  # the other processes begin at zero, so that the sum is right
            self.counts |= state.get("counts", {})

    def _total(self, name: str) -> int:
        """A count, summed over the processes."""
        count = self.counts.get(name, 0)
        return all_reduce_sum(count, self.trainer.strategy.root_device) if self.trainer else count

    def eval_loader(self, dataset: Rows[Any], collate: Collate) -> DataLoader:
        """Distribute the rows of `dataset` in order over all processes, see `DistributedEvalSampler`."""
        sampler = DistributedEvalSampler(dataset, *self._processes())
        self._eval_rows, self._skipped, self._beyond = len(sampler), set(), set()
        self.counts |= {self.evaluated: len(dataset)}
        return DataLoader(
            dataset, batch_size=self.eval_batch_size, sampler=sampler, collate_fn=collate, **self._workers()
        )

    def _processes(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _workers(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }

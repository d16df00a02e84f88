"""Training loops that resume exactly at the position of a checkpoint, whichever hook it was written in.

Lightning 2.6 infers that hook from its counters. For a checkpoint of an epoch's last step it assumes that the epoch has
ended: the validation is skipped, and the next checkpoint counts the epoch twice. Here, loading normalises the counters
to an epoch and its number of finished batches. The work after a batch (a due validation, the step count of the loggers)
is done after loading if the checkpoint was written before it.

These loops build on private parts of Lightning: setup.cfg pins it below the next minor version.
"""

from typing import Any, NamedTuple

from lightning import Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

_TRACKED = ("ready", "started", "processed", "completed")


class Place(NamedTuple):
    """A position in a run."""

    epoch: int  # from 0
    batch: int  # number of finished batches of the epoch


def find_place(trainer: Trainer) -> Place:
    """Find the position of a run, which is the same in all hooks between two steps.

    A batch that the loader has yielded but no step has used does not count.
    """
    epoch = trainer.fit_loop.epoch_progress.current
    batch = trainer.fit_loop.epoch_loop.batch_progress.current
    assert isinstance(epoch, _ProcessedTracker) and isinstance(batch, _ProcessedTracker)
    return Place(epoch.processed, batch.processed if epoch.started > epoch.processed else 0)


def settle(state: dict[str, Any]) -> dict[str, Any]:
    """Normalise the state of a fit loop to the form that `FitLoop` resumes from.

    Args:
        state: `FitLoop.state_dict()`, saved in any hook.
    """
    epoch, batch = state["epoch_progress"], state["epoch_loop.batch_progress"]
    within = epoch["current"]["started"] > epoch["current"]["processed"]
    done = {"total": batch["total"]["processed"], "current": batch["current"]["processed"] if within else 0}
    settled = {key: value for key, value in state.items() if ".val_loop." not in key}
    settled["epoch_progress"] = {of: dict.fromkeys(_TRACKED[:2], counts["processed"] + within)
                                 | dict.fromkeys(_TRACKED[2:], counts["processed"]) for of, counts in epoch.items()}
    settled["epoch_loop.batch_progress"] = {of: dict.fromkeys(_TRACKED, number) for of, number in done.items()} | {
        "is_last_batch": within and batch["is_last_batch"]}
    settled["state_dict"] = {}  # of the loaders: the data module stores their position
    return settled


class FitLoop(_FitLoop):
    """Lightning's loop over epochs, which resumes from normalised counters."""

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        """Load the counters of a checkpoint.

        Raises:
            ValueError: The checkpoint is beyond the current `max_epochs` or `max_steps`.
        """
        super().load_state_dict(settle(state_dict), prefix)
        place, limits = find_place(self.trainer), (self.max_epochs, self.max_steps)
        if self.max_epochs not in (None, -1) and place.epoch + (place.batch > 0) > self.max_epochs:
            raise ValueError(f"{self.trainer.ckpt_path} is in epoch {place.epoch + (place.batch > 0)} and "
                             f"trainer.max_epochs is {limits[0]}: give as many epochs as before, or more")
        if -1 < self.max_steps < self.epoch_loop.global_step:
            raise ValueError(f"{self.trainer.ckpt_path} has {self.epoch_loop.global_step} steps behind it and "
                             f"trainer.max_steps is {limits[1]}: give as many steps as before, or more")
        epoch = self.epoch_progress.current
        assert isinstance(epoch, _ProcessedTracker)
        within = epoch.started > place.epoch
        _Loop.restarting.fset(self, within)  # type: ignore[attr-defined]  # our setter would depend on `max_steps`


class EpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, which resumes after any batch."""

    def reset(self) -> None:
        resumed, steps = self.restarting, self._batches_that_stepped
        super().reset()
        if resumed:  # undone: Lightning counts the step here, and `on_advance_end` would count it again
            self._batches_that_stepped = steps

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        resumed = self.restarting
        super().on_run_start(data_fetcher)
        if not resumed:
            return
        self.restarting = self.trainer.fit_loop._restarting = False
        if (done := self.batch_progress.current.completed) > self.trainer.num_training_batches:
            raise ValueError(f"{self.trainer.ckpt_path} was written after batch {done} of an epoch, and epochs have "
                             f"{self.trainer.num_training_batches} batches now: resume with the same data, batch_size "
                             "and trainer.limit_train_batches")
        if self._batches_that_stepped < self.global_step:
            self.on_advance_end(data_fetcher)

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """Validate if due, and call the hook `on_train_step_end` of callbacks that have it.

        It runs after the step's scalars are logged and before the next batch is fetched. It isn't called after an
        epoch's last step, which `on_train_epoch_end` follows.
        """
        super().on_advance_end(data_fetcher)
        if not self._num_ready_batches_reached() and not self._should_accumulate():
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]  # a connector of Lightning sets it
                if (hook := getattr(callback, "on_train_step_end", None)) is not None:
                    hook(self.trainer, self.trainer.lightning_module)


def use_resumable_loops(trainer: Trainer) -> None:
    """Replace the loops of a new trainer by resumable ones."""
    before = trainer.fit_loop
    trainer.fit_loop = FitLoop(trainer, before.min_epochs, before.max_epochs)
    trainer.fit_loop.epoch_loop = EpochLoop(trainer, before.epoch_loop.min_steps, before.epoch_loop.max_steps)

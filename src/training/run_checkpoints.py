"""Checkpoints of a run: the last, to resume from, and the best, to test."""

import os
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from egovlpv2.command.signals import STOPS, StopRequest, end
from egovlpv2.training.resume import Place, find_place
from egovlpv2.training.slurm import requeue, requeue_signals

LAST = Path("checkpoints", "last.ckpt")  # in the folder of a run


class LastCheckpoint(Checkpoint):
    """Write `last.ckpt` periodically, at the end of training, and when a signal stops the run.

    It is written between two steps, after the scalars of the first are logged and before the batch of the second is
    fetched; after an epoch's last step, before the validation or, without one, before the next epoch. A run resumed
    from it, with the loops of `egovlpv2.training.resume`, equals an uninterrupted one.

    SIGTERM, Ctrl-C, SIGHUP and SLURM's requeue signal end the run after its current step or batch of validation, with
    128 plus the signal's number as exit code. A second signal, seconds later, ends it at once, but never during a save.

    Args:
        every_n_train_steps: Steps between two checkpoints.
    """

    def __init__(self, every_n_train_steps: int = 100) -> None:
        if every_n_train_steps < 1:
            raise ValueError(f"LastCheckpoint: every_n_train_steps is {every_n_train_steps}, give 1 or more")
        self.every_n_train_steps = every_n_train_steps
        self.path = LAST
        self.stop = StopRequest()
        self._saved: tuple[int, Place] | None = None  # position of the file

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.path = Path(trainer.log_dir or trainer.default_root_dir) / LAST

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved = (trainer.global_step, find_place(trainer))  # start of the run, or its resumed position
        self.stop = StopRequest(*STOPS, *requeue_signals(trainer))
        self.stop.listen()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save_or_stop(trainer)

    def on_train_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save_or_stop(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save_or_stop(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and self._must_stop(trainer):
            self._save_and_stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        if self._must_stop(trainer):
            self._save_and_stop(trainer)
        self.stop.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the run if a signal caused the exception, with a checkpoint if it happened between two steps.

        A signal may also end a worker of the loader, which then fails before the current step is finished.
        """
        batch = trainer.fit_loop.epoch_loop.batch_progress.current
        try:
            if self.stop.number is not None and not isinstance(exception, SystemExit) and trainer.world_size == 1:
                if batch.ready == batch.completed:
                    self._save_and_stop(trainer)
                end(self.stop.number, f"stopped within a step; the checkpoint before it stays: {self.path}")
        finally:
            self.stop.close()

    def _save_or_stop(self, trainer: Trainer) -> None:
        if self._must_stop(trainer):
            self._save_and_stop(trainer)
        if trainer.global_step % self.every_n_train_steps == 0:
            self._save(trainer)

    def _must_stop(self, trainer: Trainer) -> bool:
        """Return True, on all processes, if a signal has reached any process of the run; all then act on the same one.

        A signal reaches them at different times: the first process must know which one has stopped the run.
        """
        number = self.stop.number or 0
        if trainer.world_size > 1:
            numbers = torch.tensor(number, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(numbers, reduce_op="max"))
        if number:
            self.stop.adopt(number)
        return number > 0

    def _save(self, trainer: Trainer) -> None:
        state = (trainer.global_step, find_place(trainer))
        if state == self._saved or trainer.fast_dev_run:  # type: ignore[attr-defined]  # set outside Trainer.__init__
            return
        self.stop.saving = True
        for logger in trainer.loggers:  # a resumed run doesn't log these steps again
            logger.save()
        trainer.save_checkpoint(self.path)
        self._saved, self.stop.saving = state, False

    def _save_and_stop(self, trainer: Trainer) -> NoReturn:
        self._save(trainer)
        assert self.stop.number is not None
        place = find_place(trainer)
        text = (f"stopped after {trainer.global_step} steps, in epoch {place.epoch}; --ckpt_path last continues from "
                f"{self.path}")
        if self.stop.number in requeue_signals(trainer):
            self.stop.ignore_more()  # such as those with which SLURM ends this job once it is queued again
            text += f"; {requeue()}" if trainer.is_global_zero else ""
            trainer.strategy.barrier()  # `srun --kill-on-bad-exit` ends all processes when the first of them has ended
        end(self.stop.number, text)


class BestCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, which also resumes in a run folder that was moved or renamed.

    Lightning stores the folder's path and discards the best score if the path has changed: the next checkpoint, however
    bad, would replace the best one.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best checkpoints if they still exist, in this folder or in the former one."""

        def find(path: str) -> str:
            here = os.path.join(self.dirpath or "", os.path.basename(path))
            return here if path and os.path.isfile(here) else os.path.abspath(path) if path else path

        names = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = state_dict | {name: find(state_dict[name]) for name in names} | {"dirpath": self.dirpath}
        moved["best_k_models"] = {find(path): score for path, score in state_dict["best_k_models"].items()}
        gone = [path for path in moved["best_k_models"] if not os.path.isfile(path)]
        if gone:
            rank_zero_warn(f"{gone[0]} is missing: the next checkpoint that is validated counts as the best")
        else:
            super().load_state_dict(moved)

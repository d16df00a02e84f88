"""Progress of a run as plain lines, for logs and other places where a progress bar doesn't show."""

import logging
import time
from datetime import timedelta
from math import inf
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

_LINES = 10  # of a training or an evaluation
_LONGEST = 600.0  # seconds between two lines of a training
_SHORTEST = 30.0  # seconds between two lines of an evaluation

_log = logging.getLogger(__name__)


class ProgressLines(Callback):
    """Log a line at each tenth of a training, at least every ten minutes, and after each validation.

    An evaluation outside of training has a line at each tenth of its batches, at most every half a minute.
    """

    def __init__(self) -> None:
        self._began = self._last = 0.0  # when this process began to train, and when the last line was logged
        self._first_step = self._last_step = 0  # the step that it began with, and that of the last line
        self._batches = 0  # since the last line
        self._validating = 0.0  # seconds of validation since the last line
        self._validation_began = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = self._last = time.monotonic()
        self._first_step = self._last_step = trainer.global_step
        self._batches, self._validating = 0, 0.0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._batches += 1
        total, step, now = trainer.estimated_stepping_batches, trainer.global_step, time.monotonic()
        at_a_tenth = step == total or (_LINES <= total < inf and step % (total // _LINES) == 0)
        if step == self._last_step or (not at_a_tenth and now - self._last < _LONGEST):
            return
        rows = getattr(trainer.train_dataloader, "batch_size", None)  # of a step, also with contrastive_batch
        rate = self._batches * trainer.world_size / max(now - self._last - self._validating, 1e-9)
        endless = total == inf  # ended by trainer.max_time or by hand
        left = 0.0 if endless else (total - step) * (now - self._began) / max(step - self._first_step, 1)
        loss = trainer.callback_metrics.get("train/loss")
        _say(f"step {step:,}{'' if endless else f' of {total:,.0f}'}, epoch {trainer.current_epoch + 1}, "
             + ("" if loss is None else f"train/loss {float(loss):.4f}, ")
             + (f"{rate * rows:.3g} rows/s" if rows else f"{rate:.3g} batches/s")
             + ("" if endless else f", about {timedelta(seconds=round(left))} left"))
        self._last, self._last_step, self._batches, self._validating = now, step, 0, 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = time.monotonic() - self._validation_began
        self._validating += seconds
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            score = trainer.callback_metrics.get("val/score")
            _say(f"validated after step {trainer.global_step:,}, epoch {trainer.current_epoch + 1}"
                 + ("" if score is None else f": val/score {float(score):.4f}") + f" ({seconds:.0f} s)")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any,
                                batch_idx: int, dataloader_idx: int = 0) -> None:
        if trainer.state.fn == "validate":
            self._evaluated(batch_idx, trainer.num_val_batches[dataloader_idx])

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any,
                          batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluated(batch_idx, trainer.num_test_batches[dataloader_idx])

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any,
                             batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluated(batch_idx, trainer.num_predict_batches[dataloader_idx])

    def _evaluated(self, batch: int, total: int | float) -> None:
        """Log the progress of an evaluation, unless the last line is too near."""
        now = time.monotonic()
        if batch == 0:
            self._last = now
        elif total >= _LINES and (batch + 1) % (total // _LINES) == 0 and now - self._last >= _SHORTEST:
            _say(f"batch {batch + 1:,} of {total:,}")
            self._last = now


@rank_zero_only
def _say(line: str) -> None:
    _log.info("%s", line)

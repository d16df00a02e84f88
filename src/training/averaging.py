"""An exponential moving average of the weights, which is what is validated, kept as the best, and tested."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging


class WeightAverage(EMAWeightAveraging):
    """Average the weights over the steps of training, and validate and keep the average.

    In a checkpoint, `state_dict` has the average, and `current_model_state` the weights that a resumed run goes on
    with. Buffers are those of the last step.

    Lightning's callback is corrected: the evaluation after a fit is of the checkpoint that was loaded, and a checkpoint
    that is saved during a validation, or at the end, has both sets of weights in their places.

    Args:
        decay: Share of the average that a step keeps.

    Raises:
        ValueError: It is not between 0 and 1.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"WeightAverage: decay is {decay}, give a number from 0 to less than 1")
        super().__init__(use_buffers=False, decay=decay)
        self.decay = decay
        self._swapped = False  # the model has the average

    def _swap_models(self, pl_module: LightningModule) -> None:
        super()._swap_models(pl_module)
        self._swapped = not self._swapped

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the average to a checkpoint."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._swapped:
            average, current = checkpoint["current_model_state"], checkpoint["state_dict"]
            checkpoint["state_dict"], checkpoint["current_model_state"] = average, current

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the average of a checkpoint; Lightning would warn of an evaluation, which needs none."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the model the average, and keep its own weights for the last checkpoint."""
        if not self._swapped:
            self._swap_models(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the average: Lightning would put it in the place of weights that are loaded to be validated."""
        self._average_model, self._swapped = None, False

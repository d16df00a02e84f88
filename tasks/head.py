"""What the tasks on frozen features share: a head with weights of its own."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from egovlpv2.model.head_weights import read_head
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.base import Task, global_seed
from torch import nn
from torchmetrics import Metric


class HeadTask(Task):
    """A head that learns on the features of a frozen backbone, and the metric that judges it.

    Args:
        head: The head.
        metric: Makes the metric of a split; it computes numbers by name.
        optimizer: How it learns.
        weights: Weights to start from: a `.ckpt` of this task, or a released state dict (`.pth`); null for new ones.
    """

    trains = "head"
    name: ClassVar[str]  # in the log
    kind: ClassVar[str]  # of the head, as `convert` knows it
    judged_by: ClassVar[str]  # the number that picks the checkpoint

    def __init__(self, head: nn.Module, metric: type[Metric], optimizer: OptimizerConfig, weights: str | None = None
                 ) -> None:
        super().__init__(optimizer)
        self.head, self.weights = head, weights
        self.metrics = nn.ModuleDict({split: metric() for split in ("val", "test")})
        if weights is not None:
            read_head(head, self.kind, Path(weights))

    @property
    def trained(self) -> nn.Module:
        return self.head

    @property
    def protocol(self) -> dict[str, Any]:
        """What a reader of the numbers must know of the model."""
        return {"weights": self.weights, "head": self.kind, "seed": global_seed()}

    @abstractmethod
    def judge(self, metric: Any, batch: Any) -> None:
        """Gives a metric what it needs of a batch; an empty one too, since all processes must take part."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.judge(self.metrics["val"], batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.judge(self.metrics["test"], batch)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _log_metrics(self, split: str) -> None:
        numbers = self.metrics[split].compute()
        self.metrics[split].reset()
        self.log_dict({f"{split}/{self.name}/{name}": value for name, value in numbers.items()})
        self.log(f"{split}/score", numbers[self.judged_by], prog_bar=True)

    def check_width(self, width: int, expected: int, option: str) -> None:
        """Features of another model are named, not multiplied."""
        if width != expected:
            raise ValueError(f"The features are {width} wide and the head takes {expected}: set model.init_args."
                             f"{option}={width}, or give the features of the model that the head was trained on.")

"""What tasks share whose metric looks at batches: one for each split, and the number that picks the checkpoint."""

from abc import abstractmethod
from typing import Any, ClassVar

from lightning import LightningModule
from torch import nn
from torchmetrics import Metric


class MetricTask(LightningModule):
    """A task with a metric; `judge_by` makes it."""

    name: ClassVar[str]  # in the log
    monitor: ClassVar[str]  # the number that picks the checkpoint

    def judge_by(self, metric: type[Metric]) -> None:
        """Makes the metric of each split; it computes numbers by name."""
        self.metrics = nn.ModuleDict({split: metric() for split in ("val", "test")})

    @abstractmethod
    def update_metric(self, metric: Any, batch: Any) -> None:
        """Gives a metric what it needs of a batch; an empty one too, since all processes must take part."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.update_metric(self.metrics["val"], batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.update_metric(self.metrics["test"], batch)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _log_metrics(self, split: str) -> None:
        numbers = self.metrics[split].compute()
        self.metrics[split].reset()
        self.log_dict({f"{split}/{self.name}/{name}": value for name, value in numbers.items()})
        self.log(f"{split}/score", self.score(split, numbers), prog_bar=True)

    def score(self, split: str, numbers: dict[str, float]) -> float:
        """Rank a checkpoint by a split's numbers; the highest is best."""
        return numbers[self.monitor]

"""Evaluation of a task: a metric per split, its values in the log, and the score that ranks checkpoints."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from lightning import LightningModule
from torch import nn
from torchmetrics import Metric

Split = Literal["val", "test"]


class MetricTask(LightningModule):
    """A task with a metric per split, made by `make_metrics`."""

    name: ClassVar[str]  # in the log
    monitor: str  # the value that ranks checkpoints, see `score`

    def make_metrics(self, make: Callable[[], Metric]) -> None:
        """Make the metric of each split."""
        self.metrics = nn.ModuleDict({split: make() for split in ("val", "test")})

    def metric(self, split: Split) -> Metric:
        """The metric of a split."""
        metric = self.metrics[split]
        assert isinstance(metric, Metric)
        return metric

    @abstractmethod
    def update_metric(self, metric: Any, batch: Any) -> None:
        """Update a metric with a batch; an empty one too, since all processes must take part."""

    def summarize(self, split: Split, computed: Any) -> dict[str, Any]:
        """Values by name of what a metric has computed; an empty dict logs nothing."""
        return computed

    def score(self, split: Split, values: dict[str, Any]) -> Any:
        """The score of a checkpoint, from the values of a split; the highest is best."""
        return values[self.monitor]

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.update_metric(self.metric("val"), batch)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.update_metric(self.metric("test"), batch)

    def on_validation_epoch_end(self) -> None:
        self._log_metric("val")

    def on_test_epoch_end(self) -> None:
        self._log_metric("test")

    def _log_metric(self, split: Split) -> None:
        metric = self.metric(split)
        values = self.summarize(split, metric.compute())
        metric.reset()
        if values:
            self.log_dict({f"{split}/{self.name}/{name}": value for name, value in values.items()})
            self.log(f"{split}/score", self.score(split, values), prog_bar=True)

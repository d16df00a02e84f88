"""What the tasks on frozen features share: a head with weights of its own."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from egovlpv2.model.head_weights import read_head
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.base import Task, global_seed
from egovlpv2.tasks.judged import Judged
from torch import nn
from torchmetrics import Metric


class HeadTask(Judged, Task):
    """A head that learns on the features of a frozen backbone, and the metric that judges it.

    Args:
        head: The head.
        metric: Makes the metric of a split; it computes numbers by name.
        optimizer: How it learns.
        weights: Weights to start from: a `.ckpt` of this task, or a released state dict (`.pth`); null for new ones.
    """

    trains = "head"
    kind: ClassVar[str]  # of the head, as `convert` knows it

    def __init__(self, head: nn.Module, metric: type[Metric], optimizer: OptimizerConfig, weights: str | None = None
                 ) -> None:
        super().__init__(optimizer)
        self.head, self.weights = head, weights
        self.judge_by(metric)
        if weights is not None:
            read_head(head, self.kind, Path(weights))

    @property
    def trained(self) -> nn.Module:
        return self.head

    @property
    def protocol(self) -> dict[str, Any]:
        """What a reader of the numbers must know of the model."""
        return {"weights": self.weights, "head": self.kind, "seed": global_seed()}

    def float32(self) -> torch.autocast:
        """A context in which a head computes in float32, whatever `trainer.precision` makes of backbones."""
        return torch.autocast(self.device.type, enabled=False)

    def check_width(self, width: int, expected: int, option: str) -> None:
        """Features of another model are named, not multiplied."""
        if width != expected:
            raise ValueError(f"The features are {width} wide and the head takes {expected}: set model.init_args."
                             f"{option}={width}, or give the features of the model that the head was trained on.")

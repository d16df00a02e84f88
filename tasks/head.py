"""Base class of the tasks on frozen features: a head with weights of its own."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torchmetrics import Metric

from egovlpv2.checkpoints.head_weights import read_head, read_head_settings
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.base import Task, global_seed
from egovlpv2.tasks.metric_task import MetricTask

log = logging.getLogger(__name__)


class HeadTask(MetricTask, Task):
    """A head that is trained on features of a frozen backbone, and its metric.

    Args:
        head: The head.
        make_metric: Makes the metric of a split; it computes values by name.
        optimizer: The optimiser and its schedule.
        weights: Weights to start from: a `.ckpt` of this task, or a released state dict (`.pth`); null: new ones.
    """

    trains = "head"
    kind: ClassVar[str]  # of the head, a kind of `convert`
    sizes: dict[str, Any]
    """Plain settings of the head, some of which its weights don't show."""

    def __init__(self, head: nn.Module, make_metric: Callable[[], Metric], optimizer: OptimizerConfig,
                 weights: str | None = None) -> None:
        super().__init__(optimizer)
        self.head, self.weights = head, weights
        self.make_metrics(make_metric)
        self.features_before = {} if weights is None else read_head(head, self.kind, Path(weights))

    @property
    def trained(self) -> nn.Module:
        return self.head

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings of the model, for `metrics.json`."""
        return {"weights": self.weights, "head": self.kind, "seed": global_seed()}

    def setup(self, stage: str) -> None:
        """Refuse to evaluate a head on features of another recipe than it was trained on; a fit learns new ones."""
        if self.weights is not None and self.weights.endswith(".ckpt"):
            self._refuse_other_settings(read_head_settings(Path(self.weights), self.name), self.weights)
        if stage == "fit":
            self.features_before = {}
        elif self.weights is not None and self.weights.endswith(".ckpt") and not self.features_before:
            _warn_of_unknown_features(self.weights)
        self.refuse_other_features(self.data, self.features_before, self.weights)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        facts = checkpoint.get("egovlpv2")
        before = facts.get("features") if isinstance(facts, dict) else None
        if not before:
            _warn_of_unknown_features(self.trainer.ckpt_path)
        self.refuse_other_features(self.data, before if isinstance(before, dict) else {}, self.trainer.ckpt_path)
        settings = facts.get(self.name) if isinstance(facts, dict) else None
        self._refuse_other_settings(settings if isinstance(settings, dict) else {}, self.trainer.ckpt_path)

    def _refuse_other_settings(self, before: dict[str, Any], source: object) -> None:
        """Refuse a head that was trained with other settings; those of its post-processing may differ."""
        for name, value in self.sizes.items():
            if name != "decoding" and before.get(name, value) != value:
                raise ValueError(f"{source} was trained with {name}={before[name]}, and it is {value} here: set "
                                 f"model.init_args.{name}={before[name]}")

    def refuse_other_features(self, data: Any, before: dict[str, Any], source: object) -> None:
        """Refuse features of another recipe than a head was trained on.

        Args:
            data: The data module that has the features.
            before: The recipe that the head was trained on, by name; empty if it isn't known.
            source: The head's file, for the error.

        Raises:
            ValueError: The recipes differ; the message names the differences.
        """
        if different := data.folder.recipe.differences(before):
            raise ValueError(f"{source} was trained on other features than {data.features} ({'; '.join(different)}): "
                             "extract those of its recipe, or train a head on these")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["egovlpv2"]["features"] = asdict(self.data.folder.recipe)

    def float32(self) -> torch.autocast:
        """A context in which a head computes in float32, whatever `trainer.precision` is."""
        return torch.autocast(self.device.type, enabled=False)

    def check_width(self, width: int, expected: int, option: str) -> None:
        """Refuse features of another width than the head's."""
        if width != expected:
            raise ValueError(f"The features are {width} wide and the head takes {expected}: set model.init_args."
                             f"{option}={width}, or give the features of the model that the head was trained on.")


def _warn_of_unknown_features(source: object) -> None:
    log.warning("%s doesn't contain the recipe of the features it was trained on; older versions cropped the edges of "
                "pictures", source)

"""Base class of the tasks of Ego4D moment queries: metric, submission and pictures of any head on frozen features."""

from abc import abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from egovlpv2.batch import MomentBatch
from egovlpv2.heads.nms import Detections
from egovlpv2.metrics.moments import MomentDetection
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.head import HeadTask
from egovlpv2.tasks.metric_task import Split
from egovlpv2.viz.timeline import Drawing, Span

PickedBy = Literal["map", "loss"]


class MomentTask(HeadTask):
    """Detect the activities of a clip.

    Args:
        head: The head.
        optimizer: Its optimiser and its schedule.
        in_dim: Width of the features.
        num_labels: Number of labels, without the background.
        picked_by: The validation's mean average precision or its loss ranks checkpoints.
        weights: Weights to start from.
    """

    name, monitor = "mq", "map_avg"

    def __init__(self, head: nn.Module, optimizer: OptimizerConfig, in_dim: int, num_labels: int, picked_by: PickedBy,
                 weights: str | None) -> None:
        super().__init__(head, MomentDetection, optimizer, weights)
        self.in_dim, self.num_labels, self.picked_by = in_dim, num_labels, picked_by
        self.val_loss = MeanMetric()

    @abstractmethod
    def losses(self, out: Any, batch: MomentBatch) -> dict[str, Tensor]:
        """The losses of a batch by name; `loss` is the one to minimise."""

    @abstractmethod
    def moments(self, out: Any, batch: MomentBatch, classes: list[Tensor]) -> Iterator[tuple[Detections, Detections]]:
        """For each clip its moments, and its moments of given classes (n,): in seconds, best first, on the CPU."""

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings of the model, for `metrics.json`."""
        return super().protocol | {"picked_by": self.picked_by}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the settings that `egovlpv2 detect` needs to use this head."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["egovlpv2"]["mq"] = {"head": self.kind} | self.sizes | self.data.clip_facts

    def check_batch(self, batch: MomentBatch, background: bool) -> None:
        """Refuse features of another width, or a list of classes of another length, than the head's.

        Args:
            batch: A batch.
            background: If the option `num_classes` counts the background.
        """
        self.check_width(batch["features"].shape[1], self.in_dim, "in_dim")
        listed, known = len(batch["labels"]) - 1 + background, self.num_labels + background
        if listed != known:
            counted = "included" if background else "excluded"
            raise ValueError(f"The list of classes has {listed} labels, background {counted}, and the head {known}: "
                             f"set model.init_args.num_classes={listed}.")

    def training_step(self, batch: MomentBatch, batch_idx: int) -> Tensor:
        losses = self.losses(self(batch), batch)
        self.log_losses(losses, len(batch["key"]))
        return losses["loss"]

    def validation_step(self, batch: MomentBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the metric and to the mean loss; one without clips too, since all processes must take part."""
        out = self(batch) if batch["key"] else None
        if out is not None:
            self.val_loss.update(self.losses(out, batch)["loss"], len(batch["key"]))
        self._update(self.metric("val"), batch, out)

    def score(self, split: Split, values: dict[str, float]) -> float | Tensor:
        """The score of a checkpoint; logs the loss of a validation."""
        if split == "test":
            return super().score(split, values)
        loss = self.val_loss.compute()
        self.val_loss.reset()
        self.log("val/loss", loss)
        return -loss if self.picked_by == "loss" else super().score(split, values)

    def update_metric(self, metric: MomentDetection, batch: MomentBatch) -> None:
        self._update(metric, batch, self(batch) if batch["key"] else None)

    def _update(self, metric: Metric, batch: MomentBatch, out: Any) -> None:
        if out is None:
            metric.update(*(torch.empty(0, 5, device=self.device) for _ in range(3)))
            return
        truth = [_ground_truth(batch, i) for i in range(len(batch["key"]))]
        found = self.moments(out, batch, [one.classes.unique() for one in truth])
        for i, kinds in enumerate(found):
            clip = int(batch["index"][i])
            metric.update(*(_rows(clip, moments).to(self.device) for moments in (truth[i], *kinds)))

    def predict_step(self, batch: MomentBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Detections in each clip, and retrievals of its true classes, or of all classes if those are unknown."""
        if not batch["key"]:
            return []
        every = torch.arange(1, self.num_labels + 1, device=self.device)
        truth = [_ground_truth(batch, i).classes for i in range(len(batch["key"]))]
        found = self.moments(self(batch), batch, [one.unique().to(every) if len(one) else every for one in truth])
        names = ("detect_results", "retrieve_results")
        return [{"clip": clip} | {name: _named(moments, batch["labels"])
                                  for name, moments in zip(names, kinds, strict=True)}
                for clip, kinds in zip(batch["key"], found, strict=True)]

    def submission(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The predictions in the challenge's format, for `egovlpv2 predict`."""
        results = {name: {row["clip"]: row[name] for row in rows} for name in ("detect_results", "retrieve_results")}
        return {"version": "1.0", "challenge": "ego4d_moment_queries", **results}

    def drawings(self, batch: MomentBatch, count: int) -> list[Drawing]:
        """Drawings of the first clips, without frames."""
        out, drawings = self(batch), []
        truth = [_ground_truth(batch, i) for i in range(len(batch["key"]))]
        found = self.moments(out, batch, [one.classes.unique() for one in truth])
        pairs = islice(zip(truth, found, strict=True), count)  # the others are not decoded
        for i, (real, (detected, _)) in enumerate(pairs):
            spans = [[Span(row["label"], *row["segment"]) for row in _named(moments, batch["labels"])]
                     for moments in (real, detected)]
            curves = out.curves(i, int(batch["num_frames"][i]))
            drawings.append(Drawing(batch["key"][i], float(batch["duration"][i]), curves, spans[0],
                                    spans[1][: max(len(real.classes), 1)]))
        return drawings


def in_seconds(moments: Detections, batch: MomentBatch, clip: int) -> Detections:
    """Convert the moments of a clip from steps to seconds, on the CPU."""
    seconds = moments.segments.cpu() * batch["step_seconds"][clip].cpu() + batch["first_seconds"][clip].cpu()
    return Detections(seconds, moments.classes.cpu(), moments.scores.cpu())


def _ground_truth(batch: MomentBatch, clip: int) -> Detections:
    """The true moments of a clip, in seconds."""
    real = batch["classes"][clip] > 0
    classes = batch["classes"][clip][real]
    moments = Detections(batch["segments"][clip][real], classes, torch.ones_like(classes, dtype=torch.float32))
    return in_seconds(moments, batch, clip)


def _rows(clip: int, moments: Detections) -> Tensor:
    """Moments as rows (n, 5): clip, class, start and end in seconds, score."""
    clips = torch.full((len(moments.classes),), clip)
    return torch.column_stack([clips, moments.classes, moments.segments, moments.scores])


def _named(moments: Detections, labels: list[str]) -> list[dict[str, Any]]:
    """Moments with their labels and their segments in seconds, as the challenge wants them."""
    return [{"label": labels[label], "score": score, "segment": segment} for label, score, segment in zip(
        moments.classes.tolist(), moments.scores.tolist(), moments.segments.tolist(), strict=True)]

"""Ego4D moment queries: VSGN on frozen features."""

from collections.abc import Iterator
from functools import reduce
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from egovlpv2.batch import MomentBatch
from egovlpv2.heads.moments import Detections, detections, retrievals, scored_segments
from egovlpv2.heads.vsgn import VSGN, VSGNOutput
from egovlpv2.heads.vsgn_losses import MomentLabels, vsgn_losses
from egovlpv2.metrics.moments import MomentDetection
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.head import HeadTask
from egovlpv2.tasks.metric_task import Split
from egovlpv2.viz.timeline import Drawing, Span


class MQ(HeadTask):
    """Detect the activities of a clip.

    Args:
        optimizer: The head's optimiser and its schedule.
        in_dim: Width of the features.
        num_classes: Number of labels, background (0) included.
        num_steps: Length to which clips are padded.
        num_levels: Levels of the head's pyramid.
        dim: Width inside the head.
        num_neighbours: Neighbours of a step in the head's graph.
        class_weight: Weight of the loss of classes.
        segment_weight: Weight of the loss of segments.
        boundary_weight: Weight of the loss of segments after their boundaries are adjusted.
        curve_weight: Weight of the losses of actionness, startness and endness.
        picked_by: The validation's mean average precision or its loss ranks checkpoints.
        weights: Weights to start from.
    """

    name, kind, monitor = "mq", "vsgn", "map_avg"

    def __init__(self, optimizer: OptimizerConfig, in_dim: int = 4096, num_classes: int = 111, num_steps: int = 928,
                 num_levels: int = 5, dim: int = 256, num_neighbours: int = 12, class_weight: float = 1.0,
                 segment_weight: float = 1.0, boundary_weight: float = 1.0, curve_weight: float = 0.2,
                 picked_by: Literal["map", "loss"] = "map", weights: str | None = None) -> None:
        head = VSGN(in_dim, num_steps, num_levels, dim, num_classes, num_neighbours)
        super().__init__(head, MomentDetection, optimizer, weights)
        self.in_dim, self.num_classes, self.picked_by = in_dim, num_classes, picked_by
        self.val_loss = MeanMetric()
        self.loss_weights = {"class": class_weight, "segment": segment_weight, "boundary": boundary_weight,
                             **dict.fromkeys(("actionness", "startness", "endness"), curve_weight)}

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings of the model, for `metrics.json`."""
        return super().protocol | {"loss_weights": self.loss_weights, "picked_by": self.picked_by}

    def forward(self, batch: MomentBatch) -> VSGNOutput:
        self.check_width(batch["features"].shape[1], self.in_dim, "in_dim")
        if len(batch["labels"]) != self.num_classes:
            raise ValueError(f"The list of classes has {len(batch['labels'])} labels, background included, and the "
                             f"head {self.num_classes}: set model.init_args.num_classes={len(batch['labels'])}.")
        with self.float32():
            return self.head(batch["features"], batch["num_frames"])

    def training_step(self, batch: MomentBatch, batch_idx: int) -> Tensor:
        losses = self._losses(self(batch), batch)
        self.log_losses(losses, len(batch["key"]))
        return losses["loss"]

    def validation_step(self, batch: MomentBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the metric and to the mean loss; one without clips too, since all processes must take part."""
        out = self(batch) if batch["key"] else None
        if out is not None:
            self.val_loss.update(self._losses(out, batch)["loss"], len(batch["key"]))
        self._update(self.metric("val"), batch, out)

    def score(self, split: Split, values: dict[str, float]) -> float | Tensor:
        """The score of a checkpoint; logs the loss of a validation."""
        if split == "test":
            return super().score(split, values)
        loss = self.val_loss.compute()
        self.val_loss.reset()
        self.log("val/loss", loss)
        return -loss if self.picked_by == "loss" else super().score(split, values)

    def _losses(self, out: VSGNOutput, batch: MomentBatch) -> dict[str, Tensor]:
        """The six losses by name, and `loss`, their weighted sum."""
        last = (batch["num_frames"] - 1)[:, None, None]  # (B, 1, 1), the step in which labels end at the latest
        segments = batch["segments"].clamp(min=0).minimum(last)  # (B, G, 2)
        assert isinstance(self.head, VSGN) and isinstance(self.head.anchors, Tensor)
        losses = vsgn_losses(out, self.head.anchors, MomentLabels(segments, batch["classes"]))
        return {"loss": reduce(torch.add, (self.loss_weights[name] * loss for name, loss in losses.items()))} | losses

    def update_metric(self, metric: MomentDetection, batch: MomentBatch) -> None:
        self._update(metric, batch, self(batch) if batch["key"] else None)

    def _update(self, metric: Metric, batch: MomentBatch, out: VSGNOutput | None) -> None:
        if out is None:
            metric.update(*(torch.empty(0, 5, device=self.device) for _ in range(3)))
            return
        for i, (segments, scores, seconds) in enumerate(_predictions(out, batch)):
            truth, clip = _ground_truth(batch, i), int(batch["index"][i])
            kinds = (truth, detections(segments, scores), retrievals(segments, scores, truth.classes.unique()))
            metric.update(*(_rows(clip, moments, seconds).to(self.device) for moments in kinds))

    def predict_step(self, batch: MomentBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Detections in each clip, and retrievals of its true classes, or of all classes if those are unknown."""
        if not batch["key"]:
            return []
        rows = []
        for i, (segments, scores, seconds) in enumerate(_predictions(self(batch), batch)):
            truth = _ground_truth(batch, i).classes
            classes = truth.unique() if len(truth) else torch.arange(1, self.num_classes, device=self.device)
            results = {"detect_results": detections(segments, scores),
                       "retrieve_results": retrievals(segments, scores, classes)}
            rows.append({"clip": batch["key"][i]} | {name: _named(moments, seconds, batch["labels"])
                                                     for name, moments in results.items()})
        return rows

    def submission(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The predictions in the challenge's format, for `egovlpv2 predict`."""
        results = {name: {row["clip"]: row[name] for row in rows} for name in ("detect_results", "retrieve_results")}
        return {"version": "1.0", "challenge": "ego4d_moment_queries", **results}

    def drawings(self, batch: MomentBatch, count: int) -> list[Drawing]:
        """Drawings of the first clips, without frames."""
        out = self(batch)
        drawings = []
        for i, (segments, scores, seconds) in enumerate(islice(_predictions(out, batch), count)):
            truth = _ground_truth(batch, i)
            shown = {name: getattr(out, name)[i, : int(batch["num_frames"][i])].float().cpu().numpy()
                     for name in ("actionness", "startness", "endness")}
            spans = [[Span(row["label"], *row["segment"]) for row in _named(moments, seconds, batch["labels"])]
                     for moments in (truth, detections(segments, scores))]
            drawings.append(Drawing(batch["key"][i], float(batch["duration"][i]), shown, spans[0],
                                    spans[1][: max(len(truth.classes), 1)]))
        return drawings


def _predictions(out: VSGNOutput, batch: MomentBatch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Segments of each clip in steps, their scores, and the seconds of a step."""
    return zip(*scored_segments(out), batch["duration"] / batch["num_frames"], strict=True)


def _ground_truth(batch: MomentBatch, i: int) -> Detections:
    """The true moments of a clip."""
    real = batch["classes"][i] > 0
    classes = batch["classes"][i][real]
    return Detections(batch["segments"][i][real], classes, torch.ones_like(classes, dtype=torch.float32))


def _rows(clip: int, moments: Detections, seconds: Tensor) -> Tensor:
    """Moments as rows (n, 5): clip, class, start and end in seconds, score."""
    times = moments.segments.cpu() * seconds.cpu()
    return torch.column_stack([torch.full((len(times),), clip), moments.classes.cpu(), times, moments.scores.cpu()])


def _named(moments: Detections, seconds: Tensor, labels: list[str]) -> list[dict[str, Any]]:
    """Moments with their labels and their segments in seconds, as the challenge wants them."""
    times = (moments.segments.cpu() * seconds.cpu()).tolist()
    return [{"label": labels[label], "score": score, "segment": segment} for label, score, segment in zip(
        moments.classes.tolist(), moments.scores.tolist(), times, strict=True)]

"""Ego4D moment queries: VSGN on frozen features."""

from collections.abc import Iterator
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from egovlpv2.batch import MomentBatch
from egovlpv2.heads.moments import detections, retrievals, scored_segments
from egovlpv2.heads.nms import Detections
from egovlpv2.heads.vsgn import VSGN, VSGNOutput
from egovlpv2.heads.vsgn_losses import MomentLabels, vsgn_losses
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.moments import MomentTask, PickedBy, in_seconds


class MQ(MomentTask):
    """Detect the activities of a clip with VSGN.

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

    kind = "vsgn"

    def __init__(self, optimizer: OptimizerConfig, in_dim: int = 4096, num_classes: int = 111, num_steps: int = 928,
                 num_levels: int = 5, dim: int = 256, num_neighbours: int = 12, class_weight: float = 1.0,
                 segment_weight: float = 1.0, boundary_weight: float = 1.0, curve_weight: float = 0.2,
                 picked_by: PickedBy = "map", weights: str | None = None) -> None:
        head = VSGN(in_dim, num_steps, num_levels, dim, num_classes, num_neighbours)
        super().__init__(head, optimizer, in_dim, num_classes - 1, picked_by, weights)
        self.sizes = {"in_dim": in_dim, "num_steps": num_steps, "num_levels": num_levels, "dim": dim,
                      "num_neighbours": num_neighbours}
        self.loss_weights = {"class": class_weight, "segment": segment_weight, "boundary": boundary_weight,
                             **dict.fromkeys(("actionness", "startness", "endness"), curve_weight)}

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings of the model, for `metrics.json`."""
        return super().protocol | {"loss_weights": self.loss_weights}

    def forward(self, batch: MomentBatch) -> VSGNOutput:
        self.check_batch(batch, background=True)
        with self.float32():
            return self.head(batch["features"], batch["num_frames"])

    def losses(self, out: VSGNOutput, batch: MomentBatch) -> dict[str, Tensor]:
        """The six losses by name, and `loss`, their weighted sum."""
        last = (batch["num_frames"] - 1)[:, None, None]  # (B, 1, 1), the step in which labels end at the latest
        segments = batch["segments"].clamp(min=0).minimum(last)  # (B, G, 2)
        assert isinstance(self.head, VSGN) and isinstance(self.head.anchors, Tensor)
        losses = vsgn_losses(out, self.head.anchors, MomentLabels(segments, batch["classes"]))
        return {"loss": reduce(torch.add, (self.loss_weights[name] * loss for name, loss in losses.items()))} | losses

    def moments(self, out: VSGNOutput, batch: MomentBatch, classes: list[Tensor]
                ) -> Iterator[tuple[Detections, Detections]]:
        for i, (segments, scores) in enumerate(zip(*scored_segments(out), strict=True)):
            yield (in_seconds(detections(segments, scores), batch, i),
                   in_seconds(retrievals(segments, scores, classes[i].to(scores.device)), batch, i))


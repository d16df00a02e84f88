"""Metrics of NLQ and MQ, gathered from all processes and computed as by the official code.

Letters: `Q` queries, `P` predictions of a query, `n` rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from egovlpv2.metrics.temporal import moment_map, moment_recall, temporal_iou

NLQ_THRESHOLDS, NLQ_TOPK = (0.3, 0.5), (1, 3, 5)
MQ_MAP_TIOUS, MQ_RECALL_TIOUS, MQ_TOPK = (0.1, 0.2, 0.3, 0.4, 0.5), (0.3, 0.5, 0.7), (1, 5)


class WindowRecall(Metric):
    """Ego4D NLQ's recall of windows at thresholds of temporal IoU and mean IoU of first predictions, in %."""

    full_state_update = False
    overlap: list[Tensor]  # (Q, P)
    index: list[Tensor]  # (Q,)

    def __init__(self) -> None:
        super().__init__()
        self.add_state("overlap", default=[], dist_reduce_fx="cat")
        self.add_state("index", default=[], dist_reduce_fx="cat")

    def update(self, index: Tensor, predicted: Tensor, window: Tensor) -> None:
        """Add queries.

        Args:
            index: (Q,) rows of the queries.
            predicted: (Q, P, 2) seconds, best first.
            window: (Q, 2) seconds; one of zero length is never hit.
        """
        overlap = np.nan_to_num(temporal_iou(predicted.double().cpu().numpy(), window.double().cpu().numpy()[:, None]))
        self.overlap.append(torch.from_numpy(overlap).to(self.device))
        self.index.append(index)

    def compute(self) -> dict[str, float]:
        """Compute `r<k>_iou<threshold>` and `mean_iou`."""
        overlap, index = dim_zero_cat(self.overlap), dim_zero_cat(self.index)
        assert len(index.unique()) == len(index)
        recall = {f"r{k}_iou{threshold}": 100 * (overlap[:, :k] > threshold).any(1).double().mean().item()
                  for threshold in NLQ_THRESHOLDS for k in NLQ_TOPK}
        return recall | {"mean_iou": 100 * overlap[:, 0].mean().item()}


class MomentDetection(Metric):
    """Ego4D MQ's mean average precision of detections and recall of retrievals, in %."""

    full_state_update = False
    truth: list[Tensor]  # (n, 5): clip, class, start, end, score
    detections: list[Tensor]
    retrievals: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("truth", "detections", "retrievals"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, truth: Tensor, detections: Tensor, retrievals: Tensor) -> None:
        """Add clips as rows (n, 5): number of the clip, class, start and end in seconds, and score."""
        for name, rows in (("truth", truth), ("detections", detections), ("retrievals", retrievals)):
            getattr(self, name).append(rows.double())

    def compute(self) -> dict[str, float]:
        """Compute `map_<tiou>`, their mean `map_avg`, and `r<k>x_iou<tiou>`."""
        truth = _by_clip(dim_zero_cat(self.truth).cpu().numpy())
        detections = _by_clip(dim_zero_cat(self.detections).cpu().numpy())
        retrievals = _by_clip(dim_zero_cat(self.retrievals).cpu().numpy())
        ground_truth = {clip: {"annotations": rows} for clip, rows in truth.items()}
        precision = moment_map(detections, ground_truth, MQ_MAP_TIOUS)
        recall = moment_recall(retrievals, ground_truth, MQ_RECALL_TIOUS, MQ_TOPK)
        scores = {f"map_{tiou}": 100 * value for tiou, value in zip(MQ_MAP_TIOUS, precision, strict=True)}
        scores["map_avg"] = 100 * float(np.mean(precision))
        return scores | {f"r{k}x_iou{tiou}": 100 * recall[i][j] for i, tiou in enumerate(MQ_RECALL_TIOUS)
                         for j, k in enumerate(MQ_TOPK)}


def _by_clip(rows: np.ndarray) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Convert rows (n, 5) to the form of official files, by clip."""
    by_clip: dict[str, list[dict[str, Any]]] = {}
    for clip, label, start, end, score in rows.tolist():
        by_clip.setdefault(str(int(clip)), []).append(
            {"label": str(int(label)), "segment": (start, end), "score": score})
    return by_clip

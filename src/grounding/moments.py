"""From VSGN's output to the detections and retrievals of a clip, as the published numbers were made.

Letters: `B` clips, `A` anchors, `N` classes, `n` what is found. Times are in steps.
"""

from typing import NamedTuple

import numpy as np
import torch
from egovlpv2.grounding.vsgn import Detected
from egovlpv2.metrics.temporal import temporal_iou
from torch import Tensor

MOST = 200  # detections of a clip, and retrievals
_DOUBLE_IOU = 0.4  # from which temporal IoU on two segments of a class are the same moment
_SIGMA = 0.46  # of soft-NMS (Ego4D MQ)


class Found(NamedTuple):
    """Moments of a clip, the best first."""

    segments: Tensor  # (n, 2) steps
    classes: Tensor  # (n,) int64, from 1
    scores: Tensor  # (n,)


def scored_segments(out: Detected) -> tuple[Tensor, Tensor]:
    """Segments (B, A, 2) within their clips, and scores (B, A, N - 1) of all classes but nothing.

    A class counts as much as the segment's ends look like a start and an end. Segments without length count nothing,
    among them those that lie in the padding; the authors' code keeps one of each class.
    """
    inside = out.adjusted_segments.float().clamp(0, out.startness.shape[1] - 1)  # (B, A, 2)
    start, end = (_around(curve, inside[..., i]) for i, curve in enumerate((out.startness, out.endness)))  # (B, A)
    last = (out.num_frames.float() - 1).clamp(min=0)[:, None, None]  # (B, 1, 1)
    segments = inside.minimum(last)
    weight = start * end * (segments[..., 1] > segments[..., 0])  # (B, A)
    return segments, out.scores[..., 1:] * weight[..., None]


def _around(curve: Tensor, places: Tensor) -> Tensor:
    """Mean of a curve (B, T) at the steps before and after places (B, A)."""
    return (curve.gather(1, places.floor().long()) + curve.gather(1, places.ceil().long())) / 2


def without_doubles(segments: Tensor, scores: Tensor) -> Tensor:
    """Hard non-maximum suppression, class by class.

    Args:
        segments: (A, 2).
        scores: (A, N - 1).

    Returns:
        Scores (A, N - 1), 0 where the class has a better segment that overlaps this one by more than 0.4.
    """
    same = np.packbits(_same(segments.float()).cpu().numpy(), axis=1, bitorder="little")  # (A, A / 8)
    doubles = [int.from_bytes(row.tobytes(), "little") for row in same]  # of each segment a bit for each: fast to join
    values = scores.float().cpu().numpy()
    kept = np.zeros_like(values)
    for label, order in enumerate((-values).argsort(0, kind="stable").T):
        gone = 0
        for anchor in order[: np.count_nonzero(values[:, label])].tolist():
            if not gone >> anchor & 1:
                kept[anchor, label] = values[anchor, label]
                gone |= doubles[anchor]
    return torch.from_numpy(kept)


def _same(segments: Tensor) -> Tensor:
    """Which pairs (A, A) overlap by more than that IoU, which is inter / (lengths - inter)."""
    (start, end), lengths = segments.T, segments[:, 1] - segments[:, 0]
    inter = torch.minimum(end[:, None], end) - torch.maximum(start[:, None], start)  # below 0 if they are apart
    return inter > _DOUBLE_IOU / (1 + _DOUBLE_IOU) * (lengths[:, None] + lengths)


def detections(segments: Tensor, scores: Tensor) -> Found:
    """The 200 best moments of a clip, by soft-NMS of all classes together.

    Args:
        segments: (A, 2).
        scores: (A, N - 1), without doubles.
    """
    places, left = segments.double().cpu().numpy(), scores.double().cpu().numpy().copy()  # a loop, not work for a GPU
    if not left.size:
        return Found(segments[:0].float().cpu(), torch.empty(0, dtype=torch.int64), torch.empty(0))
    weight, label = np.ones(len(left)), left.argmax(1)  # (A,): what soft-NMS leaves of a segment, and its best class
    best, found = left.max(1), []
    for _ in range(min(MOST, np.count_nonzero(left))):
        anchor = int((weight * best).argmax())
        found.append((anchor, label[anchor] + 1, weight[anchor] * best[anchor]))
        left[anchor, label[anchor]] = 0.0
        label[anchor], best[anchor] = left[anchor].argmax(), left[anchor].max()  # the others at this place are left
        weight *= np.exp(-np.nan_to_num(temporal_iou(places, places[anchor])) ** 2 / _SIGMA)
    anchors, labels, values = np.array(found).reshape(-1, 3).T
    return Found(segments.float().cpu()[anchors.astype(int)], torch.from_numpy(labels).long(),
                 torch.from_numpy(values).float())


def retrievals(segments: Tensor, scores: Tensor, classes: Tensor) -> Found:
    """The 200 best moments of some classes.

    Args:
        segments: (A, 2).
        scores: (A, N - 1), without doubles.
        classes: The clip's, each once.
    """
    segments, classes = segments.float().cpu(), classes.cpu()
    asked = scores.float().cpu()[:, classes - 1].T  # (classes, A)
    best = asked.flatten().topk(min(MOST, int(asked.count_nonzero())))
    return Found(segments[best.indices % len(segments)], classes[best.indices // len(segments)], best.values)

"""Post-processing of VSGN's output into detections and retrievals of a clip, as for the published results.

Letters: `B` clips, `A` anchors, `N` classes, `n` detections. Times are in steps.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from egovlpv2.heads.nms import Detections
from egovlpv2.heads.vsgn import VSGNOutput
from egovlpv2.metrics.temporal import temporal_iou

MAX_MOMENTS = 200  # detections, and retrievals, of a clip
_NMS_IOU = 0.4  # segments of a class that overlap by more are duplicates
_SIGMA = 0.46  # of soft-NMS (Ego4D MQ)
_INITIAL_PAIRS = 4096  # of a segment and a class


def scored_segments(out: VSGNOutput) -> tuple[Tensor, Tensor]:
    """Clip segments to their videos and score them for all classes but the background: (B, A, 2), (B, A, N - 1).

    Class probabilities are weighted by the probabilities of a start and an end at the segment's boundaries. Segments of
    zero length, such as those in the padding, score 0; the authors' code keeps one of them for each class.
    """
    inside = out.adjusted_segments.float().clamp(0, out.startness.shape[1] - 1)  # (B, A, 2)
    start, end = (_around(curve, inside[..., i]) for i, curve in enumerate((out.startness, out.endness)))  # (B, A)
    last = (out.num_frames.float() - 1).clamp(min=0)[:, None, None]  # (B, 1, 1)
    segments = inside.minimum(last)
    weight = start * end * (segments[..., 1] > segments[..., 0])  # (B, A)
    return segments, out.scores[..., 1:] * weight[..., None]


def _around(curve: Tensor, positions: Tensor) -> Tensor:
    """Average a curve (B, T) over the steps before and after fractional positions (B, A)."""
    return (curve.gather(1, positions.floor().long()) + curve.gather(1, positions.ceil().long())) / 2


def class_nms(segments: Tensor, scores: Tensor, count: int | None = None) -> tuple[Tensor, float]:
    """Apply hard non-maximum suppression to each class.

    Args:
        segments: (A, 2).
        scores: (A, N - 1).
        count: Number of best pairs of a segment and a class to process; None for all.

    Returns:
        Scores (A, N - 1), 0 where a better segment of the class overlaps by a temporal IoU above 0.4 and for pairs that
        were not processed; and the highest score among the latter.
    """
    scores = scores.float().cpu()
    many, classes = int(scores.count_nonzero()), max(scores.shape[1], 1)
    best = scores.flatten().topk(many if count is None else min(count + 1, many))
    order, overlapping = best.indices[:count], _overlapping(segments)
    suppressed, keep = [0] * classes, []  # anchors of each class, as bits
    for anchor, label in zip((order // classes).tolist(), (order % classes).tolist(), strict=True):
        keep.append(not suppressed[label] >> anchor & 1)
        if keep[-1]:
            suppressed[label] |= overlapping(anchor)
    kept, order = torch.zeros_like(scores).flatten(), order[torch.tensor(keep, dtype=torch.bool)]
    kept[order] = scores.flatten()[order]
    return kept.view_as(scores), 0.0 if len(keep) == many else best.values[count].item()


def _overlapping(segments: Tensor) -> Callable[[int], int]:
    """Build a cached function from a segment to the segments that overlap it, as bits of an integer."""
    start, end = segments.double().cpu().numpy().T  # (A,)
    least = _NMS_IOU / (1 + _NMS_IOU) * (end - start)  # inter / (lengths - inter) > IoU, solved for inter

    @cache
    def overlapping(anchor: int) -> int:
        inter = np.minimum(end, end[anchor]) - np.maximum(start, start[anchor])  # negative without an overlap
        return int.from_bytes(np.packbits(inter > least + least[anchor], bitorder="little").tobytes(), "little")

    return overlapping


def _best_after_nms(segments: Tensor, scores: Tensor, select: Callable[[Tensor, Tensor], Detections]) -> Detections:
    """Find the 200 best moments of segments (A, 2) and scores (A, N - 1) after NMS of each class.

    NMS processes the best pairs only, and four times as many again until no other pair could be among the results.
    """
    segments, count = segments.float(), _INITIAL_PAIRS
    while True:
        kept, rest = class_nms(segments, scores, count)
        moments = select(segments.cpu(), kept)
        if not rest or (len(moments.scores) == MAX_MOMENTS and moments.scores[-1] >= rest):
            return moments
        count *= 4


def detections(segments: Tensor, scores: Tensor) -> Detections:
    """Find the 200 best moments of a clip, by NMS of each class followed by soft-NMS over all classes.

    Args:
        segments: (A, 2).
        scores: (A, N - 1).
    """
    return _best_after_nms(segments, scores, _soft_nms)


def retrievals(segments: Tensor, scores: Tensor, classes: Tensor) -> Detections:
    """Find the 200 best moments of given classes together, by NMS of each class.

    Args:
        segments: (A, 2).
        scores: (A, N - 1).
        classes: (n,) int64 classes of the clip, without repetition.
    """
    moments = _best_after_nms(segments, scores[:, classes - 1], _best)
    return moments._replace(classes=classes.cpu()[moments.classes - 1])


def _best(segments: Tensor, scores: Tensor) -> Detections:
    """Select the best pairs of a segment and a class."""
    best = scores.T.flatten().topk(min(MAX_MOMENTS, int(scores.count_nonzero())))
    return Detections(segments[best.indices % len(segments)], best.indices // len(segments) + 1, best.values)


def _soft_nms(segments: Tensor, scores: Tensor) -> Detections:
    """Apply soft-NMS to all pairs of a segment and a class, which is faster than `soft_nms` of that many proposals."""
    spans, left = segments.double().numpy(), scores.double().numpy()
    weight, label = np.ones(len(left)), left.argmax(1)  # (A,) decay of a segment's scores, and its best class
    best, selected = left.max(1), []
    for _ in range(min(MAX_MOMENTS, int(np.count_nonzero(left)))):
        anchor = int((weight * best).argmax())
        selected.append((anchor, label[anchor] + 1, weight[anchor] * best[anchor]))
        left[anchor, label[anchor]] = 0.0
        label[anchor], best[anchor] = left[anchor].argmax(), left[anchor].max()  # the segment keeps its other classes
        weight *= np.exp(-np.nan_to_num(temporal_iou(spans, spans[anchor])) ** 2 / _SIGMA)
    anchors, labels, values = np.array(selected).reshape(-1, 3).T
    return Detections(segments[anchors.astype(int)], torch.from_numpy(labels).long(), torch.from_numpy(values).float())

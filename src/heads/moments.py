"""From VSGN's output to the detections and retrievals of a clip, as the published numbers were made.

Letters: `B` clips, `A` anchors, `N` classes, `n` what is found. Times are in steps.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from egovlpv2.heads.vsgn import VSGNOutput
from egovlpv2.metrics.temporal import temporal_iou

MOST = 200  # detections of a clip, and retrievals
_DOUBLE_IOU = 0.4  # from which temporal IoU on two segments of a class are the same moment
_SIGMA = 0.46  # of soft-NMS (Ego4D MQ)
_LOOKED_AT = 4096  # pairs of a segment and a class, at first


class Detections(NamedTuple):
    """Moments of a clip, the best first."""

    segments: Tensor  # (n, 2) steps
    classes: Tensor  # (n,) int64, from 1
    scores: Tensor  # (n,)


def scored_segments(out: VSGNOutput) -> tuple[Tensor, Tensor]:
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


def without_doubles(segments: Tensor, scores: Tensor, count: int | None = None) -> tuple[Tensor, float]:
    """Hard non-maximum suppression, class by class.

    Args:
        segments: (A, 2).
        scores: (A, N - 1).
        count: How many of the best pairs of a segment and a class to look at; None: all.

    Returns:
        Scores (A, N - 1), 0 where the class has a better segment that overlaps this one by more than 0.4, and where
        a pair was not looked at; and the highest score of those pairs.
    """
    scores = scores.float().cpu()
    many, classes = int(scores.count_nonzero()), max(scores.shape[1], 1)
    best = scores.flatten().topk(many if count is None else min(count + 1, many))
    order, doubles_of = best.indices[:count], _doubles(segments)
    gone, stays = [0] * classes, []
    for anchor, label in zip((order // classes).tolist(), (order % classes).tolist(), strict=True):
        stays.append(not gone[label] >> anchor & 1)
        if stays[-1]:
            gone[label] |= doubles_of(anchor)
    kept, order = torch.zeros_like(scores).flatten(), order[torch.tensor(stays, dtype=torch.bool)]
    kept[order] = scores.flatten()[order]
    return kept.view_as(scores), 0.0 if len(stays) == many else best.values[count].item()


def _doubles(segments: Tensor) -> Callable[[int], int]:
    """A function that tells of a segment which segments overlap it by more than that IoU, as bits: fast to join."""
    start, end = segments.double().cpu().numpy().T  # (A,)
    least = _DOUBLE_IOU / (1 + _DOUBLE_IOU) * (end - start)  # inter / (lengths - inter) > IoU, solved for inter

    @cache
    def doubles_of(anchor: int) -> int:
        inter = np.minimum(end, end[anchor]) - np.maximum(start, start[anchor])  # below 0 if they are apart
        return int.from_bytes(np.packbits(inter > least + least[anchor], bitorder="little").tobytes(), "little")

    return doubles_of


def _without_looking_at_all(segments: Tensor, scores: Tensor, find: Callable[[Tensor, Tensor], Detections]
                            ) -> Detections:
    """The 200 best moments of segments (A, 2) and scores (A, N - 1) without doubles.

    Only the best pairs are looked at, and more of them until the best of the rest could be none of the moments.
    """
    segments, count = segments.float(), _LOOKED_AT
    while True:
        kept, rest = without_doubles(segments, scores, count)
        found = find(segments.cpu(), kept)
        if not rest or (len(found.scores) == MOST and found.scores[-1] >= rest):
            return found
        count *= 4


def detections(segments: Tensor, scores: Tensor) -> Detections:
    """The 200 best moments of a clip, without doubles of a class and by soft-NMS of all classes together.

    Args:
        segments: (A, 2).
        scores: (A, N - 1).
    """
    return _without_looking_at_all(segments, scores, _soft_nms)


def retrievals(segments: Tensor, scores: Tensor, classes: Tensor) -> Detections:
    """The 200 best moments of some classes together, without doubles of a class.

    Args:
        segments: (A, 2).
        scores: (A, N - 1).
        classes: The clip's, each once.
    """
    found = _without_looking_at_all(segments, scores[:, classes - 1], _best)
    return found._replace(classes=classes.cpu()[found.classes - 1])


def _best(segments: Tensor, scores: Tensor) -> Detections:
    best = scores.T.flatten().topk(min(MOST, int(scores.count_nonzero())))
    return Detections(segments[best.indices % len(segments)], best.indices // len(segments) + 1, best.values)


def _soft_nms(segments: Tensor, scores: Tensor) -> Detections:
    """The best pair stays, all that overlap it lose score, and so on."""
    places, left = segments.double().numpy(), scores.double().numpy()
    weight, label = np.ones(len(left)), left.argmax(1)  # (A,): what is left of a segment's scores, and its best class
    best, found = left.max(1), []
    for _ in range(min(MOST, int(np.count_nonzero(left)))):
        anchor = int((weight * best).argmax())
        found.append((anchor, label[anchor] + 1, weight[anchor] * best[anchor]))
        left[anchor, label[anchor]] = 0.0
        label[anchor], best[anchor] = left[anchor].argmax(), left[anchor].max()  # other classes of that segment stay
        weight *= np.exp(-np.nan_to_num(temporal_iou(places, places[anchor])) ** 2 / _SIGMA)
    anchors, labels, values = np.array(found).reshape(-1, 3).T
    return Detections(segments[anchors.astype(int)], torch.from_numpy(labels).long(), torch.from_numpy(values).float())

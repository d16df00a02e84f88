"""What VSGN learns from: anchors are matched with instances, then classes, segments and boundaries are compared.

Letters: `B` clips, `A` anchors, `G` instances of a clip (padded), `N` classes, `T` steps. Times are in steps.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from egovlpv2.grounding.vsgn import ANCHOR_SCALES, Detected
from torch import Tensor

_CANDIDATES = 9  # anchors of each level that may stand for an instance


class MomentLabels(NamedTuple):
    """True instances of B clips."""

    segments: Tensor  # (B, G, 2) start and end
    classes: Tensor  # (B, G) int64, from 1; 0 where there is no instance

    @property
    def real(self) -> Tensor:
        return self.classes > 0  # (B, G)


class Matched(NamedTuple):
    """What each anchor stands for."""

    classes: Tensor  # (B, A) int64; 0 is nothing
    segments: Tensor  # (B, A, 2), of any value where it stands for nothing


def vsgn_losses(out: Detected, anchors: Tensor, labels: MomentLabels) -> dict[str, Tensor]:
    """The six losses of VSGN.

    Args:
        out: What VSGN says.
        anchors: VSGN's, (A, 2).
        labels: What is true.
    """
    with torch.autocast(out.segments.device.type, enabled=False):
        out = Detected(*(value.float() for value in out))
        matched = match_anchors(anchors, labels)
        bands = label_bands(labels, out.actionness.shape[1])
        return {
            "class": class_loss(out.class_logits, matched.classes),
            "segment": segment_loss(out.segments, matched),
            "boundary": segment_loss(out.adjusted_segments, matched),
            **{name: balanced_cross_entropy(getattr(out, name), band) for name, band in bands.items()},
        }


def match_anchors(anchors: Tensor, labels: MomentLabels) -> Matched:
    """Adaptive training sample selection (Zhang et al., CVPR 2020): of the anchors of each level that lie nearest, an
    instance takes those of a temporal IoU above the mean plus one deviation, with their centre inside it.
    """
    centres, lengths = anchors.T  # (A,)
    spans = torch.stack([centres - lengths / 2, centres + lengths / 2], dim=1)  # (A, 2)
    overlap = segment_iou(spans[None, :, None], labels.segments[:, None])  # (B, A, G)
    nearest = _nearest_of_each_level(centres, lengths, labels.segments.mean(2))  # (B, n, G)
    candidates = overlap.gather(1, nearest)  # (B, n, G)
    threshold = candidates.mean(1) + candidates.std(1)  # (B, G)
    chosen = torch.zeros_like(overlap, dtype=torch.bool).scatter_(1, nearest, candidates >= threshold[:, None])
    inside = (centres[:, None] > labels.segments[:, None, :, 0]) & (centres[:, None] < labels.segments[:, None, :, 1])
    best, instance = overlap.masked_fill(~(chosen & inside & labels.real[:, None]), -1.0).max(2)  # (B, A)
    classes = labels.classes.gather(1, instance) * (best >= 0)
    return Matched(classes, labels.segments.gather(1, instance[..., None].expand(-1, -1, 2)))


def _nearest_of_each_level(centres: Tensor, lengths: Tensor, middles: Tensor) -> Tensor:
    """Indices (B, n, G) of the anchors whose centres (A,) lie nearest to the instances' middles (B, G)."""
    distance = (centres[:, None] - middles[:, None]).abs()  # (B, A, G)
    strides = lengths.reshape(-1, len(ANCHOR_SCALES))[:, 0] / ANCHOR_SCALES[0]  # (A / scales,)
    counts = strides.unique_consecutive(return_counts=True)[1] * len(ANCHOR_SCALES)
    found, first = [], 0
    for count in counts.tolist():
        part = distance[:, first : first + count]
        found.append(part.topk(min(_CANDIDATES, count), dim=1, largest=False).indices + first)
        first += count
    return torch.cat(found, dim=1)


def class_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean cross-entropy of the anchors that stand for an instance, plus that of the others."""
    loss = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none")  # (B * A,)
    positive = classes.flatten() > 0
    return _mean(loss, positive) + _mean(loss, ~positive)


def segment_loss(segments: Tensor, matched: Matched) -> Tensor:
    """One minus the generalised IoU (Rezatofighi et al., CVPR 2019), over the anchors that stand for an instance."""
    ordered = torch.stack([segments[..., 0], segments.amax(-1)], dim=-1)
    hull = torch.maximum(ordered[..., 1], matched.segments[..., 1]) - torch.minimum(
        ordered[..., 0], matched.segments[..., 0])
    inter, union = _intersection_and_union(ordered, matched.segments)
    loss = 1 - inter / union.clamp(min=1e-7) + (hull - union) / hull.clamp(min=1e-7)  # (B, A)
    return _mean(loss, matched.classes > 0)


def balanced_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy in which all positive positions together weigh as much as all others, BMN's (Lin et al.,
    ICCV 2019). Padding counts as negative, as in the authors' code.

    Args:
        scores: (B, T) probabilities.
        labels: (B, T) bool.
    """
    loss = -torch.where(labels, scores + 1e-5, 1 - scores + 1e-5).log()
    return 0.5 * (_mean(loss, labels) + _mean(loss, ~labels))


def label_bands(labels: MomentLabels, num_steps: int) -> dict[str, Tensor]:
    """Which steps lie in an instance (`actionness`), and within one step of a start or an end: (B, T) bool each."""
    places = torch.arange(num_steps, device=labels.segments.device)
    start, end = labels.segments.round().clamp(0, num_steps - 1).unbind(2)  # (B, G)
    real = labels.real[..., None]  # (B, G, 1)
    within = (places >= start[..., None]) & (places <= end[..., None]) & real  # (B, G, T)
    near = [((places - middle[..., None]).abs() <= 1) & real for middle in (start, end)]
    return {"actionness": within.any(1), "startness": near[0].any(1), "endness": near[1].any(1)}


def segment_iou(a: Tensor, b: Tensor) -> Tensor:
    """Temporal IoU of segments (..., 2) that broadcast; 0 where both are points."""
    inter, union = _intersection_and_union(a, b)
    return inter / union.clamp(min=1e-7)


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    inter = (torch.minimum(a[..., 1], b[..., 1]) - torch.maximum(a[..., 0], b[..., 0])).clamp(min=0)
    return inter, (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - inter


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of the values there, 0 if there are none."""
    return (values * where).sum() / where.sum().clamp(min=1)

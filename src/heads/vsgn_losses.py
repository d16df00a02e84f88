"""Losses of VSGN: segments are matched with instances, then classes, segments and boundaries are compared.

Letters: `B` clips, `A` anchors, `G` instances of a clip (padded), `N` classes, `T` steps. Times are in steps.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from egovlpv2.heads.vsgn import VSGNOutput, decode

# Minimum temporal IoU of a positive segment with its instance, in the losses of classes, segments and boundaries.
_CLASS_IOU, _SEGMENT_IOU, _BOUNDARY_IOU = 0.5, 0.5, 0.7


class MomentLabels(NamedTuple):
    """Ground-truth instances of B clips."""

    segments: Tensor  # (B, G, 2) start and end
    classes: Tensor  # (B, G) int64, from 1; 0 on padding

    @property
    def real(self) -> Tensor:
        """Mask of the instances without padding, (B, G) bool."""
        return self.classes > 0


class Matched(NamedTuple):
    """The instance of highest overlap for each segment."""

    overlap: Tensor  # (B, A) temporal IoU
    best: Tensor  # (B, A) bool, True if no other segment overlaps some instance more
    classes: Tensor  # (B, A) int64; 0 is the background
    segments: Tensor  # (B, A, 2), undefined where the class is 0

    def at(self, threshold: float) -> "Matched":
        """Assign segments to the background unless they overlap by the threshold or are the best of some instance.

        Without the second rule, instances that fit no anchor, such as most of 1 to 3 steps, would have no positives.
        """
        return self._replace(classes=self.classes * ((self.overlap >= threshold) | self.best))


def vsgn_losses(out: VSGNOutput, anchors: Tensor, labels: MomentLabels) -> dict[str, Tensor]:
    """Compute the six losses of VSGN; each of the first three matches other segments with the instances.

    Args:
        out: Predictions of VSGN.
        anchors: Its anchors, centre and length (A, 2).
        labels: Ground truth.

    Returns:
        Scalars by name.
    """
    with torch.autocast(out.segments.device.type, enabled=False):
        out = VSGNOutput(*(value.float() for value in out))
        untouched = decode(torch.zeros_like(out.segments), anchors)  # (B, A, 2)
        matched = match(out.segments, labels)
        bands = label_bands(labels, out.actionness.shape[1])
        return {
            "class": class_loss(out.class_logits, matched.at(_CLASS_IOU).classes),
            "segment": segment_loss(out.segments, match(untouched, labels).at(_SEGMENT_IOU)),
            "boundary": segment_loss(out.adjusted_segments, matched.at(_BOUNDARY_IOU)),
            **{name: balanced_cross_entropy(getattr(out, name), band) for name, band in bands.items()},
        }


@torch.no_grad()
def match(segments: Tensor, labels: MomentLabels) -> Matched:
    """Match segments (B, A, 2) with the instances that they overlap most.

    An instance that no segment overlaps (one of zero length) has no best segment; in the authors' code it has all.
    """
    inter, union = _intersection_and_union(segments[:, :, None], labels.segments[:, None])  # (B, A, G)
    overlap = (inter / (union + 1)).masked_fill(~labels.real[:, None], -1.0)  # one step added, as in the authors' code
    most, instance = overlap.max(2)  # (B, A)
    best_of = (overlap == overlap.amax(1, keepdim=True)) & (overlap > 0)  # (B, A, G), ties included
    segments = labels.segments.gather(1, instance[..., None].expand(-1, -1, 2))  # (B, A, 2)
    return Matched(most, best_of.any(2), labels.classes.gather(1, instance), segments)


def class_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Compute the mean cross-entropy of positive segments plus that of background segments."""
    loss = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none")  # (B * A,)
    positive = classes.flatten() > 0
    return _mean(loss, positive) + _mean(loss, ~positive)


def segment_loss(segments: Tensor, matched: Matched) -> Tensor:
    """Compute one minus the generalised IoU (Rezatofighi et al., CVPR 2019), averaged over positive segments."""
    ordered = torch.stack([segments.amin(-1), segments.amax(-1)], dim=-1)  # an adjusted end may come before its start
    hull = torch.maximum(ordered[..., 1], matched.segments[..., 1]) - torch.minimum(
        ordered[..., 0], matched.segments[..., 0])
    inter, union = _intersection_and_union(ordered, matched.segments)
    loss = 1 - inter / union.clamp(min=1e-7) + (hull - union) / hull.clamp(min=1e-7)  # (B, A)
    return _mean(loss, matched.classes > 0)


def balanced_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Compute BMN's balanced binary cross-entropy (Lin et al., ICCV 2019): positives weigh as much as negatives in all.

    Padding counts as negative, as in the authors' code.

    Args:
        scores: (B, T) probabilities.
        labels: (B, T) bool.
    """
    loss = -torch.where(labels, scores + 1e-5, 1 - scores + 1e-5).log()
    return 0.5 * (_mean(loss, labels) + _mean(loss, ~labels))


def label_bands(labels: MomentLabels, num_steps: int) -> dict[str, Tensor]:
    """Label the steps inside an instance (`actionness`) and within one step of a start or an end: (B, T) bool each."""
    steps = torch.arange(num_steps, device=labels.segments.device)
    start, end = labels.segments.round().clamp(0, num_steps - 1).unbind(2)  # (B, G)
    real = labels.real[..., None]  # (B, G, 1)
    within = (steps >= start[..., None]) & (steps <= end[..., None]) & real  # (B, G, T)
    near = [((steps - middle[..., None]).abs() <= 1) & real for middle in (start, end)]
    return {"actionness": within.any(1), "startness": near[0].any(1), "endness": near[1].any(1)}


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    inter = (torch.minimum(a[..., 1], b[..., 1]) - torch.maximum(a[..., 0], b[..., 0])).clamp(min=0)
    return inter, (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - inter


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Compute the mean of masked values, 0 without any."""
    return (values * where).sum() / where.sum().clamp(min=1)

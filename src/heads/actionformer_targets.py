"""Targets of ActionFormer: the moments that each point predicts.

Letters: `B` clips, `P` points, `G` moments of a clip (padded), `K` classes. Times are in steps of the features.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_RADIUS = 1.5  # of the centre of a moment, in steps of a level
_SAME_LENGTH = 1e-3  # lengths that differ by less are equal


class PointTargets(NamedTuple):
    """Targets of the points of B clips."""

    classes: Tensor  # (B, P, K) float32, 0 or 1
    offsets: Tensor  # (B, P, 2) from the point to start and end, in steps of its level; 0 without a moment


@torch.no_grad()
def assign_targets(points: Tensor, segments: Tensor, classes: Tensor, num_classes: int,
                   all_classes: bool = False) -> PointTargets:
    """Assign moments to points: those around the point's centre of which the point's level has the range.

    Of several moments, a point predicts the times of the shortest one (the first of equals).

    Args:
        points: (P, 4) of `ActionFormerOutput`.
        segments: (B, G, 2) start and end.
        classes: (B, G) int64, from 1; 0 on padding.
        num_classes: Number of classes, without the padding.
        all_classes: A point predicts the classes of all its moments, as in OpenTAD, instead of those of its shortest
            ones.
    """
    time, least, largest, stride = (column[:, None] for column in points.unbind(1))  # (P, 1)
    start, end = segments[:, None].unbind(3)  # (B, 1, G)
    left, right = time - start, end - time  # (B, P, G)
    centre = 0.5 * (start + end)
    inside = torch.minimum(time - torch.maximum(centre - stride * _RADIUS, start),
                           torch.minimum(centre + stride * _RADIUS, end) - time) > 0
    farther = torch.maximum(left, right)
    fits = inside & (farther >= least) & (farther <= largest) & (classes > 0)[:, None]  # (B, P, G)
    if not segments.shape[1]:
        return PointTargets(segments.new_zeros(len(segments), len(points), num_classes),
                            segments.new_zeros(len(segments), len(points), 2))
    length = (end - start).expand_as(left).masked_fill(~fits, torch.inf)
    shortest, index = length.min(2, keepdim=True)  # (B, P, 1), the first of equals
    predicted = fits if all_classes else fits & (length <= shortest + _SAME_LENGTH)
    hot = F.one_hot(classes, num_classes + 1)[..., 1:].to(segments)  # (B, G, K)
    distances = torch.cat([left.gather(2, index), right.gather(2, index)], 2) / stride  # (B, P, 2)
    return PointTargets((predicted.to(hot) @ hot).clamp(max=1), distances * fits.any(2, keepdim=True))

"""Losses of ActionFormer: classes and boundaries of points, over a moving average of the number of positive points.

Letters: `B` clips, `P` points, `K` classes, `n` points.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from egovlpv2.heads.actionformer import ActionFormer, ActionFormerOutput
from egovlpv2.heads.actionformer_targets import assign_targets

_ALPHA, _GAMMA = 0.25, 2.0  # of the focal loss (Lin et al., ICCV 2017)
_EPS = 1e-8


@dataclass
class ActionFormerLoss:
    """Settings of the loss; the defaults are the authors'.

    Args:
        offset_weight: Weight of the loss of boundaries; 0 or less: such that it equals the loss of classes.
        label_smoothing: Share of a class's target that is spread over all classes.
        all_classes: A point predicts the classes of all moments that it lies in, as in OpenTAD, instead of those of
            the shortest ones.
    """

    offset_weight: float = 1.0
    label_smoothing: float = 0.0
    all_classes: bool = False

    def __call__(self, head: ActionFormer, out: ActionFormerOutput, segments: Tensor, classes: Tensor
                 ) -> dict[str, Tensor]:
        """Compute the losses of a batch; in training, its positive points enter the head's normaliser first.

        Args:
            head: The head.
            out: Its predictions for the batch.
            segments: (B, G, 2) start and end of the true moments, in steps.
            classes: (B, G) int64 classes, from 1; 0 on padding.

        Returns:
            `loss`, the weighted sum, and its parts `class` and `offset`.
        """
        with torch.autocast(out.offsets.device.type, enabled=False):
            logits, offsets = out.class_logits.float(), out.offsets.float()
            targets = assign_targets(out.points, segments, classes, head.num_classes, self.all_classes)
            positive = (targets.classes.sum(2) > 0) & out.mask  # (B, P)
            smooth = self.label_smoothing
            wanted = targets.classes * (1 - smooth) + smooth / (head.num_classes + 1)
            normalizer = head.update_normalizer(positive.sum())
            of_classes = focal_loss(logits[out.mask], wanted[out.mask]).sum() / normalizer
            of_offsets = diou_loss(offsets[positive], targets.offsets[positive]).sum() / normalizer
            weight = (self.offset_weight if self.offset_weight > 0
                      else of_classes.detach() / of_offsets.detach().clamp(min=0.01))
            return {"loss": of_classes + weight * of_offsets, "class": of_classes, "offset": of_offsets}


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the sigmoid focal loss of each logit, (n, K), (n, K) -> (n, K).

    Args:
        logits: (n, K).
        targets: (n, K), 0 to 1.
    """
    probability = logits.sigmoid()
    correct = probability * targets + (1 - probability) * (1 - targets)
    alpha = _ALPHA * targets + (1 - _ALPHA) * (1 - targets)
    return alpha * F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * (1 - correct) ** _GAMMA


def diou_loss(offsets: Tensor, targets: Tensor) -> Tensor:
    """Compute the distance-IoU loss (Zheng et al., AAAI 2020) of segments around the same points.

    Args:
        offsets: (n, 2) predicted distances of start and end, not negative.
        targets: (n, 2) true distances.

    Returns:
        (n,).
    """
    inter = torch.minimum(offsets, targets).sum(1)
    union = offsets.sum(1) + targets.sum(1) - inter
    hull = torch.maximum(offsets, targets).sum(1)
    between = 0.5 * ((offsets[:, 1] - offsets[:, 0]) - (targets[:, 1] - targets[:, 0]))  # of the centres
    return 1 - inter / union.clamp(min=_EPS) + (between / hull.clamp(min=_EPS)) ** 2

"""Soft non-maximum suppression over segments in time (Bodla et al., ICCV 2017), as VSGN uses it."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from egovlpv2.metrics.temporal import temporal_iou


def soft_nms(segments: ArrayLike, scores: ArrayLike, sigma: float, max_proposals: int
             ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Select proposals by Gaussian soft-NMS: keep the best one, lower the scores of those that overlap it, repeat.

    The last remaining proposal is never selected, as in the authors' code.

    Args:
        segments: (P, 2) start and end, seconds.
        scores: (P,) above 0.
        sigma: Width of the Gaussian over temporal IoU (Ego4D MQ: 0.46).
        max_proposals: Number of proposals to keep.

    Returns:
        Segments (n, 2), their lowered scores (n,), and their rows in the input (n,) int64.
    """
    spans, decayed = np.array(segments, dtype=np.float64).reshape(-1, 2), np.array(scores, dtype=np.float64)
    kept, left = [], decayed.copy()
    for _ in range(min(max_proposals, len(decayed) - 1)):
        best = int(left.argmax())
        kept.append(best)
        decayed[best] = left[best]
        left *= np.exp(-np.nan_to_num(temporal_iou(spans, spans[best])) ** 2 / sigma)
        left[best] = -np.inf
    index = np.array(kept, dtype=np.int64)
    return spans[index], decayed[index], index

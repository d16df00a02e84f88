"""From VSGN's output to the detections and retrievals of a clip.

Letters: `A` anchors, `N` classes, `n` what is found. Times are in steps.
"""

from typing import NamedTuple

import torch
from egovlpv2.grounding.vsgn import Detected
from egovlpv2.metrics.temporal import suppress
from torch import Tensor

_CANDIDATES = 1000  # pairs of an anchor and a class that go on, of one clip
_SIGMA = 0.46  # of soft-NMS (Ego4D MQ)
_DETECTIONS = 200  # of a clip


class Found(NamedTuple):
    """Moments of a clip, the best first."""

    segments: Tensor  # (n, 2) steps
    classes: Tensor  # (n,) int64, from 1
    scores: Tensor  # (n,)


def scored_segments(out: Detected) -> tuple[Tensor, Tensor]:
    """Segments (B, A, 2) within their clips, and scores (B, A, N - 1) of all classes but nothing.

    A class counts as much as the segment's ends look like a start and an end, and its middle like something at all.
    """
    last = (out.num_frames.float() - 1).clamp(min=0)[:, None]  # (B, 1)
    start, end = (out.adjusted_segments[..., i].clamp(min=0).minimum(last + i) for i in (0, 1))  # (B, A)
    look = [scores.gather(1, places.floor().minimum(last).long())
            for scores, places in ((out.startness, start), (out.endness, end), (out.actionness, (start + end) / 2))]
    inside = (end > start) & (out.adjusted_segments[..., 0] <= last)  # not wholly in the padding
    weight = look[0] * look[1] * look[2] * inside  # (B, A)
    return torch.stack([start, end], dim=2), out.scores[..., 1:] * weight[..., None]


def detections(segments: Tensor, scores: Tensor) -> Found:
    """All moments of a clip, class by class through soft-NMS.

    Args:
        segments: (A, 2).
        scores: (A, N - 1).
    """
    segments, scores = segments.float().cpu(), scores.float().cpu()  # soft-NMS is a loop, not work for a GPU
    best = scores.flatten().topk(min(_CANDIDATES, scores.numel()))
    real = best.values > 0
    anchor, label = best.indices[real] // scores.shape[1], best.indices[real] % scores.shape[1]
    parts = [_without_doubles(segments[anchor[label == i]], best.values[real][label == i], i)
             for i in label.unique().tolist()]
    if not parts:
        return Found(segments[:0], torch.empty(0, dtype=torch.int64), torch.empty(0))
    together = Found(*map(torch.cat, zip(*parts, strict=True)))
    order = together.scores.argsort(descending=True)[:_DETECTIONS]
    return Found(*(values[order] for values in together))


def _without_doubles(segments: Tensor, scores: Tensor, label: int) -> Found:
    """Soft-NMS of one class, which keeps the last too: with so many classes, many have one moment alone."""
    kept, new, _ = suppress(segments.numpy(), scores.numpy(), _SIGMA, min(_DETECTIONS, len(scores)))
    return Found(torch.from_numpy(kept).float(), torch.full((len(new),), label + 1), torch.from_numpy(new).float())


def retrievals(segments: Tensor, scores: Tensor, classes: Tensor, most: int) -> Found:
    """The best moments of each class that the clip has, without soft-NMS.

    Args:
        segments: (A, 2).
        scores: (A, N - 1).
        classes: The clip's, each once.
        most: Of each class.
    """
    segments, scores, classes = segments.float().cpu(), scores.float().cpu(), classes.cpu()
    best = scores[:, classes - 1].topk(min(most, len(scores)), dim=0)  # (most, classes)
    return Found(segments[best.indices.T.flatten()], classes.repeat_interleave(len(best.values)),
                 best.values.T.flatten())

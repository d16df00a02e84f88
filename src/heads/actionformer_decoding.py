"""Post-processing of ActionFormer's output into the moments of a clip, in seconds.

Letters: `P` points, `K` classes, `n` moments.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from egovlpv2.heads.actionformer import ActionFormerOutput
from egovlpv2.heads.nms import NMS, Detections, suppress


@dataclass
class Decoding:
    """Settings of the post-processing; the defaults are the authors' for Ego4D MQ.

    Args:
        min_score: Classes of points that are less likely are left out.
        candidates: Number of the likeliest classes of points that enter the suppression.
        per_level: Count the candidates for each level, instead of for the clip as OpenTAD does.
        min_length: Shorter moments, in steps, are left out.
        rounded: Suppress moments in seconds rounded to 0.01, with scores rounded to 0.0001, as OpenTAD does.
        nms: Non-maximum suppression.
    """

    min_score: float = 0.001
    candidates: int = 5000
    per_level: bool = True
    min_length: float = 0.05
    rounded: bool = False
    nms: NMS = field(default_factory=NMS)

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"decoding.candidates={self.candidates}: give 1 or more")


@torch.no_grad()
def decode_points(out: ActionFormerOutput, clip: int, settings: Decoding) -> Detections:
    """Decode the predictions for a clip of the batch, before suppression.

    Returns:
        Moments in steps, level by level, each level's best first.
    """
    sizes = out.points[:, 3].unique_consecutive(return_counts=True)[1].tolist() if settings.per_level else [-1]
    parts = [part.split(sizes) if settings.per_level else [part]
             for part in (out.class_logits[clip].float(), out.offsets[clip].float(), out.points, out.mask[clip])]
    levels = [_decode_level(logits, offsets, points, mask, settings)
              for logits, offsets, points, mask in zip(*parts, strict=True)]
    return Detections(*(torch.cat(column) for column in zip(*levels, strict=True)))


def _decode_level(logits: Tensor, offsets: Tensor, points: Tensor, mask: Tensor, settings: Decoding) -> Detections:
    """Decode points (P, K), (P, 2), (P, 4), (P,), the best first."""
    probability = (logits.sigmoid() * mask[:, None]).flatten()  # (P * K,)
    likely = (probability > settings.min_score).nonzero()[:, 0]
    best = probability[likely].topk(min(settings.candidates, len(likely)))
    pair = likely[best.indices]
    point, label = pair // logits.shape[1], pair % logits.shape[1] + 1
    time, stride = points[point, 0], points[point, 3]
    segments = torch.stack([time - offsets[point, 0] * stride, time + offsets[point, 1] * stride], 1)  # (n, 2)
    long = segments[:, 1] - segments[:, 0] > settings.min_length
    return Detections(segments[long], label[long], best.values[long])


def find_moments(out: ActionFormerOutput, clip: int, step_seconds: float, first_seconds: float, duration: float,
                 settings: Decoding) -> Detections:
    """Find the moments of a clip of the batch: decode, suppress, and convert to seconds.

    Args:
        out: The predictions.
        clip: Its place in the batch.
        step_seconds: Seconds between two steps.
        first_seconds: Time of step 0.
        duration: Of the clip, seconds; moments end there at the latest.
        settings: Of the post-processing.

    Returns:
        Moments in seconds, best first, on the CPU.
    """
    found = decode_points(out, clip, settings)
    if settings.rounded:
        seconds = (found.segments.double() * step_seconds + first_seconds).round(decimals=2)
        found = suppress(found._replace(segments=seconds, scores=found.scores.double().round(decimals=4)), settings.nms)
    else:
        found = suppress(found, settings.nms)
        found = found._replace(segments=found.segments * step_seconds + first_seconds)
    return found._replace(segments=found.segments.clamp(0, duration))

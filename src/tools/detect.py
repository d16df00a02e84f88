"""Find the activities in any video with a head of MQ, VSGN or ActionFormer: `egovlpv2 detect`.

Decoding and the model bound its time, window by window. A video that is longer than the clips that the head knows is
looked at in overlapping parts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from egovlpv2.arguments import check_call
from egovlpv2.checkpoints.clip_heads import MomentHead, read_moment_head
from egovlpv2.features.clips import read_clip_features, resized
from egovlpv2.features.files import FeatureFolder
from egovlpv2.heads.actionformer_decoding import find_moments
from egovlpv2.heads.moments import detections, scored_segments
from egovlpv2.heads.nms import Detections
from egovlpv2.heads.vsgn import VSGN
from egovlpv2.metrics.temporal import temporal_iou
from egovlpv2.tools.results import Results, check_outputs, write_results
from egovlpv2.tools.video_parts import Extraction, Part, extracted, find_video, join_curves, parts
from egovlpv2.types import Count, ImageRate, NumWorkers, Precision, Seconds, Share
from egovlpv2.video.clock import clock
from egovlpv2.video.export import write_moments
from egovlpv2.video.moment_lists import FoundMoment
from egovlpv2.viz.timeline import Drawing, Span

_SAME = 0.5  # temporal IoU from which moments of a label, found in two parts, are one
_DRAWN = 12  # moments of a picture


@dataclass(frozen=True)
class Detection:
    """A moment with an activity.

    Args:
        label: The activity.
        start: Seconds.
        end: Seconds.
        score: 0 to 1.
    """

    label: str
    start: float
    end: float
    score: float

    def __str__(self) -> str:
        return f"{clock(self.start)} - {clock(self.end)}  score {self.score:.3f}  {self.label}"


def detect(video: str | Path, weights: str, head: str | Path, *, min_score: Share = 0.1, top: Count = 100,
           out: str | Path | None = None, export: Sequence[str] | None = None, sound: bool = False,
           chunk_seconds: Seconds = 600.0, image_fps: ImageRate | None = None, batch_size: Count = 16,
           num_workers: NumWorkers = 1, device: str | None = None,
           precision: Precision | None = None) -> list[Detection]:
    """Find the activities in a video.

    Args:
        video: any video, a folder of its chunks 0.mp4, 1.mp4, ... or of its pictures
        weights: .ckpt, .safetensors or released .pth that the head's features were extracted with
        head: a checkpoint of `make finetune-mq`
        min_score: moments with a lower score are left out
        top: moments at most, the best first
        out: a .json to write to; a picture of the same name lies beside it
        export: files to write what is found to: a folder for clips (.mp4), or a .csv, .json, .srt, .vtt or .edl
        sound: clips keep the sound of their video
        chunk_seconds: length of the files of a chunked video
        image_fps: pictures a second, where the video is a folder of pictures
        batch_size: windows at a time
        num_workers: processes that decode
        device: cuda or cpu; cuda where there is one
        precision: bf16 on a GPU if not given, else 32

    Raises:
        ValueError: An argument doesn't allow it, or the video, the weights or the head can't be read.
    """
    check_call(detect, locals())
    source = find_video(video, image_fps, chunk_seconds)
    check_outputs(out, export, source)
    opened = read_moment_head(Path(head))
    how = Extraction(weights, chunk_seconds, batch_size, num_workers, device=device, precision=precision)
    with extracted(source, [], Path(head), opened.features, how) as folder:
        duration = folder.duration(source.name)
        looked = [(part, *_look_at(part, folder, opened))
                  for part in parts(source.name, duration, opened.longest, folder.recipe.rate)]
    found = _merge([(part, detection) for part, moments, _ in looked for detection in _named(part, moments, opened)])
    found = [detection for detection in found if detection.score >= min_score][:top]
    if out is not None:
        curves = join_curves([(part, drawn) for part, _, drawn in looked], duration)
        spans = [Span(one.label, one.start, one.end) for one in found[:_DRAWN]]
        content = {"video": source.name, "duration": duration, "head": str(head), "weights": weights,
                   "min_score": min_score, "detections": [asdict(one) for one in found]}
        title = source.name if len(found) <= _DRAWN else f"{source.name}: the {_DRAWN} best of {len(found)}"
        write_results(Path(out), content, [Drawing(title, duration, curves, [], spans)], source, chunk_seconds)
    moments = [FoundMoment(source, chunk_seconds, one.start, one.end, one.label, one.score) for one in found]
    return Results(found, out, write_moments(export or [], moments, sound),
                   f"no activity with a score of {min_score:g} or more")


@torch.inference_mode()
def _look_at(part: Part, folder: FeatureFolder, opened: MomentHead
             ) -> tuple[Detections, dict[str, NDArray[np.float32]]]:
    """Run the head on a part of the video: moments in seconds of the part, and curves."""
    features, recipe, head = read_clip_features(folder, part.span), folder.recipe, opened.head
    values = features.values.float().T  # (C, T)
    if isinstance(head, VSGN):
        values = resized(values, head.num_steps)
        count = values.shape[1]
        padded = torch.nn.functional.pad(values, (0, head.num_steps - count))
        boxes = head(padded[None], torch.tensor([count]))
        segments, scores = scored_segments(boxes)
        moments = detections(segments[0], scores[0])
        return moments._replace(segments=moments.segments * (features.duration / count)), boxes.curves(0, count)
    points = head.detect(values[None], torch.tensor([values.shape[1]]))
    middle = 0.5 * recipe.window / recipe.fps  # of the first feature's window
    moments = find_moments(points, 0, 1 / recipe.rate, middle, features.duration, opened.decoding)
    return moments, points.curves(0, values.shape[1])


def _named(part: Part, moments: Detections, opened: MomentHead) -> Iterator[Detection]:
    """The moments of a part whose middle is nearer to the part's than to that of any other."""
    for (start, end), label, score in zip(moments.segments.tolist(), moments.classes.tolist(), moments.scores.tolist(),
                                          strict=True):
        start, end = start + part.span.start, end + part.span.start
        if part.start <= (start + end) / 2 <= part.end:
            yield Detection(opened.labels[label - 1], start, end, score)


def _merge(found: list[tuple[Part, Detection]]) -> list[Detection]:
    """All moments, the best first; of those that two parts have found, the better one."""
    kept: dict[str, list[tuple[Part, Detection]]] = {}
    for part, one in sorted(found, key=lambda pair: -pair[1].score):
        same = kept.setdefault(one.label, [])
        spans = np.array([(other.start, other.end) for of, other in same if of != part]).reshape(-1, 2)
        if not (temporal_iou(spans, np.array([one.start, one.end])) >= _SAME).any():
            same.append((part, one))
    return sorted((one for same in kept.values() for _, one in same), key=lambda one: -one.score)

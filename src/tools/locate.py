"""Find the windows of any video that answer questions, with a head of NLQ: `egovlpv2 locate`.

Decoding and the model bound its time, window by window. A video that is longer than the clips that the head knows is
looked at in overlapping parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from egovlpv2.arguments import check_call
from egovlpv2.checkpoints.clip_heads import QueryHead, read_query_head
from egovlpv2.command.options import require_text
from egovlpv2.features.clips import averaged, pad, read_clip_features
from egovlpv2.features.files import FeatureFolder
from egovlpv2.heads.vslnet import best_spans
from egovlpv2.metrics.temporal import temporal_iou
from egovlpv2.tools.results import Results, check_outputs, write_results
from egovlpv2.tools.video_parts import Extraction, Part, extracted, find_video, join_curves, parts
from egovlpv2.types import Count, ImageRate, NumTokens, NumWorkers, Precision, Seconds
from egovlpv2.video.clock import clock
from egovlpv2.video.export import write_moments
from egovlpv2.video.moment_lists import FoundMoment
from egovlpv2.viz.timeline import Drawing, Span

_SAME = 0.5  # temporal IoU from which windows of two parts are one


class Window(NamedTuple):
    """A window of a video."""

    start: float  # seconds
    end: float
    score: float  # 0 to 1


@dataclass(frozen=True)
class Located:
    """The windows that answer a query.

    Args:
        query: The query.
        windows: The best first. The score is the probability of the start times that of the end, times the largest
            probability of a moment of that part of the video to belong to the answer.
    """

    query: str
    windows: list[Window]

    def __str__(self) -> str:
        rows = [f"{rank:4}  {clock(start)} - {clock(end)}  score {value:.3f}"
                for rank, (start, end, value) in enumerate(self.windows, 1)]
        return "\n".join([self.query, *rows])


def locate(video: str | Path, queries: Sequence[str], weights: str, head: str | Path, *, top: Count = 5,
           out: str | Path | None = None, export: Sequence[str] | None = None, sound: bool = False,
           chunk_seconds: Seconds = 600.0, image_fps: ImageRate | None = None, batch_size: Count = 16,
           num_workers: NumWorkers = 1, max_tokens: NumTokens = 30, tokenizer: str | None = None,
           device: str | None = None, precision: Precision | None = None) -> list[Located]:
    """Find the windows of a video that answer questions.

    Args:
        video: any video, a folder of its chunks 0.mp4, 1.mp4, ... or of its pictures
        queries: what to find, such as "where did I put the cup?"
        weights: .ckpt, .safetensors or released .pth that the head's features were extracted with
        head: a checkpoint of `make finetune-nlq`
        top: windows of each query
        out: a .json to write to; a picture of the same name lies beside it
        export: files to write what is found to: a folder for clips (.mp4), or a .csv, .json, .srt, .vtt or .edl
        sound: clips keep the sound of their video
        chunk_seconds: length of the files of a chunked video
        image_fps: pictures a second, where the video is a folder of pictures
        batch_size: windows at a time
        num_workers: processes that decode
        max_tokens: tokens of a query; longer ones are cut
        tokenizer: the text tower's; the checkpoint's own if not given
        device: cuda or cpu; cuda where there is one
        precision: bf16 on a GPU if not given, else 32

    Raises:
        ValueError: An argument doesn't allow it, or the video, the weights or the head can't be read.
    """
    check_call(locate, locals())
    for query in queries:
        require_text("a query", query, "ask something, such as 'where did I put the cup?'")
    typed = {query.strip().lower(): query.strip() for query in reversed(queries)}
    texts = list(dict.fromkeys(query.strip().lower() for query in queries))  # as annotations are read
    source = find_video(video, image_fps, chunk_seconds)
    check_outputs(out, export, source)
    opened = read_query_head(Path(head))
    how = Extraction(weights, chunk_seconds, batch_size, num_workers, max_tokens, tokenizer, device, precision)
    with extracted(source, texts, Path(head), opened.features, how) as folder:
        found = [find_windows(folder, source.name, index, opened, top) for index in range(len(texts))]
        duration = folder.duration(source.name)
    located = [Located(typed[text], windows) for text, (windows, _) in zip(texts, found, strict=True)]
    if out is not None:
        drawings = [Drawing(f"{source.name}: {one.query}", duration, curves, [],
                            [Span(str(rank), *window[:2]) for rank, window in enumerate(one.windows, 1)])
                    for one, (_, curves) in zip(located, found, strict=True)]
        content = {"video": source.name, "duration": duration, "head": str(head), "weights": weights,
                   "queries": [{"query": one.query, "windows": [w._asdict() for w in one.windows]} for one in located]}
        write_results(Path(out), content, drawings, source, chunk_seconds)
    moments = [FoundMoment(source, chunk_seconds, *window[:2], one.query, window.score)
               for one in located for window in _apart(one.windows)]
    return Results(located, out, write_moments(export or [], moments, sound))


@torch.inference_mode()
def find_windows(folder: FeatureFolder, name: str, index: int, opened: QueryHead, top: int
                 ) -> tuple[list[Window], dict[str, NDArray[np.float32]]]:
    """Find the windows for one query, and the curves of the whole video.

    Args:
        folder: The features of the video.
        name: Of the video.
        index: Number of the query among those of the features.
        opened: The head.
        top: Windows at most.

    Returns:
        The windows, the best first, and curves (n,) by name, sampled uniformly over the video.
    """
    duration = folder.duration(name)
    found: list[tuple[Part, Window]] = []
    curves = []
    for part in parts(name, duration, opened.longest, folder.recipe.rate):
        windows, drawn = _look_at(part, folder, index, opened, top)
        found += [(part, window) for window in windows]
        curves.append((part, drawn))
    return _merge(found, top), join_curves(curves, duration)


def _look_at(part: Part, folder: FeatureFolder, index: int, opened: QueryHead, top: int
             ) -> tuple[list[Window], dict[str, NDArray[np.float32]]]:
    """Run the head on a part of the video."""
    features = read_clip_features(folder, part.span)
    values = features.values[:, index] if features.values.ndim == 3 else features.values  # (T, D)
    values = averaged(values, opened.averaged_to)
    # The convolutions see the padding: it is as long as in training.
    video, video_mask = pad([values], opened.averaged_to)
    words, word_mask = pad([features.words[index][features.word_mask[index]]], features.words.shape[1])
    out = opened.head(video, video_mask, words, word_mask)
    first, last = best_spans(out.start_logits, out.end_logits, top)  # (1, top)
    evidence = out.highlight[video_mask].max()
    scores = out.start_logits.softmax(1)[0, first[0]] * out.end_logits.softmax(1)[0, last[0]] * evidence  # (top,)
    step = features.duration / len(values)
    windows = [Window(part.span.start + a * step, part.span.start + (b + 1) * step, value)
               for a, b, value in zip(first[0].tolist(), last[0].tolist(), scores.tolist(), strict=True)]
    return list(dict.fromkeys(windows)), out.curves(0, len(values))


def _apart(windows: Sequence[Window]) -> list[Window]:
    """Those that don't overlap a better one."""
    kept: list[Window] = []
    for window in windows:
        if all(window.end <= other.start or other.end <= window.start for other in kept):
            kept.append(window)
    return kept


def _merge(found: Sequence[tuple[Part, Window]], top: int) -> list[Window]:
    """The best windows of all parts; of those that two parts have found, the better one."""
    kept: list[tuple[Part, Window]] = []
    for part, window in sorted(found, key=lambda pair: -pair[1].score):  # stable: a part's order stays
        spans = np.array([other[:2] for of, other in kept if of != part]).reshape(-1, 2)
        if not (temporal_iou(spans, np.array(window[:2])) >= _SAME).any():
            kept.append((part, window))
    return [window for _, window in kept[:top]]

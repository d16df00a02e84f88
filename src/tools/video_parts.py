"""Features of a whole video for a trained head, and the overlapping parts in which a long one is looked at."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from egovlpv2.checkpoints.inference import fingerprint, open_backbone, open_tokenizer
from egovlpv2.checkpoints.weights import find_weights
from egovlpv2.device import autocast
from egovlpv2.features.clips import ClipSpan
from egovlpv2.features.encoder import FeatureEncoder
from egovlpv2.features.extract import write_features
from egovlpv2.features.files import FeatureFolder
from egovlpv2.features.header import Recipe
from egovlpv2.features.query_encoding import warn_if_truncated
from egovlpv2.features.work_queue import VideoQueue
from egovlpv2.io.schema import check
from egovlpv2.types import Precision
from egovlpv2.video.collection import VideoSource, find_videos
from egovlpv2.video.container import VideoError
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import EvalTransform
from egovlpv2.viz.timeline import NUM_FRAMES

_WHOLE = 1.5  # times the longest clip of the training: a video up to this length is looked at as a whole
_CURVE_POINTS = 1000  # of a picture's curves
_PICTURE = 128  # side of a frame in a picture, pixels


@dataclass(frozen=True)
class Extraction:
    """How the features of a video are extracted.

    Args:
        weights: Of the backbone.
        chunk_seconds: Length of the video's files, if it is a folder of them.
        batch_size: Windows at a time.
        num_workers: Processes that decode.
        max_tokens: Tokens of a query.
        tokenizer: The text tower's; the checkpoint's own if not given.
        device: Where the model runs.
        precision: In which it runs.
    """

    weights: str
    chunk_seconds: float
    batch_size: int
    num_workers: int
    max_tokens: int = 30
    tokenizer: str | None = None
    device: str | None = None
    precision: Precision | None = None


def find_video(video: str | Path, image_fps: float | None, chunk_seconds: float) -> VideoSource:
    """Find the video at a path.

    Raises:
        ValueError: There is none, more than one, or one that can't be read.
    """
    sources = find_videos([video], image_fps)
    if len(sources) > 1:
        raise ValueError(f"{video} holds {len(sources)} videos, {sources[0].name!r} and others: give one at a time (a "
                         "folder of chunks 0.mp4, 1.mp4, ... is one)")
    sources[0].duration(chunk_seconds)  # refused before the model is loaded
    return sources[0]


def read_strip(source: VideoSource, duration: float, chunk_seconds: float) -> Tensor:
    """Read the frames of a picture's strip, at the centres of equal parts of a video: (n, 3, H, W) uint8.

    Raises:
        VideoError: The video can't be read there.
    """
    return source.read(uniform_times(0.0, duration, NUM_FRAMES), EvalTransform(_PICTURE), chunk_seconds).frames


@contextmanager
def extracted(source: VideoSource, queries: Sequence[str], head: Path, features: Mapping[str, Any], how: Extraction
              ) -> Iterator[FeatureFolder]:
    """A context with the features of a video as a head was trained on them, in a temporary folder.

    They go to the disk as they come, so memory stays flat.

    Args:
        source: The video.
        queries: That the features are fused with; none for other kinds.
        head: The head's checkpoint, for error messages.
        features: The recipe of the head's features, by name.
        how: Settings of the extraction.

    Raises:
        ValueError: The weights are not those of the head's features, or the video can't be read.
    """
    encoder = open_encoder(head, features, how, bool(queries))
    for query in queries:
        assert encoder.tokenizer is not None
        warn_if_truncated(encoder.tokenizer, "query", query, how.max_tokens)
    with encoded(source, queries, encoder, how) as folder:
        yield folder


def open_encoder(head: Path, features: Mapping[str, Any], how: Extraction, with_queries: bool) -> FeatureEncoder:
    """Load the backbone that extracts features as a head was trained on them.

    Args:
        head: As for `extracted`.
        features: As for `extracted`.
        how: Settings of the extraction.
        with_queries: Whether the features are fused with queries.

    Raises:
        ValueError: The weights are not those of the head's features.
    """
    recipe = read_recipe(head, features)
    path = str(find_weights(how.weights))
    if recipe.checkpoint != (here := fingerprint(path)):
        raise ValueError(f"--head {head} was trained on features of the weights {recipe.checkpoint}, and {how.weights} "
                         f"is {here}: give those weights, or a head that was trained on features of these")
    backbone = open_backbone(path, recipe.frames, how.device)
    tokenizer = open_tokenizer(backbone, how.tokenizer) if with_queries else None
    return FeatureEncoder(backbone, recipe, tokenizer, how.max_tokens, autocast(how.precision, backbone.device))


def read_recipe(head: Path, features: Mapping[str, Any]) -> Recipe:
    """Read the recipe of the features that a head was trained on.

    Args:
        head: As for `extracted`.
        features: As for `extracted`.

    Raises:
        ValueError: The checkpoint has none, or a damaged one.
    """
    if not features:
        raise ValueError(f"--head {head} doesn't contain the recipe of the features that it was trained on: train it "
                         "again")
    return check(dict(features), Recipe, f"{head}, egovlpv2.features")


@contextmanager
def encoded(source: VideoSource, queries: Sequence[str], encoder: FeatureEncoder, how: Extraction,
            on_block: Callable[[], None] | None = None) -> Iterator[FeatureFolder]:
    """A context with the features of a video in a temporary folder, by a backbone that is loaded already.

    Args:
        source: The video.
        queries: As for `extracted`.
        encoder: As `open_encoder` makes it.
        how: Settings of the extraction.
        on_block: Called before each block of windows instead of a progress bar; what it raises ends the extraction.

    Raises:
        VideoError: The video can't be read.
    """
    with TemporaryDirectory(prefix="egovlpv2-") as folder:
        queue = VideoQueue([source], Path(folder), encoder.recipe.windows(how.chunk_seconds), how.batch_size,
                           show_progress=on_block is None)
        report = write_features(queue, encoder, how.num_workers, {source.name: list(queries)} if queries else {},
                                on_block or (lambda: None))
        if report.failures:
            raise VideoError(report.failures[source.name])
        yield FeatureFolder(folder)


@dataclass(frozen=True)
class Part:
    """A part of a video that a head looks at.

    Args:
        span: Its place in the video.
        start, end: Times, in seconds of the video, that are nearer to its middle than to that of any other part.
    """

    span: ClipSpan
    start: float
    end: float


def parts(name: str, duration: float, longest: float, rate: float) -> list[Part]:
    """Cut a video into parts as long as the clips that a head knows; they overlap by half or more.

    Args:
        name: Of the video.
        duration: Its length, seconds.
        longest: Length of a part, seconds; a video that is at most half as long again stays whole.
        rate: Features a second; parts begin with a feature.
    """
    if duration <= _WHOLE * longest:
        return [Part(ClipSpan(name, name, 0.0, duration), 0.0, duration)]
    count = ceil(2 * (duration - longest) / longest) + 1
    starts = (np.round(np.linspace(0, duration - longest, count) * rate) / rate).tolist()
    ends = [min(start + longest, duration) for start in starts]
    edges = [0.0, *((a + b) / 2 for a, b in zip(starts[1:], ends[:-1], strict=True)), duration]
    return [Part(ClipSpan(f"{name}, from {start:g} s", name, start, end), edges[i], edges[i + 1])
            for i, (start, end) in enumerate(zip(starts, ends, strict=True))]


def join_curves(found: Sequence[tuple[Part, Mapping[str, NDArray[np.float32]]]], duration: float
                ) -> dict[str, NDArray[np.float32]]:
    """Join the curves of overlapping parts; each part counts where no other part's middle is nearer.

    Args:
        found: Parts with their curves by name, each sampled uniformly over its part.
        duration: Of the video, seconds.

    Returns:
        Curves (n,) by name, sampled uniformly over the video.
    """
    if len(found) == 1:
        return dict(found[0][1])
    times = (np.arange(_CURVE_POINTS) + 0.5) * duration / _CURVE_POINTS
    joined = {name: np.zeros(_CURVE_POINTS, np.float32) for name in found[0][1]}
    for part, curves in found:
        inside = (times >= part.start) & (times < part.end)
        for name, values in curves.items():
            centres = part.span.start + (np.arange(len(values)) + 0.5) * part.span.duration / len(values)
            joined[name][inside] = np.interp(times[inside], centres, values)
    return joined

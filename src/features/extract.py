"""Extract features of videos, window by window, one file for each video: `egovlpv2 extract`.

Decoding bounds it on a GPU (workers decode ahead of the model), the model's matrix products on a CPU. Memory stays
flat: features go to the file as they come.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from torch.utils.data import DataLoader

from egovlpv2.arguments import check_call
from egovlpv2.checkpoints.inference import fingerprint, open_backbone, open_tokenizer
from egovlpv2.device import autocast
from egovlpv2.features.blocks import Blocks, Read
from egovlpv2.features.encoder import FeatureEncoder
from egovlpv2.features.files import FeatureWriter, check_same_recipe
from egovlpv2.features.header import PER_QUERY, Recipe
from egovlpv2.features.locks import remove_left
from egovlpv2.features.queries import read_queries
from egovlpv2.features.query_encoding import EncodedQueries
from egovlpv2.features.work_queue import VideoQueue
from egovlpv2.io.files import make_folder
from egovlpv2.model.backbone import Backbone
from egovlpv2.types import (
    Count,
    FeatureKind,
    FrameRuleName,
    ImageRate,
    NumFrames,
    NumTokens,
    NumWorkers,
    Precision,
    Rate,
    Seconds,
)
from egovlpv2.video.collection import VideoSource, find_videos, share_of_videos
from egovlpv2.video.container import VideoError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtractionReport:
    """Result of an extraction.

    Args:
        out: The folder of the feature files.
        written: Videos whose features were written.
        total: Videos in all; those neither written nor failed were there already, or another process writes them.
        failures: The reason by video.
    """

    out: Path
    written: int
    total: int
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> str:
        """Description of the videos that have failed; empty if none has."""
        lines = "\n  ".join(self.failures.values())
        return f"{len(self.failures)} of {self.total} videos failed:\n  {lines}" if lines else ""

    def __str__(self) -> str:
        others = self.total - self.written - len(self.failures)
        return (f"{self.written} of {self.total} videos written to {self.out}, {others} already there or being "
                "written by another process")


def extract_features(videos: Sequence[str], weights: str, out: str | Path, *, kind: FeatureKind = "dual",
                     queries: Sequence[str] | None = None, fps: Rate = 30.0, window: Count = 16, stride: Count = 16,
                     num_frames: NumFrames = 4, frame_rule: FrameRuleName = "centre", chunk_seconds: Seconds = 600.0,
                     image_fps: ImageRate | None = None, share: str | None = None, batch_size: Count = 32,
                     num_workers: NumWorkers = 2, max_tokens: NumTokens = 30, tokenizer: str | None = None,
                     device: str | None = None, precision: Precision | None = None) -> ExtractionReport:
    """Extract features of any videos, one file each.

    Finished files stay, so a stopped run goes on where it was, and several processes share the work: under `srun`
    and `torchrun` each takes its share of the videos.

    Args:
        videos: videos, or folders of them; a folder of chunks 0.mp4, 1.mp4, ... is one video
        weights: .ckpt, .safetensors or released .pth
        out: folder to write to
        kind: CLS with the gate closed (dual), after the projector (projected), that of length one (unit), with the
            gate open for each query (fused), that after the cross-modal transform (transformed), or the trunk's
            tokens (trunk, see `fuse`)
        queries: JSON files: {"video": ["query", ...]} or official nlq_*.json
        fps: frames a second in which window and stride count
        window: length of a window in such frames
        stride: from one window's start to the next
        num_frames: frames of a window that the model sees
        frame_rule: frames at the centres of equal segments of a window, or the windows and frames of the released
            code, 1.87 a second
        chunk_seconds: length of the files of a chunked video
        image_fps: pictures a second, where a video is a folder of pictures
        share: the part of the videos to take, as 3/16, or 0/1 for all; if not given, each process of `srun` or
            `torchrun` takes its own
        batch_size: windows at a time
        num_workers: processes that decode
        max_tokens: tokens of a query; longer ones are cut
        tokenizer: the text tower's; the checkpoint's own if not given
        device: cuda or cpu; cuda where there is one
        precision: bf16 on a GPU if not given, else 32

    Raises:
        ValueError: An argument, a video's path or a file doesn't allow it. Videos that can't be read are in the
            report's `failures`.
        OSError: Nothing more can be written.
    """
    check_call(extract_features, locals())
    if frame_rule == "released" and (fps, window, stride) != (30.0, 16, 16):
        raise ValueError("--frame-rule released has windows of its own: leave --fps, --window and --stride out")
    asked = read_queries(queries or [])
    if kind in PER_QUERY and not asked:
        raise ValueError(f"--kind {kind} needs --queries: give the texts of the queries")
    sources = find_videos(videos, image_fps)
    if asked:
        sources = _with_queries(sources, asked)
    sources = share_of_videos(sources, share)
    backbone = open_backbone(weights, num_frames, device)
    recipe = make_recipe(backbone, weights, kind, fps=fps, window=window, stride=stride, num_frames=num_frames,
                         frame_rule=frame_rule)
    text_tokenizer = open_tokenizer(backbone, tokenizer) if asked else None
    prepare_folder(Path(out), recipe, asked)
    encoder = FeatureEncoder(backbone, recipe, text_tokenizer, max_tokens, autocast(precision, backbone.device))
    queue = VideoQueue(sources, Path(out), recipe.windows(chunk_seconds), batch_size)
    return write_features(queue, encoder, num_workers, asked)


def make_recipe(backbone: Backbone, weights: str, kind: FeatureKind, *, fps: float, window: int, stride: int,
                num_frames: int, frame_rule: FrameRuleName = "centre") -> Recipe:
    """Make the recipe of features of a backbone."""
    assert kind in get_args(FeatureKind)
    width = backbone.config.projector[-1] if kind in ("projected", "unit") else backbone.video_tower.dim
    # Python's numbers, not numpy's: the recipe is written as JSON.
    return Recipe(kind, width, float(fps), int(window), int(stride), int(num_frames),
                  backbone.video_tower.patch_embed.img_size[0], fingerprint(weights), frame_rule=frame_rule)


def prepare_folder(out: Path, recipe: Recipe, queries: Mapping[str, Sequence[str]]) -> None:
    """Make the folder of feature files, without what killed processes left.

    Raises:
        ValueError: The folder can't be written to, or holds features of another recipe or of fewer queries.
    """
    make_folder(out)
    remove_left(out)
    check_same_recipe(out, recipe, queries)


def write_features(queue: VideoQueue, encoder: FeatureEncoder, num_workers: int,
                   queries: Mapping[str, Sequence[str]] | None = None,
                   on_block: Callable[[], None] = lambda: None) -> ExtractionReport:
    """Write the features of the videos of a queue; whatever stops it, nothing half-written stays.

    Args:
        queue: The videos.
        encoder: The model.
        num_workers: Processes that decode.
        queries: By video; those without any get none.
        on_block: Called before each block; what it raises ends the extraction, unless it is an error of a video.

    Raises:
        OSError: Nothing more can be written.
    """
    loader = DataLoader(Blocks(queue.windows), batch_size=None, sampler=queue, num_workers=num_workers,
                        prefetch_factor=2 if num_workers else None)
    writer = _VideoWriter(queue, encoder, queries or {})
    try:
        with queue.open_bar():
            for read in loader:
                on_block()
                writer.add(read)
    finally:
        queue.release()
    return ExtractionReport(queue.out, writer.written, len(queue.sources), queue.failures)


class _VideoWriter:
    """Write blocks, which come in order, into the files of their videos."""

    def __init__(self, queue: VideoQueue, encoder: FeatureEncoder, queries: Mapping[str, Sequence[str]]) -> None:
        self.queue, self.encoder, self.queries = queue, encoder, queries
        self.written = 0
        self._file: FeatureWriter | None = None
        self._asked: EncodedQueries | None = None

    def add(self, read: Read) -> None:
        """Write the features of a block, or give its video up."""
        block = read.block
        if block.source.name in self.queue.failures:
            return
        try:
            if read.frames is None:
                raise VideoError(read.reason)
            if block.first == 0:
                self._file = self._start(read)
            assert self._file is not None
            self._file.append(self.encoder.encode(read.frames, self._asked))
            if block.first + block.count == block.of:
                self._file.finish()
                self.queue.finish(block.source)
                self.written += 1
            self.queue.advance(block.source, block.count / block.of)
        except (ValueError, OSError) as error:  # such as features that aren't finite, or a file that is too large
            self.queue.fail(block.source, error, 1 - block.first / block.of)

    def _start(self, read: Read) -> FeatureWriter:
        block, recipe = read.block, self.encoder.recipe
        self._asked = asked = self.encoder.encode_queries(self.queries.get(block.source.name, []))
        draft = self.queue.claims[block.source.name].draft
        if asked is None:
            return FeatureWriter(draft, recipe, block.duration, block.of, num_tokens=self.encoder.num_tokens)
        return FeatureWriter(draft, recipe, block.duration, block.of, asked.texts, asked.words, asked.word_mask)


def _with_queries(sources: list[VideoSource], queries: Mapping[str, Sequence[str]]) -> list[VideoSource]:
    """Leave out the videos without a query."""
    asked = [source for source in sources if queries.get(source.name)]
    if not asked:
        raise ValueError(f"no query is of any of the {len(sources)} videos: the queries are of {next(iter(queries))!r} "
                         f"and others, the videos are {sources[0].name!r} and others")
    if len(asked) < len(sources):
        log.warning("%d of %d videos skipped: there is no query of them", len(sources) - len(asked), len(sources))
    return asked

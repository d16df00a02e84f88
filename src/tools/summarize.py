"""Write the shots of a video that fit a query best as a video, and a picture of the choice: `egovlpv2 summarize`.

The model bounds its time, window by window; memory holds two features of each shot and KTS's kernel.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from egovlpv2.arguments import check_call
from egovlpv2.checkpoints.head_weights import read_head_features, read_summary_head
from egovlpv2.checkpoints.inference import fingerprint, open_backbone, open_tokenizer
from egovlpv2.command.options import require_text
from egovlpv2.device import autocast
from egovlpv2.features.blocks import Block, Blocks, Read
from egovlpv2.features.header import Recipe
from egovlpv2.features.query_encoding import cls_states, encode_queries, mean_patch_tokens, warn_if_truncated
from egovlpv2.heads.kts import segments
from egovlpv2.heads.summary import (
    MAX_SEGMENT_SHOTS,
    MAX_SEGMENTS,
    SEGMENT_PENALTY,
    SHOT_SECONDS,
    CutBy,
    SummaryHead,
)
from egovlpv2.io.files import atomic_write, make_folder_of, require_suffix
from egovlpv2.metrics.summary import select
from egovlpv2.model.backbone import Backbone
from egovlpv2.model.outputs import Trunk
from egovlpv2.tools.video_parts import find_video, read_strip
from egovlpv2.types import Count, Fraction, ImageRate, NumTokens, NumWorkers, OutputRate, Precision, Seconds, ShortSide
from egovlpv2.video.collection import VideoSource
from egovlpv2.video.container import VideoError
from egovlpv2.video.excerpt import write_excerpt
from egovlpv2.video.export import check_targets, write_moments
from egovlpv2.video.moment_lists import FoundMoment
from egovlpv2.video.windows import Windows
from egovlpv2.viz.figures import png
from egovlpv2.viz.summary import draw_summary

_SHOT_FRAMES = 5


class ShotFeatures(NamedTuple):
    """Features of the shots of a video."""

    fused: Tensor  # (n, D) CLS, gate open
    match: Tensor  # (n,) probabilities that the query fits
    unfused: Tensor  # (n, D) to cut the video where its content changes


class Part(NamedTuple):
    """A part of a summary."""

    start: float  # seconds
    end: float
    score: float  # of its best shot, 0 to 1


@dataclass(frozen=True)
class Summary:
    """A summary that was written.

    Args:
        parts: In the order of the video.
        duration: Of the video, seconds.
        num_segments: That the video was cut into.
        out: The summary.
        picture: Of the choice.
        note: How the shots were chosen, where no head was given.
        exported: Other files that were written.
    """

    parts: list[Part]
    duration: float
    num_segments: int
    out: Path
    picture: Path
    note: str = ""
    exported: Sequence[Path] = ()

    def __str__(self) -> str:
        seconds = sum(part.end - part.start for part in self.parts)
        lines = [self.note] if self.note else []
        lines.append(f"{len(self.parts)} parts, {seconds:.0f} of {self.duration:.0f} s, out of {self.num_segments} "
                     "segments:")
        for start, end, score in self.parts:
            lines.append(f"  {int(start) // 60:3d}:{start % 60:04.1f} to {int(end) // 60:3d}:{end % 60:04.1f}   "
                         f"{score:.3f}")
        return "\n".join([*lines, f"written: {self.out} and {self.picture}",
                          *(f"written: {path}" for path in self.exported)])


def summarize(video: str | Path, query: str, weights: str, out: str | Path = "summary.mp4", *, head: str | None = None,
              share: Fraction = 0.02, export: Sequence[str] | None = None, sound: bool = False, fps: OutputRate = 25.0,
              short_side: ShortSide = 480, chunk_seconds: Seconds = 600.0, image_fps: ImageRate | None = None,
              batch_size: Count = 16, num_workers: NumWorkers = 1, max_tokens: NumTokens = 30,
              tokenizer: str | None = None, device: str | None = None, precision: Precision | None = None) -> Summary:
    """Write the shots of a video that fit a query best as a video.

    Shots last 5 s; what is left at the end and doesn't fill a shot is left out.

    Args:
        video: any video, or a folder of its chunks 0.mp4, 1.mp4, ...
        query: what to show, such as "There is a cup and a ball"
        weights: .ckpt, .safetensors or released .pth
        out: the video, an .mp4; the picture lies beside it
        head: a checkpoint of `make finetune-qfvs`, trained on features of --weights; without it, shots are chosen by
            how well they match
        share: of the shots to choose; one at least
        export: files to write the parts to: a folder for clips (.mp4), or a .csv, .json, .srt, .vtt or .edl
        sound: the summary and the clips keep the sound of the video
        fps: frames a second of what is written
        short_side: its short side in pixels, at most
        chunk_seconds: length of the files of a chunked video
        image_fps: pictures a second, where a video is a folder of pictures
        batch_size: shots at a time
        num_workers: processes that decode
        max_tokens: tokens of the query; longer ones are cut
        tokenizer: the text tower's; the checkpoint's own if not given
        device: cuda or cpu; cuda where there is one
        precision: bf16 on a GPU if not given, else 32

    Raises:
        ValueError: An argument doesn't allow it, or the video, the weights or the head can't be read.
    """
    check_call(summarize, locals())
    require_text("--query", query, "say what the summary should show")
    source = find_video(video, image_fps, chunk_seconds)
    _check_out(Path(out), source)
    check_targets(export or [], [source], [head])
    backbone = open_backbone(weights, _SHOT_FRAMES, device)
    backbone.config.require_fusion("a summary for a query")
    text_tokenizer = open_tokenizer(backbone, tokenizer)
    warn_if_truncated(text_tokenizer, "query", query, max_tokens)
    opened = _open_head(head, weights, backbone.video_tower.patch_embed.img_size[0])
    duration = source.duration(chunk_seconds)
    windows = Windows(1.0, SHOT_SECONDS, SHOT_SECONDS, _SHOT_FRAMES, backbone.video_tower.patch_embed.img_size[0],
                      chunk_seconds)
    reads = read_shots(windows, source, duration, batch_size, num_workers)
    shots = encode_shots(backbone, query, reads, text_tokenizer, max_tokens, opened.transformed, opened.cut_by,
                         autocast(precision, backbone.device))
    longest = max(opened.max_segment_shots, ceil(len(shots.match) / opened.max_segments))  # so that all shots fit
    bounds = segments(shots.unfused.numpy(), opened.max_segments, longest, f"{video}: ", opened.vmax,
                      directions=opened.cut_by == "patches")
    scores = score(opened.head, shots, bounds)
    chosen = spans(select(scores, share).tolist(), duration)
    parts = [Part(a, b, float(scores[int(a) // SHOT_SECONDS : ceil(b / SHOT_SECONDS)].max())) for a, b in chosen]
    summary = Summary(parts, duration, len(bounds) - 1, Path(out), Path(out).with_suffix(".png"), opened.note)
    _write(summary, source, query, scores, bounds, chunk_seconds, fps, short_side, sound)
    moments = [FoundMoment(source, chunk_seconds, *part[:2], query, part.score) for part in parts]
    return replace(summary, exported=write_moments(export or [], moments, sound))


class _OpenedHead(NamedTuple):
    """A trained head, if one is named, and the features that it reads."""

    head: SummaryHead | None
    transformed: bool  # whether the cross-modal transform follows
    cut_by: CutBy  # the features by which its videos were cut
    max_segments: int = MAX_SEGMENTS
    max_segment_shots: int = MAX_SEGMENT_SHOTS
    vmax: float = SEGMENT_PENALTY
    note: str = ""


def read_shots(windows: Windows, source: VideoSource, duration: float, size: int, num_workers: int) -> Iterator[Read]:
    """Read the frames of all shots, `size` at a time, decoded ahead."""
    count = windows.count(duration)
    blocks = [Block(source, duration, first, min(size, count - first), count) for first in range(0, count, size)]
    yield from DataLoader(Blocks(windows), batch_size=None, sampler=blocks, num_workers=num_workers,
                          prefetch_factor=2 if num_workers else None)


@torch.inference_mode()
def encode_shots(backbone: Backbone, query: str, reads: Iterator[Read], tokenizer: PreTrainedTokenizerBase,
                  max_tokens: int, transformed: bool, cut_by: CutBy, precision: AbstractContextManager[None]
                  ) -> ShotFeatures:
    """Encode all shots together with a query.

    Raises:
        VideoError: One of them can't be read.
    """
    kept = []
    with precision:
        asked = encode_queries(backbone, tokenizer, [query], max_tokens)
    bar = tqdm(unit="shot", desc="encoding", mininterval=1)
    for read in reads:
        if read.frames is None:
            raise VideoError(read.reason)
        bar.total = read.block.of
        with precision:
            video = read.frames.to(backbone.device)
            trunk = backbone.trunk_video(video, gate=True)  # (n, S, D)
            pairs = Trunk(trunk, asked.trunk.expand(len(video), -1, -1), asked.mask.expand(len(video), -1))
            top = backbone.top(pairs, video.shape[1], True, "cls")
            match = backbone.vtm_logits_from(top).float().softmax(-1)[:, 1]
            cls = top.video_cls
            fused = backbone.fused_video_transform(cls) if transformed else cls
        plain = (mean_patch_tokens if cut_by == "patches" else cls_states)(backbone, trunk)
        kept.append([part.float().cpu() for part in (fused, match, plain)])
        bar.update(len(video))
    bar.close()
    return ShotFeatures(*map(torch.cat, zip(*kept, strict=True)))


@torch.inference_mode()
def score(head: SummaryHead | None, shots: ShotFeatures, bounds: Sequence[int]) -> NDArray[np.float32]:
    """Score each shot, 0 to 1: by a trained head, segment by segment, or by its match with the query."""
    if head is None:
        return shots.match.numpy()
    parts = [head(shots.fused[None, a:b], torch.ones(1, b - a, dtype=torch.bool)).summary[0].sigmoid()
             for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    return torch.cat(parts).numpy()


def spans(shots: Sequence[int], duration: float) -> list[tuple[float, float]]:
    """Start and end of chosen shots in seconds; those that touch are joined."""
    found: list[tuple[float, float]] = []
    for shot in shots:
        start, end = float(shot * SHOT_SECONDS), min((shot + 1) * SHOT_SECONDS, duration)
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, end))
    return found


def _write(summary: Summary, source: VideoSource, query: str, scores: NDArray[np.float32], bounds: Sequence[int],
           chunk_seconds: float, fps: float, short_side: int, sound: bool) -> None:
    chosen = [(part.start, part.end) for part in summary.parts]
    frames = read_strip(source, summary.duration, chunk_seconds)
    figure = draw_summary(f"{source.name}: {query}", summary.duration, SHOT_SECONDS, scores, bounds, chosen, frames)
    seconds = sum(end - start for start, end in chosen)
    with atomic_write(summary.picture) as draft, tqdm(total=round(seconds), unit="s", desc="writing") as bar:
        draft.write_bytes(png(figure))  # first: it gets its name when the video is whole, so both are there or neither
        write_excerpt(source, chunk_seconds, chosen, summary.out, fps, short_side, bar.update, sound)


def _check_out(out: Path, source: VideoSource) -> None:
    """Refuse a name that can't be written to, or would overwrite the video, before hours of work."""
    require_suffix(out, ".mp4", "the summary")
    theirs = {file.resolve() for file in source.files}
    if theirs & {out.resolve(), out.parent.resolve()}:
        raise ValueError(f"--out {out} is the video itself, or lies among its pictures: give another name")
    make_folder_of(out)


def _open_head(path: str | None, weights: str, size: int) -> _OpenedHead:
    if path is None:
        return _OpenedHead(None, False, "patches",
                           note="no --head: shots are chosen by how well the query matches them (zero-shot)")
    head, facts = read_summary_head(Path(path))
    if facts["checkpoint"] != (here := fingerprint(weights)):
        raise ValueError(f"{path} was trained on features of the weights {facts['checkpoint']}, and "
                         f"{weights} is {here}: give those weights")
    recipe = Recipe(facts["kind"], facts["dim"], 1.0, SHOT_SECONDS, SHOT_SECONDS, _SHOT_FRAMES, size, here)
    before = read_head_features(Path(path))
    looks = {name: value for name, value in before.items() if name in ("frames", "size", "crop", "frame_rule")}
    if different := recipe.differences(looks):
        raise ValueError(f"{path} was trained on other features than are computed here ({'; '.join(different)}): train "
                         "a head on those")
    note = "" if before else (f"{path} doesn't contain the recipe of the features it was trained on; older versions "
                              "cropped the edges of pictures")
    return _OpenedHead(head.eval(), facts["kind"] == "transformed", facts["cut_by"], facts["max_segments"],
                       facts["max_segment_shots"], facts["vmax"], note)

"""`egovlpv2 summarize`: the shots of any video that fit a query best, as a video, and a picture of the choice.

The model bounds its time, window by window; memory holds two features of each shot and KTS's kernel.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
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

from egovlpv2.checkpoints.head_weights import read_summary_head
from egovlpv2.command.options import require_text
from egovlpv2.command.parser import CommandParser
from egovlpv2.features.blocks import Block, Blocks, Read
from egovlpv2.features.options import (
    add_model_options,
    add_video_options,
    fingerprint,
    make_folder_of,
    open_backbone,
    precision_of,
    require_positive,
)
from egovlpv2.features.query_encoding import encode_queries, mean_patch_tokens, warn_if_truncated
from egovlpv2.heads.kts import segments
from egovlpv2.heads.summary import CutBy, SummaryHead
from egovlpv2.io.files import atomic_write
from egovlpv2.metrics.summary import select
from egovlpv2.model.backbone import Backbone, Trunk
from egovlpv2.tokenization import load_fitting_tokenizer
from egovlpv2.video.collection import VideoSource, find_videos
from egovlpv2.video.container import VideoError
from egovlpv2.video.excerpt import write_excerpt
from egovlpv2.video.windows import Windows
from egovlpv2.viz.figures import png
from egovlpv2.viz.summary import draw_summary

SHOT_SECONDS = 5  # as QFVS cuts its videos
_SHOT_FRAMES = 5
_LONGEST = 200  # shots of a segment, as the head was trained
_SEGMENTS = 20  # of a video that fits


class ShotFeatures(NamedTuple):
    """What is kept of the shots of a video."""

    fused: Tensor  # (n, D) CLS, gate open
    match: Tensor  # (n,) probabilities that the query fits
    unfused: Tensor  # (n, D) what tells where the video changes


def read_shots(windows: Windows, source: VideoSource, duration: float, size: int, num_workers: int) -> Iterator[Read]:
    """The frames of all shots, `size` at a time, decoded ahead."""
    count = windows.count(duration)
    blocks = [Block(source, duration, first, min(size, count - first), count) for first in range(0, count, size)]
    yield from DataLoader(Blocks(windows), batch_size=None, sampler=blocks, num_workers=num_workers,
                          prefetch_factor=2 if num_workers else None)


@torch.inference_mode()
def look_at_shots(backbone: Backbone, query: str, reads: Iterator[Read], tokenizer: PreTrainedTokenizerBase,
                  max_tokens: int, transformed: bool, cut_by: CutBy, precision: AbstractContextManager[None]
                  ) -> ShotFeatures:
    """Looks at all shots with a query.

    Raises:
        VideoError: One of them can't be read.
    """
    kept = []
    with precision:
        asked = encode_queries(backbone, tokenizer, [query], max_tokens)
    bar = None
    for read in reads:
        if read.frames is None:
            raise VideoError(read.reason)
        bar = bar or tqdm(total=read.block.of, unit="shot", desc="looking", mininterval=1)
        with precision:
            video = read.frames.to(backbone.device)
            trunk = backbone.trunk_video(video, gate=True)  # (n, S, D)
            pairs = Trunk(trunk, asked.trunk.expand(len(video), -1, -1), asked.mask.expand(len(video), -1))
            top = backbone.top(pairs, video.shape[1], True, "cls")
            match = backbone.vtm_logits_from(top).float().softmax(-1)[:, 1]
            cls = top.video[:, 0]
            fused = backbone.fused_video_transform(cls) if transformed else cls
        plain = mean_patch_tokens(trunk) if cut_by == "patches" else trunk[:, 0]
        kept.append([part.float().cpu() for part in (fused, match, plain)])
        bar.update(len(video))
    bar.close()
    return ShotFeatures(*map(torch.cat, zip(*kept, strict=True)))


@torch.inference_mode()
def score(head: SummaryHead | None, seen: ShotFeatures, bounds: Sequence[int]) -> NDArray[np.float32]:
    """How well each shot belongs to the summary, 0 to 1: by a trained head, segment by segment, or by the match."""
    if head is None:
        return seen.match.numpy()
    parts = [head(seen.fused[None, a:b], torch.ones(1, b - a, dtype=torch.bool)).summary[0].sigmoid()
             for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    return torch.cat(parts).numpy()


def spans(shots: Sequence[int], duration: float) -> list[tuple[float, float]]:
    """Start and end of chosen shots in seconds; those that touch are one."""
    found: list[tuple[float, float]] = []
    for shot in shots:
        start, end = shot * SHOT_SECONDS, min((shot + 1) * SHOT_SECONDS, duration)
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, end))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args = _parser().parse_args(argv)
    require_positive(args, "share", "chunk_seconds", "batch_size", "max_tokens", "fps", "short_side")
    if args.image_fps is not None:
        require_positive(args, "image_fps")
    if args.share > 1:
        raise ValueError(f"--share {args.share}: give a share of the shots of up to 1")
    require_text("--query", args.query, "say what the summary should show")
    source = _only(find_videos([args.video], args.image_fps))
    _check_out(args.out, source)
    backbone = open_backbone(args, _SHOT_FRAMES)
    tokenizer = load_fitting_tokenizer(args.tokenizer or backbone.config.text.tokenizer, backbone.text_tower)
    warn_if_truncated(tokenizer, "query", args.query, args.max_tokens)
    head, transformed, cut_by = _open_head(args, backbone)
    duration = source.duration(args.chunk_seconds)
    windows = Windows(1.0, SHOT_SECONDS, SHOT_SECONDS, _SHOT_FRAMES, backbone.video_tower.patch_embed.img_size[0],
                      args.chunk_seconds)
    reads = read_shots(windows, source, duration, args.batch_size, args.num_workers)
    seen = look_at_shots(backbone, args.query, reads, tokenizer, args.max_tokens, transformed, cut_by,
                         precision_of(args.precision, backbone.device))
    longest = max(_LONGEST, ceil(len(seen.match) / _SEGMENTS))
    bounds = segments(seen.unfused.numpy(), _SEGMENTS, longest, f"{args.video}: ", directions=cut_by == "patches")
    scores = score(head, seen, bounds)
    chosen = select(scores, args.share)
    _write(args, source, duration, scores, bounds, spans(chosen.tolist(), duration))


def _write(args: argparse.Namespace, source: VideoSource, duration: float, scores: NDArray[np.float32],
           bounds: Sequence[int], chosen: list[tuple[float, float]]) -> None:
    picture = args.out.with_suffix(".png")
    figure = draw_summary(f"{source.name}: {args.query}", duration, SHOT_SECONDS, scores, bounds, chosen)
    seconds = sum(end - start for start, end in chosen)
    with atomic_write(picture) as draft, tqdm(total=round(seconds), unit="s", desc="writing") as bar:
        draft.write_bytes(png(figure))  # first: it gets its name when the video is whole, so both are there or neither
        write_excerpt(source, args.chunk_seconds, chosen, args.out, args.fps, args.short_side, bar.update)
    print(f"{len(chosen)} parts, {seconds:.0f} of {duration:.0f} s, out of {len(bounds) - 1} segments:")
    for start, end in chosen:
        best = scores[int(start) // SHOT_SECONDS : ceil(end / SHOT_SECONDS)].max()
        print(f"  {int(start) // 60:3d}:{start % 60:04.1f} to {int(end) // 60:3d}:{end % 60:04.1f}   {best:.3f}")
    print(f"written: {args.out} and {picture}")


def _only(sources: list[VideoSource]) -> VideoSource:
    if len(sources) > 1:
        raise ValueError(f"{len(sources)} videos were given, {sources[0].name!r} and others: summarize one at a time "
                         "(a folder of chunks 0.mp4, 1.mp4, ... is one)")
    return sources[0]


def _check_out(out: Path, source: VideoSource) -> None:
    """Refuses what can't be written, or would be written over, before hours of looking."""
    if out.suffix.lower() != ".mp4":
        raise ValueError(f"--out {out}: the summary is an .mp4, so give it such a name")
    theirs = {file.resolve() for file in source.files}
    if theirs & {out.resolve(), out.parent.resolve()}:
        raise ValueError(f"--out {out} is the video itself, or lies among its pictures: give another name")
    make_folder_of(out)


def _open_head(args: argparse.Namespace, backbone: Backbone) -> tuple[SummaryHead | None, bool, CutBy]:
    """The head, if one is named, whether it reads transformed features, and by what its videos were cut."""
    if args.head is None:
        print("no --head: shots are chosen by how well the query matches them (zero-shot)")
        return None, False, "patches"
    head, facts = read_summary_head(args.head)
    if facts["checkpoint"] != (here := fingerprint(args.weights)):
        raise ValueError(f"{args.head} was trained on features of the weights {facts['checkpoint']}, and "
                         f"{args.weights} is {here}: give those weights")
    return head.eval(), facts["kind"] == "transformed", facts["cut_by"]


def _parser() -> argparse.ArgumentParser:
    description = ("Writes the shots of 5 s that fit a query best; what is left at the end and fills no shot is not "
                   "looked at.")
    parser = CommandParser(prog="egovlpv2 summarize", description=description,
                           formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("video", help="any video, or a folder of its chunks 0.mp4, 1.mp4, ...")
    parser.add_argument("--query", required=True, help='what to show, such as "There is a cup and a ball"')
    parser.add_argument("--head", type=Path, help="a checkpoint of `make finetune-qfvs`, trained on features of "
                                                  "--weights; without it, shots are chosen by how well they match")
    parser.add_argument("--out", type=Path, default=Path("summary.mp4"), help="the video; the picture lies beside it")
    parser.add_argument("--share", type=float, default=0.02, help="of the shots to choose; one at least")
    parser.add_argument("--fps", type=float, default=25.0, help="frames a second of what is written")
    parser.add_argument("--short-side", type=int, default=480, help="its short side in pixels, at most")
    add_video_options(parser, "shots", batch_size=16, num_workers=1)
    add_model_options(parser)
    return parser


if __name__ == "__main__":
    main()

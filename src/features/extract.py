"""`egovlpv2 extract`: features of any videos, window by window, one file for each video.

Decoding bounds it on a GPU (workers decode ahead of the model), the model's matrix products on a CPU. Memory stays
flat: features go to the file as they come.
"""

import argparse
import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import get_args

import av
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from tqdm import tqdm

from egovlpv2.command.parser import CommandParser
from egovlpv2.features.blocks import Block, Blocks, Read, find_problem, named
from egovlpv2.features.files import SUFFIX, FeatureWriter
from egovlpv2.features.header import PER_QUERY, Recipe
from egovlpv2.features.locks import Claim, claim, remove_left
from egovlpv2.features.options import (
    add_model_options,
    add_video_options,
    check_same_recipe,
    fingerprint,
    make_folder,
    open_backbone,
    precision_of,
    require_positive,
)
from egovlpv2.features.queries import read_queries
from egovlpv2.features.query_encoding import encode_queries, fuse_with_queries
from egovlpv2.model.backbone import Backbone
from egovlpv2.tokenization import load_fitting_tokenizer
from egovlpv2.video.collection import VideoSource, find_videos
from egovlpv2.video.container import NO_HANDLES, VideoError
from egovlpv2.video.frame_rules import FrameRuleName
from egovlpv2.video.windows import Windows

KINDS = ("dual", "projected", "unit", *PER_QUERY, "trunk")
# A disk or a file system on which no other video's features can be written either.
_STOPS_ALL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS)) | NO_HANDLES


class Extraction(Sampler[Block]):
    """Writes the features of videos; as a sampler it takes a video when the loader gets there, not before.

    Args:
        backbone: In eval mode, where it is to run.
        recipe: Of the features.
        windows: How to slide.
        sources: The videos.
        out: The folder to write to.
        batch_size: Windows at a time.
        queries: By video; those without any get none.
        tokenizer: Of the text tower.
        max_tokens: Tokens of a query.
        precision: A context in which the model runs.
    """

    def __init__(self, backbone: Backbone, recipe: Recipe, windows: Windows, sources: Sequence[VideoSource], out: Path,
                 batch_size: int, queries: dict[str, list[str]], tokenizer: str, max_tokens: int,
                 precision: AbstractContextManager[None]) -> None:
        self.backbone, self.recipe, self.windows, self.sources = backbone, recipe, windows, sources
        self.out, self.batch_size, self.queries = out, batch_size, queries
        self.tokenizer_name, self.max_tokens, self.precision = tokenizer, max_tokens, precision
        self.claims: dict[str, Claim] = {}
        self.failures: dict[str, str] = {}
        self.done = 0
        for source in sources:
            if problem := find_problem(source, self._path(source)):
                self.failures[source.name] = problem

    @cached_property
    def tokenizer(self):  # noqa: ANN201 (transformers is imported when it is needed)
        return load_fitting_tokenizer(self.tokenizer_name, self.backbone.text_tower)

    @property
    def left(self) -> list[VideoSource]:
        """The videos that haven't failed."""
        return [source for source in self.sources if source.name not in self.failures]

    def __iter__(self) -> Iterator[Block]:
        for source in self.left:
            yield from self._blocks(source)

    def _blocks(self, source: VideoSource) -> Iterator[Block]:
        """Take a video that nobody has, and give its blocks until it fails."""
        try:
            taken = claim(self._path(source))
            if taken is None:
                self._advance(source, 1.0)  # by another process
                return
        except OSError as error:
            self._fail(source, error, 1.0)
            return
        self.claims[source.name] = taken
        try:
            duration = source.duration(self.windows.chunk_seconds)
        except (VideoError, OSError, av.FFmpegError) as error:
            stops_all = getattr(error, "errno", None) in NO_HANDLES
            self._fail(source, error if stops_all else VideoError(error), 1.0)
            return
        count = self.windows.count(duration)
        for first in range(0, count, self.batch_size):
            if source.name in self.failures:
                return
            yield Block(source, duration, first, min(self.batch_size, count - first), count)

    def _path(self, source: VideoSource) -> Path:
        return self.out / f"{source.name}{SUFFIX}"

    def run(self, num_workers: int) -> None:
        """Write what is not there yet; whatever stops it, nothing half-written stays.

        Raises:
            OSError: The disk is full, or nothing more can be written to it for another reason.
        """
        loader = DataLoader(Blocks(self.windows), batch_size=None, sampler=self, num_workers=num_workers,
                            prefetch_factor=2 if num_workers else None)
        self.sizes = {source.name: source.num_bytes for source in self.left if not self._path(source).exists()}
        total = sum(self.sizes.values())
        try:
            with tqdm(total=total, unit="B", unit_scale=True, desc="extracting", mininterval=1) as self.bar:
                for read in loader:
                    self._take(read)
        finally:
            for taken in self.claims.values():
                taken.release()

    def _take(self, read: Read) -> None:
        """Write the features of a block, or give its video up."""
        block = read.block
        if block.source.name in self.failures:
            return
        try:
            if read.frames is None:
                raise VideoError(read.reason)
            self._write(block, read.frames)
        except (ValueError, OSError) as error:  # such as features that aren't finite, or a file that is too large
            self._fail(block.source, error, 1 - block.first / block.of)

    @torch.inference_mode()
    def _write(self, block: Block, frames: Tensor) -> None:
        name = block.source.name
        with self.precision:
            if block.first == 0:
                texts = self.queries.get(name, [])
                self.asked = encode_queries(self.backbone, self.tokenizer, texts, self.max_tokens) if texts else None
                self.writer = self._start(block)
            self.writer.append(self._encode(frames.to(self.backbone.device)))
        if block.first + block.count == block.of:
            self.writer.finish()
            self.claims[name].finish()
            del self.claims[name]
            self.done += 1
        self._advance(block.source, block.count / block.of)

    def _start(self, block: Block) -> FeatureWriter:
        asked, draft = self.asked, self.claims[block.source.name].draft
        if asked is None:
            tokens = self.backbone.video_tower.patch_embed.num_patches * self.recipe.frames + 1
            return FeatureWriter(draft, self.recipe, block.duration, block.of, num_tokens=tokens)
        return FeatureWriter(draft, self.recipe, block.duration, block.of, asked.texts, asked.words, asked.mask)

    def _fail(self, source: VideoSource, error: Exception, share: float) -> None:
        """Give a video up, with the share of it that is left; what would stop all others too is raised."""
        if taken := self.claims.pop(source.name, None):
            taken.release()
        if isinstance(error, OSError) and error.errno in _STOPS_ALL:
            error.filename = error.filename or str(self._path(source))
            raise error
        self.failures[source.name] = reason = named(error, source.name, str(source.files[0]))
        self._advance(source, share)
        tqdm.write(f"failed: {reason}", file=sys.stderr)

    def _advance(self, source: VideoSource, share: float) -> None:
        self.bar.update(round(self.sizes.get(source.name, 0) * share))

    def _encode(self, video: Tensor) -> Tensor:
        """(n, T, 3, H, W) -> (n, D), (n, Q, D) of a kind `PER_QUERY`, or (n, S, D) of a trunk."""
        kind = self.recipe.kind
        if kind == "dual":
            return self.backbone.video_features(video).float()
        if kind == "projected":
            return self.backbone.embed_video(video).float()
        if kind == "unit":
            return F.normalize(self.backbone.embed_video(video).float(), dim=-1)
        trunk = self.backbone.trunk_video(video, gate=True)  # shared by all queries
        if kind == "trunk":
            return trunk.float()
        return fuse_with_queries(self.backbone, self.asked, trunk, video.shape[1], kind == "transformed")


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args = _parser().parse_args(argv)
    if args.image_fps is not None:
        require_positive(args, "image_fps")
    require_positive(args, "fps", "window", "stride", "frames", "chunk_seconds", "batch_size", "max_tokens")
    if args.frame_rule == "released" and (args.fps, args.window, args.stride) != (30.0, 16, 16):
        raise ValueError("--frame-rule released has windows of its own: leave --fps, --window and --stride out")
    queries = read_queries(args.queries or [])
    if args.kind in PER_QUERY and not queries:
        raise ValueError(f"--kind {args.kind} needs --queries: what the video is looked at with")
    sources = find_videos(args.videos, args.image_fps)
    if queries:
        sources = _asked_of(sources, queries)
    extraction = prepare(args, sources, queries)
    extraction.run(args.num_workers)
    report(extraction, "extract")


def prepare(args: argparse.Namespace, sources: Sequence[VideoSource], queries: dict[str, list[str]]) -> Extraction:
    """The extraction that a command's options ask for; its folder is there and holds nothing of another recipe.

    Raises:
        ValueError: The weights can't be read, or the folder can't be written to, or holds other features.
    """
    backbone = open_backbone(args, args.frames)
    config = backbone.config
    width = config.projector[-1] if args.kind in ("projected", "unit") else backbone.video_tower.dim
    size = backbone.video_tower.patch_embed.img_size[0]
    recipe = Recipe(args.kind, width, args.fps, args.window, args.stride, args.frames, size,
                    fingerprint(args.weights), frame_rule=args.frame_rule)
    tokenizer = args.tokenizer or config.text.tokenizer
    if queries:
        load_fitting_tokenizer(tokenizer, backbone.text_tower)  # one that doesn't fit is told before the first video
    make_folder(args.out)
    remove_left(args.out)
    check_same_recipe(args.out, recipe, queries)
    windows = Windows(args.fps, args.window, args.stride, args.frames, size, args.chunk_seconds, args.frame_rule)
    return Extraction(backbone, recipe, windows, sources, args.out, args.batch_size, queries, tokenizer,
                      args.max_tokens, precision_of(args.precision, backbone.device))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `prepare` reads, whichever command extracts: the videos, how they are read, and the model."""
    parser.add_argument("videos", nargs="+", help="videos, or folders of them; a folder of chunks 0.mp4, 1.mp4, ... is "
                                                  "one video")
    parser.add_argument("--frames", type=int, default=4, help="frames of a window that the model sees")
    add_video_options(parser, "windows", batch_size=32, num_workers=2)
    add_model_options(parser)


def report(extraction: Extraction, command: str) -> None:
    """Says what a command has written; videos that failed end it."""
    failures, videos = extraction.failures, len(extraction.sources)
    others = videos - extraction.done - len(failures)
    print(f"{extraction.done} of {videos} videos written to {extraction.out}, {others} were there or are another "
          "process's")
    if failures:
        raise SystemExit(f"egovlpv2 {command}: {len(failures)} of {videos} videos failed:\n  "
                         + "\n  ".join(failures.values()))


def _asked_of(sources: list[VideoSource], queries: dict[str, list[str]]) -> list[VideoSource]:
    """The videos that something is asked of."""
    asked = [source for source in sources if queries.get(source.name)]
    if not asked:
        raise ValueError(f"no query is of any of the {len(sources)} videos: the queries are of {next(iter(queries))!r} "
                         f"and others, the videos are {sources[0].name!r} and others")
    if len(asked) < len(sources):
        print(f"{len(sources) - len(asked)} of {len(sources)} videos skipped: there is no query of them")
    return asked


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="egovlpv2 extract", description="Writes one feature file for each video.",
                           formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--kind", choices=KINDS, default="dual", help="CLS with the gate closed, after the projector, "
                        "that of length one, with the gate open for each query, that transformed, or the trunk's "
                        "tokens (see `fuse`)")
    parser.add_argument("--queries", nargs="+", help='JSON files: {"video": ["query", ...]} or official nlq_*.json')
    parser.add_argument("--fps", type=float, default=30.0, help="frames a second in which window and stride count")
    parser.add_argument("--window", type=int, default=16, help="length of a window in such frames")
    parser.add_argument("--stride", type=int, default=16, help="from one window's start to the next")
    parser.add_argument("--frame-rule", choices=get_args(FrameRuleName), default="centre", help="frames at the centres "
                        "of equal segments of a window, or the windows and frames of the released code, 1.87 a second")
    add_options(parser)
    return parser


if __name__ == "__main__":
    main()

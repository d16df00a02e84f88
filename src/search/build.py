"""`egovlpv2 index`: embeddings of the windows of all videos of a folder, to search in.

The reading is `egovlpv2 extract`'s: it shows its progress, goes on where it was stopped, and does new videos only.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from egovlpv2.command.parser import CommandParser
from egovlpv2.features.extract import add_options, prepare, report
from egovlpv2.features.files import SUFFIX
from egovlpv2.features.options import require_positive
from egovlpv2.search.manifest import IndexManifest, add
from egovlpv2.search.store import EmbeddingStore
from egovlpv2.tokenization import load_fitting_tokenizer
from egovlpv2.video.collection import find_videos

_FPS = 1000  # windows and strides count milliseconds: any length of theirs is a whole number


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args = _parser().parse_args(argv)
    require_positive(args, "seconds", "every", "frames", "chunk_seconds", "batch_size", "max_tokens")
    if args.image_fps is not None:
        require_positive(args, "image_fps")
    args.kind, args.fps, args.frame_rule = "unit", float(_FPS), "centre"
    args.window, args.stride = _milliseconds("seconds", args.seconds), _milliseconds("every", args.every)
    sources = find_videos(args.videos, args.image_fps)
    extraction = prepare(args, sources, {})
    # One that is missing or doesn't fit is told now, not at the first search.
    load_fitting_tokenizer(extraction.tokenizer_name, extraction.backbone.text_tower)
    if args.max_tokens > (most := extraction.backbone.text_tower.max_tokens):
        raise ValueError(f"--max-tokens {args.max_tokens}: the text tower of {args.weights} takes {most} at most")
    weights, tokenizer = str(Path(args.weights).absolute()), _place(extraction.tokenizer_name)
    add(args.out, IndexManifest(weights, tokenizer, args.max_tokens, {}), extraction.left, args.chunk_seconds)
    extraction.run(args.num_workers)
    report(extraction, "index")
    if not any(args.out.glob(f"*{SUFFIX}")):
        print(f"{args.out} can't be searched yet: other processes are at work on all of its videos")
        return
    rows = EmbeddingStore(args.out)
    print(f"{args.out} now has {len(rows):,} windows of {len(rows.names)} videos, {rows.hours:.2f} hours: "
          f'`egovlpv2 search "#C C ..." --index {args.out}`')


def _milliseconds(option: str, seconds: float) -> int:
    if not 1 / _FPS <= seconds < float("inf"):
        raise ValueError(f"--{option} {seconds:g}: give a number of seconds, {1 / _FPS} at least")
    return round(seconds * _FPS)


def _place(tokenizer: str) -> str:
    """A folder is found from anywhere; the name of a hub stays."""
    return str(Path(tokenizer).absolute()) if Path(tokenizer).is_dir() else tokenizer


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="egovlpv2 index", description="Makes videos searchable by text.",
                           formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("index"), help="the index's folder; what is in it stays")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a window")
    parser.add_argument("--every", type=float, default=1.0, help="seconds from one window's start to the next")
    add_options(parser)
    return parser


if __name__ == "__main__":
    main()

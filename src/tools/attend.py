"""`egovlpv2 attend`: what the words of a text look at in a video, drawn over its frames.

The video's trunk bounds its time and the attention between its patches, which no matrix ever holds, its memory: 3,600
patches a frame at 960 px. The weights that are drawn are few: words times patches.
"""

import argparse
from collections.abc import Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import NamedTuple

import torch

from egovlpv2.checkpoints.weights import resize_frames
from egovlpv2.command.options import require_text
from egovlpv2.command.parser import CommandParser
from egovlpv2.features.options import add_model_options, make_folder_of, open_backbone, precision_of, require_positive
from egovlpv2.features.query_encoding import warn_if_truncated
from egovlpv2.io.files import atomic_write
from egovlpv2.model.attention_maps import Attention, Words, attend_words, read_words, text_layers
from egovlpv2.model.backbone import Backbone
from egovlpv2.model.fusion import CrossAttention
from egovlpv2.tokenization import load_fitting_tokenizer
from egovlpv2.video.decode import Clip, VideoInfo, read_frames, video_info
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import CropBox, EvalTransform
from egovlpv2.viz.attention import Strip, draw_attention
from egovlpv2.viz.figures import png

_POOLED = "pooled"
_MOST = 500  # pictures: more are no longer seen, and drawn for minutes


class Maps(NamedTuple):
    """Which attention to draw."""

    layers: dict[int, CrossAttention]
    heads: list[int] | None  # None: the mean of all
    names: list[str]  # of the M maps, what tells them apart


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args = _parser().parse_args(argv)
    require_positive(args, "frames", "max_tokens", *(["size"] if args.size is not None else []))
    require_text("--text", args.text, "say what is seen")
    if args.out.suffix.lower() != ".png":
        raise ValueError(f"--out {args.out}: the picture is a .png, so give it such a name")
    make_folder_of(args.out)
    info = video_info(args.video)
    backbone = open_backbone(args, args.frames)
    maps = _pick_maps(args, backbone)
    tokenizer = load_fitting_tokenizer(args.tokenizer or backbone.config.text.tokenizer, backbone.text_tower)
    warn_if_truncated(tokenizer, "text", args.text, args.max_tokens)
    words = read_words(tokenizer, args.text, args.max_tokens)
    if not words.labels:
        raise ValueError(f"--max-tokens {args.max_tokens} leaves no word of {args.text!r} beside the special tokens: "
                         "give more, or another --text")
    rows = pick_rows(words.labels, args.words)
    if (count := len(rows) * len(maps.names) * args.frames) > _MOST:
        raise ValueError(f"{count} pictures are too many to look at: choose fewer --words, --layers, --heads or "
                         f"--frames ({_MOST} at most)")
    clip = _read(args, info, backbone)
    with precision_of(args.precision, backbone.device):
        seen = attend_words(backbone, clip.frames, words, maps.layers, maps.heads)
    _write(args, clip, maps, pool(seen, words, rows), seen.match)


def pick_rows(labels: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """Which words to draw, None for all of them pooled.

    Args:
        labels: The words of the text.
        wanted: What `--words` says: some of them, `pooled`, or `all` for all and pooled.

    Raises:
        ValueError: One is no word of the text.
    """
    if list(wanted) == ["all"]:
        return [*range(len(labels)), None]
    rows: list[int | None] = []
    for name in dict.fromkeys(wanted):
        found = [i for i, label in enumerate(labels) if _bare(label) == _bare(name)]
        if not found and name != _POOLED:
            raise ValueError(f"--words {name}: the words that are read are {', '.join(labels)}; give some of them, "
                             f"`{_POOLED}` or `all`")
        rows += found or [None]
    return rows


def _bare(word: str) -> str:
    return word.casefold().strip(".,;:!?\"'()") or word


def pool(seen: Attention, words: Words, rows: Sequence[int | None]) -> list[list[Strip]]:
    """Of each row, a word or the mean of all, the strips of the M maps."""
    labels = [_POOLED if row is None else words.labels[row] for row in rows]
    cls, patches = (torch.stack([part.mean(0) if row is None else part[row] for row in rows])
                    for part in (seen.cls, seen.patches))  # (rows, M) and (rows, M, T, h, w)
    return [[Strip(label, share.item(), maps) for share, maps in zip(*of_row, strict=True)]
            for label, *of_row in zip(labels, cls, patches, strict=True)]


def _pick_maps(args: argparse.Namespace, backbone: Backbone) -> Maps:
    there = text_layers(backbone)
    if not there:
        raise ValueError(f"{args.weights} has no fused layer (num_fused_layers is 0): its words look at nothing")
    numbers = _pick("layers", args.layers or [str(max(there))], sorted(there), "words look at the video in the layers")
    layers = {number: there[number] for number in numbers}
    if args.heads == ["mean"]:
        heads, names = None, [""]
    else:
        count = min(layer.num_heads for layer in layers.values())
        heads = _pick("heads", args.heads, range(count), "`mean`, `all` or some of")
        names = [f", head {head}" for head in heads] if len(heads) > 1 else [""]
    return Maps(layers, heads, [f", layer {number}{name}" if len(layers) > 1 else name
                                for number in layers for name in names])


def _pick(option: str, wanted: Sequence[str], there: Sequence[int], what: str) -> list[int]:
    """The numbers that were asked for; `all` are those that there are."""
    if list(wanted) == ["all"]:
        return list(there)
    known = {str(number): number for number in there}
    if wrong := [value for value in wanted if value not in known]:
        raise ValueError(f"--{option} {wrong[0]}: {what} {', '.join(known)}")
    return [known[value] for value in dict.fromkeys(wanted)]


def _read(args: argparse.Namespace, info: VideoInfo, backbone: Backbone) -> Clip:
    """The frames to look at, at a size that the backbone is made to take."""
    end = min(args.end, info.duration)
    if not 0 <= args.start < end:
        raise ValueError(f"--start {args.start} --end {args.end}: nothing of {args.video}, which lasts "
                         f"{info.duration:.1f} s, lies between them")
    patches = backbone.video_tower.patch_embed
    side = args.size or patches.img_size[0]
    height, width = _whole_size(info, side, patches.patch_size) if args.whole else (side, side)
    if (height, width) != tuple(patches.img_size):
        resize_frames(backbone, (height, width))
    crop = CropBox(0, 0, info.height, info.width, height, width) if args.whole else EvalTransform(side)
    clip = read_frames(args.video, uniform_times(args.start, end, args.frames), crop)
    enlarged = f", enlarged from {min(info[:2])} px" if min(info[:2]) < side else ""
    part = "the whole picture" if args.whole else "the middle square"
    print(f"looking at {args.frames} frame{'s' * (args.frames > 1)} of {height} x {width} px, {part}{enlarged}")
    return clip


def _whole_size(info: VideoInfo, short: int, patch: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the whole picture, the short side as given, the long one a multiple of the patch's."""
    scale = short / min(info.height, info.width)
    height, width = (max(round(side * scale / step), 1) * step
                     for side, step in zip((info.height, info.width), patch, strict=True))
    return (short, width) if info.height <= info.width else (height, short)


def _write(args: argparse.Namespace, clip: Clip, maps: Maps, rows: list[list[Strip]], match: float) -> None:
    heads = "mean of all heads" if maps.heads is None else f"heads {', '.join(map(str, maps.heads))}"
    layers = "; ".join(f"layer {number}, {_gate(layer)}" for number, layer in maps.layers.items())
    facts = f"{heads}; {layers}; match {match:.3f}"
    strips = [strip._replace(label=strip.label + name)
              for row in rows for name, strip in zip(maps.names, row, strict=True)]
    # A row is a word over time, or through its maps; single pictures fill a square.
    beside = 1 if args.frames > 1 else len(maps.names) if len(maps.names) > 1 else ceil(sqrt(len(strips)))
    title = f"{Path(*args.video.parts[-2:])}: “{args.text}”\n{facts}"
    figure = draw_attention(title, clip.frames, clip.times.tolist(), strips, beside)
    with atomic_write(args.out) as draft:
        draft.write_bytes(png(figure))
    width = max(len(strip.label) for strip in strips)
    print(f"{facts}\n{'':{width}}     CLS  frames at {' '.join(f'{time:6.2f}' for time in clip.times)} s")
    for strip in strips:
        shares = " ".join(f"{share:6.1%}" for share in strip.patches.sum((1, 2)).tolist())
        print(f"{strip.label:<{width}}  {strip.cls:6.1%}            {shares}    peak {strip.peak:.3g} x even")
    print(f"written: {args.out}")


def _gate(layer: CrossAttention) -> str:
    alpha = getattr(layer, "alpha", None)
    if alpha is None:
        return "no gate"
    return f"gate α {alpha.item():.3g}" + (" (so that it changes nothing)" if alpha.item() == 0 else "")


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="egovlpv2 attend", formatter_class=argparse.ArgumentDefaultsHelpFormatter,
                           description="Draws what the words of a text look at in the frames of a video.")
    parser.add_argument("video", type=Path, help="any video")
    parser.add_argument("--text", required=True, help='what is seen, such as "#C C opens the jar"')
    parser.add_argument("--start", type=float, default=0.0, help="seconds; where to look from")
    parser.add_argument("--end", type=float, default=float("inf"), help="seconds; where to look to")
    parser.add_argument("--frames", type=int, default=4, help="frames to look at, spread evenly")
    parser.add_argument("--words", nargs="+", default=["all"], help="some words of the text, `pooled` for their mean, "
                                                                    "or `all` for each and pooled")
    parser.add_argument("--layers", nargs="+", help="fused layers by number, or `all`; the last one if not given")
    parser.add_argument("--heads", nargs="+", default=["mean"], help="heads by number, `all` for each, or the `mean`")
    parser.add_argument("--size", type=int, help="side of the frames in pixels, such as 960; another than that of the "
                                                 "weights, which is the default, interpolates position embeddings")
    parser.add_argument("--whole", action="store_true", help="look at the whole picture, --size being its short side, "
                                                             "instead of the largest square in its middle")
    parser.add_argument("--out", type=Path, default=Path("attention.png"), help="the picture")
    add_model_options(parser)
    return parser


if __name__ == "__main__":
    main()

"""Draw the attention of the words of a text over the frames of a video: `egovlpv2 attend`.

The video's trunk bounds its time and the attention between its patches, which no matrix ever holds, its memory: 3,600
patches a frame at 960 px. The weights that are drawn are few: words times patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from egovlpv2.arguments import check_call
from egovlpv2.checkpoints.inference import open_backbone, open_tokenizer
from egovlpv2.checkpoints.weights import resize_frames
from egovlpv2.command.options import require_text
from egovlpv2.device import autocast
from egovlpv2.features.query_encoding import warn_if_truncated
from egovlpv2.io.files import atomic_write, make_folder_of, require_suffix
from egovlpv2.model.attention_maps import Attention, Words, attend_words, read_words, text_layers
from egovlpv2.model.backbone import Backbone
from egovlpv2.model.fusion import CrossAttention
from egovlpv2.types import NumFrames, NumTokens, Precision, Side
from egovlpv2.video.decode import Clip, VideoInfo, read_frames, video_info
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import CropBox, EvalTransform
from egovlpv2.viz.attention import Strip, draw_attention
from egovlpv2.viz.figures import png

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_POOLED = "pooled"
_MOST = 500  # pictures: more are no longer seen, and drawn for minutes


class Maps(NamedTuple):
    """The attention maps to draw."""

    layers: dict[int, CrossAttention]
    heads: list[int] | None  # None: the mean of all
    names: list[str]  # of the M maps, to tell them apart


@dataclass(frozen=True)
class AttentionReport:
    """The attention of words over the frames of a video.

    Args:
        strips: Of each word and map, the shares of the patches (T, h, w) and of the video's CLS token.
        times: Of the frames, seconds.
        match: Probability that the text fits the clip.
        view: Part and size of the frames, in words.
        maps: Layers and heads, in words.
        out: The picture.
    """

    strips: list[Strip]
    times: list[float]
    match: float
    view: str
    maps: str
    out: Path

    def __str__(self) -> str:
        width = max(len(strip.label) for strip in self.strips)
        lines = [self.view, f"{self.maps}; match {self.match:.3f}",
                 f"{'':{width}}     CLS  frames at {' '.join(f'{time:6.2f}' for time in self.times)} s"]
        for strip in self.strips:
            shares = " ".join(f"{share:6.1%}" for share in strip.patches.sum((1, 2)).tolist())
            lines.append(f"{strip.label:<{width}}  {strip.cls:6.1%}            {shares}    peak {strip.peak:.3g} x "
                         "even")
        return "\n".join([*lines, f"written: {self.out}"])


def attend(video: str | Path, text: str, weights: str, out: str | Path = "attention.png", *, start: float = 0.0,
           end: float | None = None, num_frames: NumFrames = 4, words: Sequence[str] = ("all",),
           layers: Sequence[str] | None = None, heads: Sequence[str] = ("mean",), size: Side | None = None,
           whole: bool = False, max_tokens: NumTokens = 30, tokenizer: str | None = None, device: str | None = None,
           precision: Precision | None = None) -> AttentionReport:
    """Draw what the words of a text attend to in the frames of a video.

    Args:
        video: any video
        text: what is seen, such as "#C C opens the jar"
        weights: .ckpt, .safetensors or released .pth
        out: the picture, a .png
        start: seconds; the beginning of the part to consider
        end: seconds; its end, that of the video if not given
        num_frames: frames to look at, spread evenly
        words: some words of the text, `pooled` for their mean, or `all` for each and pooled
        layers: fused layers by number, or `all`; the last one if not given
        heads: heads by number, `all` for each, or the `mean`
        size: side of the frames in pixels, such as 960; another than that of the weights, which is the default,
            interpolates position embeddings
        whole: look at the whole picture, --size being its short side, instead of the largest square in its middle
        max_tokens: tokens of the text
        tokenizer: the text tower's; the checkpoint's own if not given
        device: cuda or cpu; cuda where there is one
        precision: bf16 on a GPU if not given, else 32

    Raises:
        ValueError: An argument doesn't allow it, or the video or the weights can't be read.
    """
    check_call(attend, locals())
    require_text("--text", text, "say what is seen")
    picture, path = Path(out), Path(video)
    require_suffix(picture, ".png", "the picture")
    make_folder_of(picture)
    info = video_info(path)
    backbone = open_backbone(weights, num_frames, device)
    maps = _pick_maps(backbone, weights, layers, heads)
    tokens = open_tokenizer(backbone, tokenizer)
    warn_if_truncated(tokens, "text", text, max_tokens)
    read = read_words(tokens, text, max_tokens)
    if not read.labels:
        raise ValueError(f"--max-tokens {max_tokens} leaves no word of {text!r} beside the special tokens: "
                         "give more, or another --text")
    rows = pick_rows(read.labels, words)
    _refuse_too_many(len(rows) * len(maps.names) * num_frames)
    clip, view = _read(path, info, backbone, (start, inf if end is None else end), num_frames, size, whole)
    with autocast(precision, backbone.device):
        seen = attend_words(backbone, clip.frames, read, maps.layers, maps.heads)
    strips = [strip._replace(label=strip.label + name)
              for row in pool(seen, read, rows) for name, strip in zip(maps.names, row, strict=True)]
    report = AttentionReport(strips, clip.times.tolist(), seen.match, view, _describe(maps), picture)
    _draw(f"{Path(*path.parts[-2:])}: “{text}”", clip, len(maps.names), report)
    return report


class WordMaps(NamedTuple):
    """Attention of the words of a text over a clip, to be drawn."""

    title: str
    clip: Clip
    strips: list[Strip]

    def png(self) -> bytes:
        """Draw them as the content of a PNG file. This takes longer than the model, which it doesn't need."""
        figure = draw_attention(self.title, self.clip.frames, self.clip.times.tolist(), self.strips)
        content = png(figure)
        figure.clear()  # its parts refer to each other: they would stay for long
        return content


def map_words(backbone: Backbone, tokenizer: "PreTrainedTokenizerBase", clip: Clip, text: str, title: str,
              max_tokens: int = 30, precision: Precision | None = None) -> WordMaps:
    """Compute what each word of a text attends to in the frames of a clip, in the last fused layer.

    Args:
        backbone: In eval mode.
        tokenizer: Of its text tower.
        clip: Frames of the size that the backbone takes.
        text: What is seen.
        title: Of the picture.
        max_tokens: Tokens of the text.
        precision: As for `attend`.

    Raises:
        ValueError: The backbone has no fused layer, or the text no word.
    """
    maps = _pick_maps(backbone, "the model", None, ("mean",))
    read = read_words(tokenizer, text, max_tokens)
    if not read.labels:
        raise ValueError(f"{text!r} has no word: say what is seen")
    rows = pick_rows(read.labels, ("all",))
    _refuse_too_many(len(rows) * len(clip.frames))
    with autocast(precision, backbone.device):
        seen = attend_words(backbone, clip.frames, read, maps.layers, maps.heads)
    strips = [strip for row in pool(seen, read, rows) for strip in row]
    title = f"{title}\n{_describe(maps)}; match {seen.match:.3f}"
    return WordMaps(title, clip, strips)


def _refuse_too_many(count: int) -> None:
    if count > _MOST:
        raise ValueError(f"{count} pictures are too many to look at: choose fewer --words, --layers, --heads or "
                         f"--num-frames ({_MOST} at most)")


def pick_rows(labels: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """Choose the words to draw, None for all of them pooled.

    Args:
        labels: The words of the text.
        wanted: Some of them, `pooled`, or `all` for all and pooled.

    Raises:
        ValueError: One is not a word of the text.
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
    """Make the strips of the M maps for each row: a word, or the mean of all."""
    labels = [_POOLED if row is None else words.labels[row] for row in rows]
    cls, patches = (torch.stack([part.mean(0) if row is None else part[row] for row in rows])
                    for part in (seen.cls, seen.patches))  # (rows, M) and (rows, M, T, h, w)
    return [[Strip(label, share.item(), maps) for share, maps in zip(*of_row, strict=True)]
            for label, *of_row in zip(labels, cls, patches, strict=True)]


def _pick_maps(backbone: Backbone, weights: str, wanted: Sequence[str] | None, heads: Sequence[str]) -> Maps:
    there = text_layers(backbone)
    if not there:
        raise ValueError(f"{weights} has no fused layer (num_fused_layers is 0): there is no cross-attention to draw")
    numbers = _pick("layers", wanted or [str(max(there))], sorted(there), "words look at the video in the layers")
    layers = {number: there[number] for number in numbers}
    picked = None
    names = [""]
    if list(heads) != ["mean"]:
        count = min(layer.num_heads for layer in layers.values())
        picked = _pick("heads", heads, range(count), "`mean`, `all` or some of")
        names = [f", head {head}" for head in picked] if len(picked) > 1 else [""]
    return Maps(layers, picked, [f", layer {number}{name}" if len(layers) > 1 else name
                                 for number in layers for name in names])


def _pick(option: str, wanted: Sequence[str], there: Sequence[int], what: str) -> list[int]:
    """Read numbers; `all` are those that there are."""
    if list(wanted) == ["all"]:
        return list(there)
    known = {str(number): number for number in there}
    if wrong := [value for value in wanted if value not in known]:
        raise ValueError(f"--{option} {wrong[0]}: {what} {', '.join(known)}")
    return [known[value] for value in dict.fromkeys(wanted)]


def _read(video: Path, info: VideoInfo, backbone: Backbone, span: tuple[float, float], num_frames: int,
          size: int | None, whole: bool) -> tuple[Clip, str]:
    """Read the frames of a span at a size that the backbone is made to take; also says which part, in words."""
    start, end = span[0], min(span[1], info.duration)
    if not 0 <= start < end:
        raise ValueError(f"--start {start} --end {span[1]}: nothing of {video}, which lasts "
                         f"{info.duration:.1f} s, lies between them")
    patches = backbone.video_tower.patch_embed
    side = size or patches.img_size[0]
    height, width = _whole_size(info, side, patches.patch_size) if whole else (side, side)
    if (height, width) != tuple(patches.img_size):
        resize_frames(backbone, (height, width))
    crop = CropBox(0, 0, info.height, info.width, height, width) if whole else EvalTransform(side)
    clip = read_frames(video, uniform_times(start, end, num_frames), crop)
    enlarged = f", enlarged from {min(info[:2])} px" if min(info[:2]) < side else ""
    part = "the whole picture" if whole else "the middle square"
    return clip, f"looking at {num_frames} frame{'s' * (num_frames > 1)} of {height} x {width} px, {part}{enlarged}"


def _whole_size(info: VideoInfo, short: int, patch: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the whole picture: the short side as given, the long one a multiple of the patch's."""
    scale = short / min(info.height, info.width)
    height, width = (max(round(side * scale / step), 1) * step
                     for side, step in zip((info.height, info.width), patch, strict=True))
    return (short, width) if info.height <= info.width else (height, short)


def _describe(maps: Maps) -> str:
    heads = "mean of all heads" if maps.heads is None else f"heads {', '.join(map(str, maps.heads))}"
    return f"{heads}; {'; '.join(f'layer {number}, {_gate(layer)}' for number, layer in maps.layers.items())}"


def _draw(title: str, clip: Clip, num_maps: int, report: AttentionReport) -> None:
    # A row is a word over time, or through its maps; single pictures fill a square.
    strips = report.strips
    beside = 1 if len(clip.frames) > 1 else num_maps if num_maps > 1 else ceil(sqrt(len(strips)))
    title = f"{title}\n{report.maps}; match {report.match:.3f}"
    figure = draw_attention(title, clip.frames, report.times, strips, beside)
    with atomic_write(report.out) as draft:
        draft.write_bytes(png(figure))


def _gate(layer: CrossAttention) -> str:
    alpha = getattr(layer, "alpha", None)
    if alpha is None:
        return "no gate"
    return f"gate α {alpha.item():.3g}" + (" (so that it changes nothing)" if alpha.item() == 0 else "")

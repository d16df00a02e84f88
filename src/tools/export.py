"""Export the two sides of the dual encoder for use without this package: `egovlpv2 export`."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from tokenizers import Tokenizer

from egovlpv2.arguments import check_call
from egovlpv2.checkpoints.inference import fingerprint, open_backbone, open_tokenizer
from egovlpv2.checkpoints.weights import num_frames_of
from egovlpv2.io.egomcq_files import MCQuestion
from egovlpv2.io.files import require_folder, write_json
from egovlpv2.io.folders import atomic_folder, require_new_folder
from egovlpv2.tokenization import padding_of
from egovlpv2.tools.export_int8 import (
    Encoders,
    EncodeText,
    ReadClips,
    Top1,
    clip_reader,
    measure_top1,
    pick_questions,
    quantize,
    text_encoder,
)
from egovlpv2.tools.export_sides import (
    OPSET,
    SUFFIXES,
    TOLERANCE,
    Side,
    compare,
    open_side,
    text_side,
    video_side,
    write_side,
)
from egovlpv2.types import ChunkLength, Count, ExportFormat, NumFrames, TextLength

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FACTS, TOKENIZER = "export.json", "tokenizer.json"
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportReport:
    """An exported backbone.

    Args:
        out: The folder.
        sizes: Bytes of each model file.
        difference: The largest difference from the backbone's embeddings.
        top1: Accuracies with and without int8, if it was asked for.
    """

    out: Path
    sizes: dict[str, int]
    difference: float
    top1: Top1 | None

    def __str__(self) -> str:
        files = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in self.sizes.items())
        text = (f"{self.out}: {files}\nlargest difference from the backbone's embeddings: {self.difference:.1g} "
                f"(allowed: {TOLERANCE:g})")
        if self.top1 is not None:
            found = self.top1
            left_out = f"; {found.unreadable} left out, as a clip can't be read" if found.unreadable else ""
            text += (f"\nint8: top-1 of {found.questions} questions {found.float32:.1f} % -> {found.int8:.1f} %, a "
                     f"loss of {found.loss:.1f} points{left_out}")
        return text


def export_backbone(weights: str, out: str | Path, *, format: ExportFormat = "onnx",
                    num_frames: NumFrames | None = None, max_tokens: TextLength = 30, tokenizer: str | None = None,
                    int8: bool = False, questions: str | None = None, videos: str | None = None,
                    chunk_seconds: ChunkLength = 600.0, num_questions: Count = 500) -> ExportReport:
    """Export both sides of the dual encoder as ONNX or torch.export files, compared with the backbone.

    The folder holds the video side (uint8 frames -> embeddings), the text side (token ids and mask -> embeddings),
    tokenizer.json, and export.json with the facts. Embeddings have length 1, so that their product is the cosine.

    Args:
        weights: .ckpt, .safetensors, released .pth, a saved folder, or owner/name on the Hugging Face hub
        out: the folder to write, a new one
        format: onnx, or torch for torch.export's .pt2
        num_frames: frames of a clip; as the weights if not given
        max_tokens: longest text in tokens
        tokenizer: the text tower's; the checkpoint's own if not given
        int8: write the ONNX files with dynamic int8 quantisation too, and measure the loss on --questions
        questions: an egomcq.json, to measure the loss of int8 in top-1
        videos: the folder of its videos, VIDEO_UID/0.mp4, 1.mp4, ...
        chunk_seconds: length of the files of a video
        num_questions: questions at most, evenly from all

    Raises:
        ValueError: An argument doesn't allow it, a package is missing, the weights can't be read, or an exported file
            gives other embeddings than the backbone.
    """
    check_call(export_backbone, locals())
    out = Path(out)
    test = _check_int8(format, int8, questions, videos, num_questions)
    _require_packages(format)
    require_new_folder(out)
    frames = num_frames or num_frames_of(weights)
    backbone = open_backbone(weights, frames, "cpu").requires_grad_(False)
    words = open_tokenizer(backbone, tokenizer)
    _, max_tokens = padding_of(words, "longest", max_tokens)
    if max_tokens > (most := backbone.text_tower.max_tokens):
        raise ValueError(f"--max-tokens {max_tokens}: the text tower of {weights} takes {most} at most")
    size = backbone.video_tower.patch_embed.img_size
    if int8 and size[0] != size[1]:
        raise ValueError(f"--int8 measures its loss on square frames, and {weights} takes {size[0]} x {size[1]} px: "
                         "leave --int8 out")
    sides = [video_side(backbone, frames, size), text_side(backbone, words, max_tokens)]
    top1 = None
    with atomic_folder(out) as draft:
        files = [draft / f"{side.name}{SUFFIXES[format]}" for side in sides]
        for side, file in zip(sides, files, strict=True):
            write_side(side, format, file)
        difference = max(compare(side, file) for side, file in zip(sides, files, strict=True))
        facts = _facts(format, sides, weights, max_tokens)
        _write_tokenizer(words, max_tokens, draft / TOKENIZER)
        if test is not None:
            read = clip_reader(test.videos, frames, size[0], chunk_seconds)
            top1 = _write_int8(sides, files, test.questions, read, text_encoder(words, max_tokens))
            facts["int8"] = {"top1": top1._asdict()}
        write_json(draft / FACTS, facts)
        sizes = {path.name: path.stat().st_size for path in sorted(draft.iterdir()) if path.suffix != ".json"}
    return ExportReport(out, sizes, difference, top1)


class _Test(NamedTuple):
    """Data to measure the loss of int8 on."""

    questions: list[MCQuestion]
    videos: Path


def _check_int8(format: ExportFormat, int8: bool, questions: str | None, videos: str | None, count: int
                ) -> _Test | None:
    """Read the questions for int8; None if it wasn't asked for."""
    if not int8:
        if questions is not None or videos is not None:
            raise ValueError("--questions and --videos are for the loss of int8: give --int8 too, or leave them out")
        return None
    if format != "onnx":
        raise ValueError(f"--int8 is dynamic quantisation of onnxruntime: give --format onnx, not {format}")
    if questions is None or videos is None:
        raise ValueError("--int8 needs --questions, an egomcq.json, and --videos, their folder: its loss in top-1 is "
                         "measured on them")
    require_folder(Path(videos))
    return _Test(pick_questions(Path(questions), count), Path(videos))


def _require_packages(format: ExportFormat) -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if format == "onnx" and missing:
        raise ValueError(f"--format onnx needs {', '.join(missing)}: `pip install 'egovlpv2[export]'`, or give "
                         "--format torch")


def _write_int8(sides: list[Side], files: list[Path], questions: list[MCQuestion], read: ReadClips, encode: EncodeText
                ) -> Top1:
    """Write quantised files beside the exported ones, and measure what they lose."""
    small = [file.with_suffix(".int8.onnx") for file in files]
    for file, target in zip(files, small, strict=True):
        quantize(file, target)
    both = [Encoders(*(open_side(file, list(side.inputs)) for side, file in zip(sides, some, strict=True)))
            for some in (files, small)]
    return measure_top1(questions, read, encode, *both)


def _facts(format: ExportFormat, sides: list[Side], weights: str, max_tokens: int) -> dict[str, Any]:
    """Collect the facts that a user of the files needs, for export.json."""
    shapes = {"video": ["batch", *sides[0].examples[0][0].shape[1:]], "input_ids": ["batch", "tokens"],
              "attention_mask": ["batch", "tokens"]}
    facts: dict[str, Any] = {"format": format, "weights": fingerprint(weights), "torch": torch.__version__}
    if format == "onnx":
        facts["opset"] = OPSET
    for side in sides:
        inputs = {name: {"shape": shapes[name], "type": str(value.dtype).removeprefix("torch.")}
                  for name, value in zip(side.inputs, side.examples[0], strict=True)}
        facts[side.name] = {"file": f"{side.name}{SUFFIXES[format]}", "inputs": inputs, "output": side.output}
    facts["video"]["pixels"] = "RGB, 0 to 255; they are normalised inside"
    facts["text"] |= {"tokenizer": TOKENIZER, "max_tokens": max_tokens}
    with torch.no_grad():
        width = sides[1].module(*sides[1].examples[-1]).shape[-1]
    return facts | {"embedding": {"width": width, "length": 1.0}}


def _write_tokenizer(tokenizer: "PreTrainedTokenizerBase", max_tokens: int, path: Path) -> None:
    """Write a tokenizer.json that cuts texts at the maximum and pads those of a batch to the longest, or all to the
    length of a model that attends to padding.
    """
    padding, length = padding_of(tokenizer, "longest", max_tokens)
    fast = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    fast.enable_truncation(length)
    fast.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=str(tokenizer.pad_token),
                        direction=tokenizer.padding_side, length=length if padding == "max_length" else None)
    path.write_text(fast.to_str(pretty=True), encoding="utf-8")

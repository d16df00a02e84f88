"""Dynamic quantisation to int8 of exported ONNX files, and what it costs in accuracy."""

import logging
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from egovlpv2.io.egomcq_files import MCQuestion, read_egomcq
from egovlpv2.tokenization import tokenize
from egovlpv2.tools.export_sides import Run
from egovlpv2.video.container import VideoError
from egovlpv2.video.decode import read_chunks
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import EvalTransform

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_QUANTIZED = ["MatMul", "Gather"]  # not the convolution of the patches, which onnxruntime lacks in int8 on some CPUs
ReadClips = Callable[[MCQuestion], Tensor]  # the clips of a question, (5, T, 3, H, W) uint8
EncodeText = Callable[[str], Sequence[Tensor]]  # inputs of the text side for a text, (1, L) each


class Encoders(NamedTuple):
    """The two sides in one precision."""

    video: Run  # (B, T, 3, H, W) uint8 -> (B, P)
    text: Run  # (B, L), (B, L) -> (B, P)


class Top1(NamedTuple):
    """Accuracies on the same questions, in %."""

    questions: int
    unreadable: int  # left out: a clip couldn't be read
    float32: float
    int8: float

    @property
    def loss(self) -> float:
        """Points that int8 loses."""
        return self.float32 - self.int8


def quantize(source: Path, target: Path) -> None:
    """Write an ONNX file with embeddings and weights of products in int8; activations are quantised when it runs.

    Args:
        source: An ONNX file in float32.
        target: The file to write.
    """
    import onnx  # of the extra `export`, as is the next
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    model.graph.ClearField("value_info")  # PyTorch's shapes of transposed weights can be those from before
    root, before = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # it recommends a preparation that changes nothing for these files
    try:
        quantize_dynamic(model, target, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=_QUANTIZED)
    finally:
        root.setLevel(before)


def pick_questions(path: Path, count: int) -> list[MCQuestion]:
    """Read questions of an `egomcq.json`, evenly from all of it where there are more than `count`.

    Raises:
        ValueError: The file is missing or malformed.
    """
    questions = list(read_egomcq(path).values())
    return questions[:: ceil(len(questions) / count)]


def measure_top1(questions: Sequence[MCQuestion], read: ReadClips, encode: EncodeText, float32: Encoders,
                 int8: Encoders) -> Top1:
    """Measure how often the clip that fits best is the right one, in both precisions.

    Args:
        questions: EgoMCQ's questions.
        read: Reads the clips of a question: (5, T, 3, H, W) uint8.
        encode: Tokenizes a text: its inputs of the text side, (1, L) each.
        float32: The sides as they were exported.
        int8: The quantised sides.

    Raises:
        ValueError: The clips of no question can be read; gives the reason for the last.
    """
    right, readable, reason = [0, 0], 0, ""
    for question in tqdm(questions, desc="top-1", unit="question", mininterval=1, leave=False):
        try:
            video = read(question)
        except VideoError as error:
            reason = str(error)
            continue
        readable += 1
        tokens = encode(question.text)
        for i, side in enumerate((float32, int8)):
            similarity = side.video(video) @ side.text(*tokens)[0]  # (5,)
            right[i] += int(similarity.argmax()) == question.answer
    if not readable:
        raise ValueError(f"the clips of none of the {len(questions)} questions can be read, so int8's loss can't be "
                         f"measured; the last: {reason}")
    return Top1(readable, len(questions) - readable, *(100 * count / readable for count in right))


def clip_reader(folder: Path, num_frames: int, size: int, chunk_seconds: float) -> ReadClips:
    """Make a function that reads the clips of a question.

    Args:
        folder: The folder of EgoMCQ's videos, `<video_uid>/<k>.mp4`.
        num_frames: Frames of a clip, spread evenly.
        size: Height and width of the frames, pixels.
        chunk_seconds: Length of a video's files.
    """
    crop = EvalTransform(size)

    def read(question: MCQuestion) -> Tensor:
        return torch.stack([read_chunks(folder / clip.video, uniform_times(clip.start, clip.end, num_frames), crop,
                                        chunk_seconds).frames for clip in question.clips])  # (5, T, 3, H, W)

    return read


def text_encoder(tokenizer: "PreTrainedTokenizerBase", max_tokens: int) -> EncodeText:
    """Make a function that tokenizes a text."""

    def encode(text: str) -> Sequence[Tensor]:
        tokens = tokenize(tokenizer, [text], max_tokens, "longest")
        return tokens["input_ids"], tokens["attention_mask"]

    return encode

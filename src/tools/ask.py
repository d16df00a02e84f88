"""Answer a question about any video with a model fine-tuned on EgoTaskQA: `egovlpv2 ask`."""

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from egovlpv2.arguments import check_call
from egovlpv2.batch import text_to
from egovlpv2.checkpoints.head_weights import read_answer_head
from egovlpv2.checkpoints.inference import open_backbone, open_tokenizer
from egovlpv2.checkpoints.weights import find_weights, num_frames_of
from egovlpv2.command.options import require_text
from egovlpv2.device import autocast
from egovlpv2.features.query_encoding import warn_if_truncated
from egovlpv2.heads.answers import AnswerHead, read_answers
from egovlpv2.model.backbone import Backbone
from egovlpv2.tokenization import tokenize
from egovlpv2.types import Count, NumTokens, Precision
from egovlpv2.video.decode import read_frames, video_info
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import EvalTransform

_MAX_TOKENS = 30  # as EgoTaskQA's questions are cut


@dataclass(frozen=True)
class Answers:
    """The best answers to a question.

    Args:
        answers: The best first.
        probabilities: Of each.
    """

    answers: list[str]
    probabilities: list[float]

    def __str__(self) -> str:
        return "\n".join(f"  {value:6.3f}  {answer}"
                         for answer, value in zip(self.answers, self.probabilities, strict=True))


class AnswerModel(NamedTuple):
    """A fine-tuned model and the settings that it was trained with."""

    backbone: Backbone
    head: AnswerHead
    answers: list[str]
    num_frames: int
    max_tokens: int


def ask(video: str | Path, question: str, weights: str, *, start: float = 0.0, end: float | None = None,
        answers: str | None = None, top: Count = 5, max_tokens: NumTokens | None = None, tokenizer: str | None = None,
        device: str | None = None, precision: Precision | None = None) -> Answers:
    """Answer a question about a video.

    Args:
        video: any video
        question: in English
        weights: .ckpt of `make finetune-taskqa`, or a released .pth
        start: seconds; the beginning of the part to consider
        end: seconds; its end, that of the video if not given
        answers: answer_set.txt, if the weights don't hold their answers
        top: answers to show
        max_tokens: tokens of the question; as many as the weights were trained with, if not given
        tokenizer: the text tower's; the checkpoint's own if not given
        device: cuda or cpu; cuda where there is one
        precision: bf16 on a GPU if not given, else 32

    Raises:
        ValueError: An argument doesn't allow it, or the video or the weights can't be read.
    """
    check_call(ask, locals())
    question = question.strip().lower()
    require_text("--question", question, "ask something")
    model = open_answer_model(weights, answers, max_tokens, device)
    backbone = model.backbone
    text_tokenizer = open_tokenizer(backbone, tokenizer)
    warn_if_truncated(text_tokenizer, "question", question, model.max_tokens)
    text = tokenize(text_tokenizer, [question], model.max_tokens)
    frames = _read(Path(video), start, inf if end is None else end, model)[None]  # (1, T, 3, H, W)
    with torch.inference_mode(), autocast(precision, backbone.device):
        fused = backbone.fused_features(frames.to(backbone.device), text_to(text, backbone.device))
        logits = model.head(fused)  # (1, C)
    best = logits[0].float().softmax(-1).topk(min(top, len(model.answers)))
    return Answers([model.answers[i] for i in best.indices.tolist()], best.values.tolist())


def open_answer_model(weights: str, answers: str | None = None, max_tokens: int | None = None,
                      device: str | None = None) -> AnswerModel:
    """Load a model fine-tuned on EgoTaskQA.

    Args:
        weights: Of the backbone and the head.
        answers: The answer set, if the weights don't hold it.
        max_tokens: Tokens of a question; None: as many as the weights were trained with.
        device: Where it runs.

    Raises:
        ValueError: The weights have no answer head, or one of other answers.
    """
    head, facts = read_answer_head(find_weights(weights))
    if head is None:
        raise ValueError(f"{weights} has no head that answers: `make finetune-taskqa` trains one")
    found = _answers(answers, facts, head.out.out_features)
    tokens = max_tokens or facts.get("max_tokens", _MAX_TOKENS)
    num_frames = facts.get("num_frames") or num_frames_of(weights)
    backbone = open_backbone(weights, num_frames, device)
    return AnswerModel(backbone, head.to(backbone.device).eval(), found, num_frames, tokens)


def _read(video: Path, start: float, end: float, model: AnswerModel) -> Tensor:
    """Read the frames to consider: (T, 3, H, W) uint8."""
    duration = video_info(video).duration
    if not 0 <= start < min(end, duration):
        raise ValueError(f"--start {start} --end {end}: give times in the video, the earlier one first; "
                         f"{video} lasts {duration:.1f} s")
    size = model.backbone.video_tower.patch_embed.img_size[0]
    return read_frames(video, uniform_times(start, min(end, duration), model.num_frames), EvalTransform(size)).frames


def _answers(path: str | None, facts: dict[str, Any], count: int) -> list[str]:
    """Read the answer set: the checkpoint's own, or a file's."""
    if path is None and "answers" not in facts:
        raise ValueError("these weights don't hold their answers: give the answer_set.txt of their data as --answers")
    answers = facts["answers"] if path is None else read_answers(Path(path))
    if len(answers) != count:
        raise ValueError(f"{path or 'the checkpoint'} lists {len(answers)} answers and the weights choose among "
                         f"{count}: take the answer set that they were trained with")
    return answers

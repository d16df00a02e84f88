"""`egovlpv2 ask`: the best answers of a model fine-tuned on EgoTaskQA to a question about any video."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from egovlpv2.checkpoints.head_weights import read_answer_head
from egovlpv2.checkpoints.weights import num_frames_of
from egovlpv2.command.options import require_text
from egovlpv2.command.parser import CommandParser
from egovlpv2.features.options import add_model_options, open_backbone, precision_of, require_positive
from egovlpv2.features.query_encoding import warn_if_truncated
from egovlpv2.heads.answers import AnswerHead, read_answers
from egovlpv2.model.backbone import Backbone
from egovlpv2.tokenization import load_fitting_tokenizer, tokenize
from egovlpv2.video.decode import read_frames, video_info
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import EvalTransform

_MAX_TOKENS = 30  # as EgoTaskQA's questions are cut


class Answerer(NamedTuple):
    """A fine-tuned model and what it was trained with."""

    backbone: Backbone
    head: AnswerHead
    answers: list[str]
    num_frames: int


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args = _parser().parse_args(argv)
    require_positive(args, "top")
    question = args.question.strip().lower()
    require_text("--question", question, "ask something")
    answerer = open_answerer(args)
    backbone, device = answerer.backbone, answerer.backbone.device
    tokenizer = load_fitting_tokenizer(args.tokenizer or backbone.config.text.tokenizer, backbone.text_tower)
    warn_if_truncated(tokenizer, "question", question, args.max_tokens)
    text = tokenize(tokenizer, [question], args.max_tokens)
    video = _read(args, answerer)[None]  # (1, T, 3, H, W)
    with torch.inference_mode(), precision_of(args.precision, device):
        words = {name: ids.to(device) for name, ids in text.items()}
        logits = answerer.head(backbone.fused_features(video.to(device), words))  # (1, C)
    best = logits[0].float().softmax(-1).topk(min(args.top, len(answerer.answers)))
    for value, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        print(f"  {value:6.3f}  {answerer.answers[place]}")


def open_answerer(args: argparse.Namespace) -> Answerer:
    """The model of `--weights`; `--max-tokens`, where it isn't given, becomes what the model was trained with.

    Raises:
        ValueError: The weights have no head that answers, or not that of the answers.
    """
    head, facts = read_answer_head(Path(args.weights))
    if head is None:
        raise ValueError(f"{args.weights} has no head that answers: `make finetune-taskqa` trains one")
    answers = _answers(args.answers, facts, head.out.out_features)
    args.max_tokens = facts.get("max_tokens", _MAX_TOKENS) if args.max_tokens is None else args.max_tokens
    require_positive(args, "max_tokens")
    num_frames = facts.get("num_frames") or num_frames_of(args.weights)
    backbone = open_backbone(args, num_frames)
    return Answerer(backbone, head.to(backbone.device).eval(), answers, num_frames)


def _read(args: argparse.Namespace, answerer: Answerer) -> Tensor:
    """The frames to look at: (T, 3, H, W) uint8."""
    duration = video_info(args.video).duration
    start, end = args.start, min(args.end, duration)
    if not 0 <= start < end:
        raise ValueError(f"--start {start} --end {args.end}: give times in the video, the earlier one first; "
                         f"{args.video} lasts {duration:.1f} s")
    size = answerer.backbone.video_tower.patch_embed.img_size[0]
    return read_frames(args.video, uniform_times(start, end, answerer.num_frames), EvalTransform(size)).frames


def _answers(path: Path | None, facts: dict[str, Any], count: int) -> list[str]:
    """The answer set: the checkpoint's own, or a file's."""
    if path is None and "answers" not in facts:
        raise ValueError("these weights don't tell their answers: name the answer_set.txt of their data with --answers")
    answers = facts["answers"] if path is None else read_answers(path)
    if len(answers) != count:
        raise ValueError(f"{path or 'the checkpoint'} lists {len(answers)} answers and the weights choose among "
                         f"{count}: take the answer set that they were trained with")
    return answers


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="egovlpv2 ask", description="Answers a question about a video.",
                           formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("video", type=Path, help="any video")
    parser.add_argument("--question", required=True)
    parser.add_argument("--start", type=float, default=0.0, help="seconds; where to look from")
    parser.add_argument("--end", type=float, default=float("inf"), help="seconds; where to look to")
    parser.add_argument("--answers", type=Path, help="answer_set.txt, if the weights don't tell their answers")
    parser.add_argument("--top", type=int, default=5, help="answers to show")
    add_model_options(parser, max_tokens=None)
    return parser


if __name__ == "__main__":
    main()

"""`egovlpv2 ask`: the best answers of a model fine-tuned on EgoTaskQA to a question about any video."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from egovlpv2.features.options import add_model_options, open_backbone, precision_of, require_positive
from egovlpv2.model.checkpoint import read_weights
from egovlpv2.model.head_weights import read_answer_head
from egovlpv2.text import load_tokenizer, tokenize
from egovlpv2.video.decode import read_frames, video_info
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import EvalTransform


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args = _parser().parse_args(argv)
    require_positive(args, "max_words", "top")
    plain, _ = read_weights(args.weights)
    head, facts = read_answer_head(Path(args.weights))
    if head is None:
        raise ValueError(f"{args.weights} has no head that answers: `make finetune-taskqa` trains one")
    answers = _answers(args.answers, facts, head.out.out_features)
    num_frames = facts.get("num_frames", plain["video"]["num_frames"])
    backbone = open_backbone(args, num_frames)
    tokenizer = load_tokenizer(args.tokenizer or backbone.config.text.tokenizer)
    question = args.question.strip().lower()
    tokens = len(tokenizer(question)["input_ids"])
    if not question:
        raise ValueError("--question is empty: ask something")
    if tokens > args.max_words:
        print(f"the question has {tokens} tokens and is cut to {args.max_words} (--max-words)")
    start, end = args.start, min(args.end, video_info(args.video).duration)
    if not 0 <= start < end:
        raise ValueError(f"--start {start} --end {args.end}: the video {args.video} lasts {end:.1f} s")
    size = backbone.video_tower.patch_embed.img_size[0]
    video = read_frames(args.video, uniform_times(start, end, num_frames), EvalTransform(size)).frames
    text = tokenize(tokenizer, [question], args.max_words)
    with torch.inference_mode(), precision_of(args.precision, backbone.device):
        words = {name: ids.to(backbone.device) for name, ids in text.items()}
        cls = backbone.fused_features(video[None].to(backbone.device), words)  # (1, D)
        probabilities = head.to(backbone.device).eval()(cls).float().softmax(-1)[0]  # (C,)
    best = probabilities.topk(min(args.top, len(answers)))
    for value, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        print(f"  {value:6.3f}  {answers[place]}")


def _answers(path: Path | None, facts: dict[str, Any], count: int) -> list[str]:
    """The answer set: the checkpoint's own, or a file's."""
    if path is None and "answers" not in facts:
        raise ValueError("these weights don't tell their answers: name the answer_set.txt of their data with --answers")
    answers = facts["answers"] if path is None else path.read_text(encoding="utf-8").splitlines()
    if len(answers) != count:
        raise ValueError(f"{path} lists {len(answers)} answers and the weights choose among {count}: take the answer "
                         "set that they were trained with")
    return answers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="egovlpv2 ask", description="Answers a question about a video.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("video", type=Path, help="any video")
    parser.add_argument("--question", required=True)
    parser.add_argument("--start", type=float, default=0.0, help="seconds; where to look from")
    parser.add_argument("--end", type=float, default=float("inf"), help="seconds; where to look to")
    parser.add_argument("--answers", type=Path, help="answer_set.txt, if the weights don't tell their answers")
    parser.add_argument("--top", type=int, default=5, help="answers to show")
    add_model_options(parser)
    return parser


if __name__ == "__main__":
    main()

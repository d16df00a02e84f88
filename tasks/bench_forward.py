"""Cost of evaluation: trunk and top, EgoMCQ's questions and EgoTaskQA's answers: `egovlpv2 bench forward`."""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from egovlpv2.analysis.complexity import gmacs
from egovlpv2.batch import AnswerBatch, ChoiceBatch, Text
from egovlpv2.bench.measure import BenchOptions, Figure, alone, in_turn, matmul_speed, precision_name
from egovlpv2.device import autocast
from egovlpv2.model.backbone import Backbone
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.bench_step import make_texts, make_videos, read_model
from egovlpv2.tasks.egomcq import choice_scores
from egovlpv2.tasks.taskqa import TaskQA

CHOICES, QUESTIONS, ANSWERS = 5, 4, 500
_ROUNDS = 3

Call = Callable[[], Any]


def measure(options: BenchOptions) -> list[Figure]:
    """Figures of passes without gradients, in a process of their own."""
    return alone(_measure, options)


def _measure(options: BenchOptions) -> list[Figure]:
    device, model = torch.device(options.device), read_model(options.config)
    torch.manual_seed(0)
    task = TaskQA(model, OptimizerConfig(), ANSWERS).eval().to(device)
    with torch.device("meta"):
        counted = Backbone(model).eval()
    clips, choices, one = (make_videos(count, model, counted.video_tower.patch_embed.img_size[0], device)
                           for count in (min(options.batch_size), CHOICES, 1))
    figures = _passes(task.backbone, counted, clips, options)
    for what, sharing, plain, against in tqdm((egomcq(task.backbone, choices), answers(task, one)), "evaluators",
                                              leave=False):
        calls = [_as_evaluated(call, options) for call in (sharing, plain)]
        ours, theirs = in_turn(calls, options.repeats, device=device)
        figures.append(Figure("forward", what, ours, "s", f"matmul: {against} {theirs:.3g} s", ours / theirs))
    return figures


def _as_evaluated(call: Call, options: BenchOptions) -> Call:
    """Without gradients and at the precision of `--precision`, which each call enters anew, as each batch does."""
    context = autocast(options.precision, torch.device(options.device))

    def run() -> None:
        with torch.inference_mode(), context:
            call()

    return run


def passes(backbone: Backbone, video: Tensor, text: Text) -> dict[str, Call]:
    """The parts of a pass, as pre-training runs them."""
    num_frames = video.shape[1]
    with torch.no_grad():
        trunk = backbone.trunk(video, text, gate=False)

    def top(gate: bool) -> None:
        backbone.top(trunk, num_frames, gate, "cls")

    return {"trunk": lambda: backbone.trunk(video, text, gate=False),
            "top, gate closed": lambda: top(gate=False), "top, gate open": lambda: top(gate=True)}


def _passes(backbone: Backbone, counted: Backbone, video: Tensor, options: BenchOptions) -> list[Figure]:
    """Trunk and top against their matrix products at the speed of a large one."""
    clips, device = len(video), video.device
    runs = [_as_evaluated(call, options) for call in passes(backbone, video, make_texts(clips, device)).values()]
    repeats = 10 if device.type == "cuda" else 1
    in_turn(runs, 1, repeats, device)  # warms up
    seconds, speed = in_turn(runs, _ROUNDS, repeats, device), matmul_speed(device, options.precision)
    name, figures = f"{options.config.stem}, {precision_name(options.precision)}", []
    on_paper = passes(counted, video[:1].to("meta"), make_texts(1, torch.device("meta")))
    for (what, count), taken in zip(on_paper.items(), seconds, strict=True):
        macs = gmacs(count)[0]
        each, floor = 1e3 * taken / clips, 1e3 * 2e9 * macs / speed  # ms
        figures.append(Figure("forward", f"{what}, a clip, {name}", each, "ms",
                              f"matmul: {macs:.3g} GMACs as one large product {floor:.3g} ms", each / floor))
    return figures


def egomcq(backbone: Backbone, video: Tensor) -> tuple[str, Call, Call, str]:
    """Scores of a question and its five clips (5, T, 3, H, W), from one trunk or from a whole pass each."""
    text, num_clips = make_texts(1, video.device), len(video)
    batch = cast(ChoiceBatch, {"video": video[None], "text": text})
    texts = Text(input_ids=text["input_ids"].expand(num_clips, -1),
                 attention_mask=text["attention_mask"].expand(num_clips, -1))

    def plain() -> dict[str, Tensor]:
        dual = F.cosine_similarity(backbone.embed_text(texts).float(), backbone.embed_video(video).float())
        return {"dual": dual[None], "fusion": backbone.vtm_logits(video, texts).float().softmax(-1)[None, :, 1]}

    return (f"a question of EgoMCQ, {num_clips} clips", lambda: choice_scores(backbone, batch), plain,
            "a whole pass for each score")


def answers(task: TaskQA, video: Tensor) -> tuple[str, Call, Call, str]:
    """Answers to questions about one video (1, T, 3, H, W), with the trunk run once or for each of them."""
    common = {"text": make_texts(QUESTIONS, video.device), "answers": [""] * ANSWERS}
    shared = common | {"video": video, "of_video": torch.zeros(QUESTIONS, dtype=torch.long, device=video.device)}
    each = common | {"video": video.expand(QUESTIONS, -1, -1, -1, -1),
                     "of_video": torch.arange(QUESTIONS, device=video.device)}
    return (f"{QUESTIONS} answers about a video of EgoTaskQA", lambda: task(cast(AnswerBatch, shared)),
            lambda: task(cast(AnswerBatch, each)), "the video anew for each question")

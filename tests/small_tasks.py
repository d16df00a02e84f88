"""Every task with a small model and a batch."""

from typing import Any

import torch
from helpers import draw_parameters, make_clips, make_config, make_text
from lightning import LightningModule
from torch.nn import Parameter

from egovlpv2.model.config import BackboneConfig
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.base import BackboneTask
from egovlpv2.tasks.charades_ego import CharadesEgo
from egovlpv2.tasks.egohoi import EgoHOI
from egovlpv2.tasks.egomcq import EgoMCQ
from egovlpv2.tasks.ek100 import EK100
from egovlpv2.tasks.mq import MQ
from egovlpv2.tasks.nlq import NLQ
from egovlpv2.tasks.pretrain import Pretrain
from egovlpv2.tasks.qfvs import QFVS
from egovlpv2.tasks.taskqa import TaskQA

NAMES = ("pretrain", "egomcq", "egohoi", "ek100", "charades_ego", "taskqa", "nlq", "mq", "qfvs")


def small_task(name: str, tokenizer: str = "") -> tuple[LightningModule, dict[str, Any]]:
    """A task in evaluation mode, with every parameter of a backbone drawn, and a batch for it.

    It logs nothing. The negatives of pre-training don't depend on the last bits of a similarity.
    """
    torch.manual_seed(0)
    if name in ("nlq", "mq"):
        task, batch = small_head(name), head_batch(name)
    elif name == "qfvs":
        task, batch = QFVS(OptimizerConfig(), dim=12), summary_batch()
    else:
        task, batch = _backbone_task(name, make_config(tokenizer))
        draw_parameters(task)
        for parameter in inputs_of(task):
            parameter.data *= 8  # else the biases make all embeddings nearly the same
    for method in ("log", "log_dict"):
        setattr(task, method, lambda *args, **kwargs: None)
    return task.eval(), batch


def inputs_of(task: BackboneTask) -> tuple[Parameter, Parameter]:
    """Weights that pictures and tokens meet first."""
    video, text = task.backbone.video_tower, task.backbone.text_tower
    return video.patch_embed.proj.weight, text.embeddings.word_embeddings.weight


def _backbone_task(name: str, config: BackboneConfig) -> tuple[LightningModule, dict[str, Any]]:
    clips = make_clips(8)
    pairs = {"video": clips["video"], "text": clips["text"], "target": torch.arange(8),
             "relevancy": torch.eye(8).clamp(min=0.25 if name == "ek100" else 0.0)}
    if name == "pretrain":
        task = Pretrain(config, OptimizerConfig(), masked_share=0.4, negative_temperature=float("inf"))
        return task, {**clips}
    if name == "egomcq":
        video = make_clips(10)["video"].unflatten(0, (2, 5))
        return EgoMCQ(config), {"video": video, "text": make_text(2), "answer": torch.tensor([0, 3]),
                                "kind": torch.tensor([1, 2]), "key": ["0", "1"]}
    if name == "egohoi":
        hard = {"hard_text": make_text(8 * 6), "hard_mask": torch.arange(48).view(8, 2, 3) % 5 > 0}
        return EgoHOI(config, OptimizerConfig()), {**clips, **hard, "key": list(range(2, 10))}
    if name == "taskqa":
        return TaskQA(config, OptimizerConfig(), num_answers=5), answer_batch()
    return {"ek100": EK100, "charades_ego": CharadesEgo}[name](config, OptimizerConfig()), pairs


def small_head(name: str, **options: Any) -> NLQ | MQ:
    """A head of NLQ or MQ for `head_batch`."""
    torch.manual_seed(0)
    if name == "mq":
        return MQ(OptimizerConfig(), in_dim=12, num_classes=3, num_steps=32, num_levels=3, dim=32, **options)
    return NLQ(OptimizerConfig(), 12, 12, dim=16, dropout=0.0, **options)


def head_batch(name: str) -> dict[str, Any]:
    """Two clips of NLQ or MQ."""
    if name == "mq":
        return {"key": ["a", "b"], "index": torch.arange(2), "features": torch.randn(2, 12, 32),
                "labels": ["", "x", "y"], "num_frames": torch.tensor([32, 20]), "duration": torch.tensor([64.0, 40.0]),
                "step_seconds": torch.tensor([2.0, 2.0]), "first_seconds": torch.zeros(2),
                "segments": torch.tensor([[[2.0, 7], [9, 32]], [[1, 3], [0, 0]]]),
                "classes": torch.tensor([[1, 2], [2, 0]])}
    mask = torch.arange(16) < torch.tensor([[16], [9]])
    return {"key": [("a", "b", 0)] * 2, "index": torch.arange(2), "video": torch.randn(2, 16, 12), "video_mask": mask,
            "query": torch.randn(2, 4, 12), "query_mask": mask[:, 5:9], "start": torch.tensor([2, 3]),
            "end": torch.tensor([7, 8]), "highlight": mask.float(), "duration": torch.tensor([16.0, 9.0]),
            "window": torch.tensor([[2.0, 8], [3, 9]])}


def answer_batch() -> dict[str, Any]:
    """Five questions about two videos."""
    torch.manual_seed(1)
    return {"key": [str(i) for i in range(5)], "index": torch.arange(5), "video": make_clips(2)["video"],
            "of_video": torch.tensor([0, 0, 0, 1, 1]), "text": make_text(5), "answer": torch.tensor([0, 1, 2, 3, 4]),
            "guess": torch.zeros(5, dtype=torch.int64), "kinds": torch.ones(5, 1, dtype=torch.bool),
            "kind_names": ["all"], "answers": list("abcde")}


def summary_batch() -> dict[str, Any]:
    """Two queries of QFVS with three prompts each, on two segments of at most seven shots."""
    mask = torch.arange(7) < torch.tensor([[[7], [4]], [[6], [7]]])  # (2, 2, 7)
    shown = torch.rand(2, 3, 2, 7).round()
    return {"key": ["a x y", "b x y"], "index": torch.arange(2), "features": torch.randn(2, 3, 2, 7, 12), "mask": mask,
            "concepts": shown[:, :2], "summary": shown[:, 2], "tags": []}

"""EgoTaskQA: one answer of a set, classified from the video's CLS state with the gate open."""

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egovlpv2.batch import AnswerBatch
from egovlpv2.checkpoints.head_weights import read_answer_head
from egovlpv2.distributed import all_reduce_sum, world_size
from egovlpv2.heads.answers import AnswerHead
from egovlpv2.metrics.answers import AnswerAccuracy
from egovlpv2.model.config import BackboneConfig
from egovlpv2.model.freeze import freeze_all_but_fused_video
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.base import BackboneTask
from egovlpv2.tasks.metric_task import MetricTask

_BEST = 5  # answers of a question that `egovlpv2 predict` writes


class TaskQA(MetricTask, BackboneTask):
    """Answer questions about videos.

    Args:
        backbone: Configuration of the backbone.
        optimizer: The optimiser and its schedule.
        num_answers: Size of the answer set.
        tune: `all` fine-tunes the backbone too; `head` freezes it.
        dropout: Dropout between the head's layers.
        weights: Weights to start from; those of a fine-tuned model include its head.
        num_frames: Frames of the clips; see `BackboneTask`.
    """

    name, monitor = "taskqa", "all"

    def __init__(self, backbone: BackboneConfig, optimizer: OptimizerConfig, num_answers: int,
                 tune: Literal["all", "head"] = "all", dropout: float = 0.2, weights: str | None = None,
                 num_frames: int | None = None) -> None:
        backbone.require_fusion("EgoTaskQA")
        super().__init__(backbone, optimizer, weights, num_frames)
        self.make_metrics(AnswerAccuracy)
        self.tune, self.num_answers = tune, num_answers
        self.answer_head = AnswerHead(self.backbone.video_tower.dim, num_answers, dropout)
        self.trained_on: dict[str, Any] = {}
        self.can_answer = weights is not None and self._read_head(Path(weights))
        freeze_all_but_fused_video(self.backbone)
        if tune == "head":
            self.backbone.requires_grad_(False)

    def _read_head(self, path: Path) -> bool:
        """Load the head of a fine-tuned model; return False if the file has none."""
        head, self.trained_on = read_answer_head(path)
        if head is not None:
            if head.out.out_features != self.num_answers:
                raise ValueError(f"{path} has a head for {head.out.out_features} answers: set model.init_args."
                                 f"num_answers={head.out.out_features}, and data of that answer set")
            self.answer_head.load_state_dict(head.state_dict())
        return head is not None

    @property
    def trained(self) -> nn.Module:
        return self

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings of the model, for `metrics.json`."""
        return super().protocol | {"tune": self.tune}

    def train(self, mode: bool = True) -> "TaskQA":
        super().train(mode)
        if self.tune == "head":
            self.backbone.eval()  # no dropout in frozen layers
        return self

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["egovlpv2"]["taskqa"] = {"answers": list(self.data.answers), "max_tokens": self.data.eval_max_tokens,
                                            "num_frames": self.data.eval_num_frames}

    def forward(self, batch: AnswerBatch) -> Tensor:
        """Logits of all answers (Q, C)."""
        if len(batch["answers"]) != self.num_answers:
            raise ValueError(f"The answer set has {len(batch['answers'])} answers, and the head {self.num_answers}: "
                             f"set model.init_args.num_answers={len(batch['answers'])}.")
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.tune == "all"):
            num_frames = batch["video"].shape[1]
            trunk = self.backbone.trunk_video(batch["video"], gate=True)  # (V, S, D): a video's questions share it
            video = self.backbone.precompute_video(trunk, num_frames).of(batch["of_video"])  # of Q
            text = self.backbone.trunk_text(batch["text"])
            cls = self.backbone.fused_video_cls(video, num_frames, *text)  # (Q, D)
        return self.answer_head(cls)

    def training_step(self, batch: AnswerBatch, batch_idx: int) -> Tensor:
        logits = self(batch)
        loss = F.cross_entropy(logits.float(), batch["answer"], reduction="sum")
        # Videos may have different numbers of questions.
        loss = loss * world_size() / all_reduce_sum(len(logits), self.device)
        self.log_losses({"loss": loss}, len(logits))
        return loss

    def update_metric(self, metric: AnswerAccuracy, batch: AnswerBatch) -> None:
        answers = self(batch).argmax(1) if batch["key"] else batch["answer"]
        right = torch.stack([answers == batch["answer"], batch["guess"] == batch["answer"]], dim=1)  # (Q, 2)
        metric.update(batch["index"], right, batch["kinds"], batch["kind_names"])

    def predict_step(self, batch: AnswerBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Best answers to each question and their probabilities."""
        if not batch["key"]:
            return []
        best = self(batch).float().softmax(-1).topk(min(_BEST, self.num_answers))
        return [{"question_id": key, "answers": [batch["answers"][i] for i in indices], "probabilities": values}
                for key, indices, values in zip(batch["key"], best.indices.tolist(), best.values.tolist(), strict=True)]

    def on_fit_start(self) -> None:
        self.can_answer = True
        self._check_answers()

    def on_test_start(self) -> None:
        self._require_head()

    def on_predict_start(self) -> None:
        self._require_head()

    def on_validation_start(self) -> None:
        self._require_head()

    def _check_answers(self) -> None:
        """Refuse another answer set: class ids are valid only for the same answers in the same order."""
        theirs, ours = self.trained_on.get("answers"), self.data.answers
        if theirs and len(theirs) == len(ours) and theirs != ours:  # `forward` checks the length
            other = next(i for i, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1])
            raise ValueError(f"{self.weights} was trained with another answer set (line {other + 1} was "
                             f"{theirs[other]!r} and is {ours[other]!r}): give it data of its own, or start from "
                             "pre-trained weights")

    def _require_head(self) -> None:
        self._check_answers()
        if not self.can_answer:
            raise ValueError(f"{self.weights} has no answer head: `make finetune-taskqa` trains one; give its "
                             "checkpoint as model.init_args.weights")

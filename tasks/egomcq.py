"""EgoMCQ: which of five clips does a text tell of? Answered by the gate closed, open, and by both."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egovlpv2.batch import ChoiceBatch
from egovlpv2.metrics.egomcq import EgoMCQAccuracy
from egovlpv2.model.backbone import Backbone, Trunk
from egovlpv2.model.config import BackboneConfig
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.base import BackboneTask

SCORES = ("dual", "fusion", "ensemble")
JudgedBy = Literal["intra", "inter", "mean"]


def choice_scores(backbone: Backbone, batch: ChoiceBatch, names: Sequence[str] = SCORES) -> dict[str, Tensor]:
    """How well each clip fits its question's text.

    Returns:
        Scores (Q, 5): `dual` cosine, `fusion` probability of a match, `ensemble` their sum (paper, Table 8); `dual`
        alone if no other is named.
    """
    choices, num_frames = batch["video"].shape[1:3]
    video = batch["video"].flatten(0, 1)  # (Q*5, T, 3, H, W)
    text, mask = backbone.trunk_text(batch["text"])  # (Q, L, D)
    clips = backbone.trunk_video(video)  # (Q*5, S, D)
    video_embeds = backbone.project_video(backbone.top_video(clips, num_frames, cls_only=True)[:, 0])  # (Q*5, P)
    text_embeds = backbone.project_text(backbone.top_text(text, mask)[:, 0])  # (Q, P)
    dual = F.cosine_similarity(text_embeds[:, None].float(), video_embeds.unflatten(0, (-1, choices)).float(), dim=-1)
    if tuple(names) == ("dual",):
        return {"dual": dual}
    if not backbone.shares_trunk:
        clips = backbone.trunk_video(video, gate=True)
    pairs = Trunk(clips, text.repeat_interleave(choices, 0), mask.repeat_interleave(choices, 0))
    logits = backbone.vtm_logits_from(backbone.top(pairs, num_frames, True, "cls"))  # (Q*5, 2)
    fusion = logits.float().softmax(-1)[:, 1].unflatten(0, (-1, choices))  # (Q, 5)
    return {"dual": dual, "fusion": fusion, "ensemble": dual + fusion}


class EgoMCQ(BackboneTask):
    """Zero-shot EgoMCQ: `egovlpv2 validate` and `egovlpv2 test`.

    Args:
        backbone: What the backbone is made of.
        optimizer: Not used by evaluation; tasks that train build on this one.
        weights: Weights to evaluate.
        monitor: Which accuracy is `val/score`, that picks the checkpoint: of the `intra` (paper) or `inter`-video
            questions, or their `mean`. Where a file has no questions of that kind, the others' counts.
    """

    def __init__(self, backbone: BackboneConfig, optimizer: OptimizerConfig, weights: str | None = None,
                 monitor: JudgedBy = "intra") -> None:
        super().__init__(backbone, optimizer, weights)
        self.scores, self.monitor = SCORES, monitor
        self.accuracy = nn.ModuleDict({
            split: nn.ModuleDict({score: EgoMCQAccuracy() for score in SCORES}) for split in ("val", "test")
        })

    def validation_step(self, batch: ChoiceBatch, batch_idx: int) -> None:
        self._count("val", batch)

    def test_step(self, batch: ChoiceBatch, batch_idx: int) -> None:
        self._count("test", batch)

    def predict_step(self, batch: ChoiceBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Key, scores, answer and kind of each question that could be read, in the order of the file."""
        scores = choice_scores(self.backbone, batch, self.scores) if len(batch["answer"]) else {}
        rows = [{name: values[i].tolist() for name, values in scores.items()} for i in range(len(batch["answer"]))]
        return [{"question": key} | row | {"answer": int(answer), "types": int(kind)}
                for key, row, answer, kind in zip(batch["key"], rows, batch["answer"], batch["kind"], strict=True)]

    def on_validation_epoch_end(self) -> None:
        self._log_accuracy("val")

    def on_test_epoch_end(self) -> None:
        self._log_accuracy("test")

    @torch.no_grad()
    def _count(self, split: str, batch: ChoiceBatch) -> None:
        if not len(batch["answer"]):  # none of its questions could be read, or this process has one batch less
            return
        for name, scores in choice_scores(self.backbone, batch, self.scores).items():
            self.accuracy[split][name].update(scores, batch["answer"], batch["kind"])

    def _log_accuracy(self, split: str) -> None:
        best = self.scores[-1]
        for name in self.scores:
            metric = self.accuracy[split][name]
            kinds = metric.compute()
            if name == best and kinds:
                self.log(f"{split}/score", kinds.get(self.monitor, sum(kinds.values()) / len(kinds)))
            self.log_dict({f"{split}/egomcq/{name}/{kind}": value for kind, value in kinds.items()},
                          prog_bar=name == best)
            metric.reset()

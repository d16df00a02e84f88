"""EgoHOIBench: tell a clip's text from texts with another verb or noun; zero-shot, or trained with hard negatives."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from egovlpv2.batch import HardNegativeBatch, SentenceBatch
from egovlpv2.distributed import gather
from egovlpv2.losses import Positives, ego_nce, hard_negative_nce
from egovlpv2.metrics.egohoi import HOIAccuracy
from egovlpv2.model.config import BackboneConfig
from egovlpv2.model.freeze import freeze_fusion
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.base import BackboneTask
from egovlpv2.tasks.metric_task import MetricTask

Objective = Literal["ego_nce_plus_plus", "ego_nce"]


class EgoHOI(MetricTask, BackboneTask):
    """Train a second stage with hard-negative texts, and evaluate on EgoHOIBench; the gate is closed.

    The video tower is trained; the text tower and both projectors keep their weights, and so does all that only the
    open gate uses.

    Args:
        backbone: Configuration of the backbone.
        optimizer: The optimiser and its schedule.
        weights: Weights to start from.
        objective: Loss: EgoNCE++, or EgoNCE, which leaves the hard negatives out, to compare with.
        positives: The rows that EgoNCE treats as the same action; EgoNCE++ has rules of its own.
        temperature: Divisor of the cosines.
        monitor: The accuracy that is `val/score`.
    """

    name = "egohoi"

    def __init__(self, backbone: BackboneConfig, optimizer: OptimizerConfig, weights: str | None = None,
                 objective: Objective = "ego_nce_plus_plus", positives: Positives = "verb_or_noun",
                 temperature: float = 0.05, monitor: Literal["verb", "noun", "action"] = "action") -> None:
        super().__init__(backbone, optimizer, weights)
        self.objective, self.positives, self.temperature, self.monitor = objective, positives, temperature, monitor
        self.backbone.requires_grad_(False)
        self.backbone.video_tower.requires_grad_(True)
        freeze_fusion(self.backbone)
        self.make_metrics(HOIAccuracy)

    @property
    def protocol(self) -> dict[str, Any]:
        positives = {"positives": self.positives} if self.objective == "ego_nce" else {}
        return super().protocol | {"objective": self.objective, "temperature": self.temperature,
                                   "monitor": self.monitor, "scores": "dual"} | positives

    def train(self, mode: bool = True) -> "EgoHOI":
        super().train(mode)
        self.backbone.text_tower.eval()  # no dropout in frozen layers
        return self

    def training_step(self, batch: HardNegativeBatch, batch_idx: int) -> Tensor:
        total, losses = self.losses(batch)
        found = batch["hard_mask"].sum(2).float().mean(0)  # (2,)
        counts = {"verb_negatives": found[0], "noun_negatives": found[1]} if self._has_hard_negatives else {}
        self.log_losses({"loss": total} | losses | counts, len(batch["video"]))
        return total

    def losses(self, batch: HardNegativeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the whole batch, and its parts by name."""
        video, text = self._embed(batch)  # (B, P)
        hard = self._hard_scores(batch, video).flatten(1) if self._has_hard_negatives else None  # (B, 2K)
        video, text, nouns = gather(video), gather(text), gather(batch["nouns"])  # (n, ...)
        with torch.autocast(self.device.type, enabled=False):  # in bfloat16 a cosine is a hundredth off
            similarity = text @ video.T  # (n, n)
        if hard is None:
            return ego_nce(similarity, gather(batch["verbs"]), nouns, self.temperature, self.positives), {}
        mask = gather(batch["hard_mask"].flatten(1).long()).bool()  # (n, 2K)
        halves = hard_negative_nce(similarity, gather(hard), nouns, self.temperature, mask)
        return halves.text_to_video + halves.video_to_text, halves._asdict()

    @property
    def _has_hard_negatives(self) -> bool:
        return self.objective == "ego_nce_plus_plus"

    def _embed(self, batch: HardNegativeBatch | SentenceBatch) -> tuple[Tensor, Tensor]:
        """Embeddings of length 1 of clips and their texts, (B, P) each."""
        with torch.no_grad():
            text = F.normalize(self.backbone.embed_text(batch["text"]).float(), dim=-1)
        return F.normalize(self.backbone.embed_video(batch["video"]).float(), dim=-1), text

    def _hard_scores(self, batch: HardNegativeBatch | SentenceBatch, video: Tensor) -> Tensor:
        """Cosines (B, 2, K) of embedded clips with their hard-negative texts."""
        with torch.no_grad():
            hard = F.normalize(self.backbone.embed_text(batch["hard_text"]).float(), dim=-1)  # (B*2K, P)
        with torch.autocast(self.device.type, enabled=False):
            return (hard.view(*batch["hard_mask"].shape, -1) * video[:, None, None]).sum(-1)

    def update_metric(self, metric: HOIAccuracy, batch: SentenceBatch) -> None:
        if len(batch["video"]):
            metric.update(*self._scores(batch), batch["hard_mask"])

    def _scores(self, batch: SentenceBatch) -> tuple[Tensor, Tensor]:
        """Cosines of clips with their own texts (Q,) and with the others (Q, 2, K)."""
        video, text = self._embed(batch)
        return (video * text).sum(-1), self._hard_scores(batch, video)

    def predict_step(self, batch: SentenceBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Line of each clip that could be read, and scores of its own text and the others, in the file's order."""
        if not len(batch["video"]):
            return []
        own, others = self._scores(batch)
        mask = batch["hard_mask"]
        return [{"line": line, "own": float(own[i]), "verbs": others[i, 0][mask[i, 0]].tolist(),
                 "nouns": others[i, 1][mask[i, 1]].tolist()} for i, line in enumerate(batch["key"])]

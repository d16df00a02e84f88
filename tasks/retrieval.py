"""What the retrieval tasks share: the closed gate compares clips and texts, the open one may look again at the best."""

import time
from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egovlpv2.batch import RetrievalBatch, RetrievalPairs, Text, TextBatch
from egovlpv2.distributed import gather
from egovlpv2.metrics.ranking import dual_softmax
from egovlpv2.metrics.retrieval import RetrievalScores, ScoredClips, rankings
from egovlpv2.model.backbone import Trunk
from egovlpv2.model.config import BackboneConfig
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.base import BackboneTask

_BEST = 10  # texts of a clip that `egovlpv2 predict` writes


class EncodedTexts(NamedTuple):
    """Texts as clips are compared with them."""

    embeds: Tensor  # (M, P) of length 1
    trunk: Tensor  # (M, L, D), what the open gate starts from
    mask: Tensor  # (M, L) bool


class Retrieval(BackboneTask):
    """Finds texts for clips and clips for texts.

    Training and ranking have the gate closed. With `rerank`, the `rerank` best texts of each clip are scored again with
    the gate open, and that one score of a pair serves both directions.

    Args:
        backbone: What the backbone is made of.
        optimizer: How it learns; what only the open gate uses is left as it is.
        weights: Weights to start from.
        num_frames: Frames of the clips it learns from; see `BackboneTask`.
        rerank: How many texts of a clip to match with the gate open; 0: none.
        dual_softmax: Temperature of a softmax over texts and over clips before ranking; null: none.
    """

    name: ClassVar[str]  # in the log
    monitor: ClassVar[tuple[str, ...]]  # the metrics whose mean picks the checkpoint

    def __init__(self, backbone: BackboneConfig, optimizer: OptimizerConfig, weights: str | None = None,
                 num_frames: int | None = None, rerank: int = 0, dual_softmax: float | None = None) -> None:
        super().__init__(backbone, optimizer, weights, num_frames)
        if rerank < 0 or (dual_softmax is not None and dual_softmax <= 0):
            raise ValueError(f"rerank={rerank} must be at least 0 and dual_softmax={dual_softmax} above 0")
        self.backbone.freeze_fusion()
        self.rerank, self.dual_softmax = rerank, dual_softmax
        self.scores = nn.ModuleDict({split: RetrievalScores() for split in ("val", "test")})
        self._start_evaluation()

    @abstractmethod
    def loss(self, similarity: Tensor, relevancy: Tensor) -> Tensor:
        """The objective of n pairs.

        Args:
            similarity: (n, n) cosines, clips x texts.
            relevancy: (n, n), 0 to 1.
        """

    @abstractmethod
    def measure(self, scores: Tensor, relevancy: Tensor) -> dict[str, float]:
        """Metrics in % of (N, M) scores."""

    @property
    def protocol(self) -> dict[str, Any]:
        """What a reader of the numbers must know of the model, and what the open gate cost (on the first process)."""
        cost = {"rerank_pairs": self._pairs, "rerank_seconds": round(self._seconds["fusion"], 1),
                "dual_seconds": round(self._seconds["dual"], 1)}
        options = {"rerank": self.rerank, "dual_softmax": self.dual_softmax}
        return super().protocol | options | (cost if self.rerank else {})

    # ---- training ---------------------------------------------------------------------------------------------------

    def training_step(self, batch: RetrievalPairs, batch_idx: int) -> Tensor:
        video_embeds = gather(_normalised(self.backbone.embed_video(batch["video"])))  # (n, P)
        text_embeds = gather(_normalised(self.backbone.embed_text(batch["text"])))  # (n, P)
        relevancy = gather(batch["relevancy"][:, gather(batch["target"])])  # (n, n)
        if len(video_embeds) < 2 and batch_idx == 0:  # all are of one clip, not just an epoch's last
            raise ValueError("A batch of one clip has nothing to compare it with: raise data.init_args.batch_size.")
        with torch.autocast(self.device.type, enabled=False):  # in bfloat16 a cosine is a hundredth off
            loss = self.loss(video_embeds @ text_embeds.T, relevancy)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["video"]))
        return loss

    # ---- evaluation -------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation()

    def on_test_epoch_start(self) -> None:
        self._start_evaluation()

    def on_predict_epoch_start(self) -> None:
        self._start_evaluation()

    def validation_step(self, batch: TextBatch | RetrievalBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._score("val", batch)

    def test_step(self, batch: TextBatch | RetrievalBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._score("test", batch)

    def predict_step(self, batch: TextBatch | RetrievalBatch, batch_idx: int, dataloader_idx: int = 0
                     ) -> list[dict[str, Any]]:
        """Of each clip that could be read its key, and the places (from 0) and scores of the texts that fit best.

        The scores are cosines, or `ensemble` with `rerank`. No dual softmax: that would need all clips.
        """
        if "video" not in batch:
            self._texts.append(self._encode(batch["text"]))
            return []
        scores = rankings(ScoredClips(batch["relevancy"], *self._compare(batch["video"])))
        best = scores.get("ensemble", scores["dual"]).sort(dim=1, descending=True)
        return [{"clip": key, "texts": places[:_BEST], "scores": values[:_BEST]} for key, places, values
                in zip(batch["key"], best.indices.tolist(), best.values.tolist(), strict=True)]

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _start_evaluation(self) -> None:
        self._texts: list[EncodedTexts] = []
        self._pairs = 0
        self._seconds = {"dual": 0.0, "fusion": 0.0}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()

    @torch.no_grad()
    def _score(self, split: str, batch: TextBatch | RetrievalBatch) -> None:
        if "video" not in batch:
            self._texts.append(self._encode(batch["text"]))
            return
        dual, match = self._compare(batch["video"])
        if dual.shape[1] != batch["relevancy"].shape[1]:
            raise ValueError(f"{dual.shape[1]} texts were read and the clips have relevancies to "
                             f"{batch['relevancy'].shape[1]}: trainer.limit_*_batches and fast_dev_run limit the texts"
                             " too; leave them out where you evaluate retrieval")
        self.scores[split].update(batch["index"], batch["relevancy"], dual, match)

    def _encode(self, text: Text) -> EncodedTexts:
        trunk, mask = self.backbone.trunk_text(text)
        embeds = _normalised(self.backbone.project_text(self.backbone.top_text(trunk, mask)[:, 0]))
        return EncodedTexts(embeds, trunk, mask) if self.rerank else EncodedTexts(embeds, trunk[:0], mask[:0])

    def _compare(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, 3, H, W) -> cosines (B, M) with all texts, and probabilities of a match (B, M), or (B, 0)."""
        if len(self._texts) > 1:
            self._texts = [EncodedTexts(*map(torch.cat, zip(*self._texts, strict=True)))]
        texts, num_frames = self._texts[0], video.shape[1]
        if not len(video):  # none of the clips could be read, or this process has one batch less
            none = texts.embeds.new_empty(0, len(texts.embeds))
            return none, none if self.rerank else none[:, :0]
        began = self._now() if self.rerank else 0.0
        trunk = self.backbone.trunk_video(video)  # (B, S, D)
        states = self.backbone.top_video(trunk, num_frames, cls_only=True)  # (B, 1, D)
        embeds = _normalised(self.backbone.project_video(states[:, 0]))
        with torch.autocast(self.device.type, enabled=False):
            dual = embeds @ texts.embeds.T  # (B, M)
        if not self.rerank:
            return dual, dual[:, :0]
        best = dual.topk(min(self.rerank, dual.shape[1])).indices  # (B, k)
        opened = self._now()
        if not self.backbone.shares_trunk:
            trunk = self.backbone.trunk_video(video, gate=True)
        match = self._match(trunk, texts, best, num_frames)
        self._seconds["dual"] += opened - began
        self._seconds["fusion"] += self._now() - opened
        return dual, torch.full_like(dual, torch.nan).scatter_(1, best, match)

    def _match(self, trunk: Tensor, texts: EncodedTexts, best: Tensor, num_frames: int) -> Tensor:
        """(B, k) texts of each clip -> (B, k) probabilities of a match, one place at a time: memory stays flat."""
        columns = []
        for text in best.T:  # (B,)
            pairs = Trunk(trunk, texts.trunk[text], texts.mask[text])
            logits = self.backbone.vtm_logits_from(self.backbone.top(pairs, num_frames, True, "cls"))
            columns.append(logits.float().softmax(-1)[:, 1])
        self._pairs += best.numel()
        return torch.stack(columns, dim=1)

    def _log_metrics(self, split: str) -> None:
        scored = self.scores[split].compute()
        self.scores[split].reset()
        if not len(scored.dual):
            raise ValueError(f"{split}: no clip could be read, so there is nothing to evaluate")
        if not scored.dual.isfinite().all():
            raise ValueError(f"{split}: the embeddings are not finite, the training has diverged: lower "
                             "model.init_args.optimizer.lr, or look at the weights")
        unfit = (scored.relevancy.max(0).values < 1).sum()  # no clip to find: mean average precision leaves them out
        self.log(f"{split}/{self.name}/texts_without_clip", unfit.float())
        for name, scores in rankings(scored).items():
            if self.dual_softmax is not None and name != "chance":
                scores = dual_softmax(scores, self.dual_softmax)
            metrics = self.measure(scores, scored.relevancy)
            self.log_dict({f"{split}/{self.name}/{name}/{metric}": value for metric, value in metrics.items()})
            if name == "dual":  # what is trained picks the checkpoint
                self.log(f"{split}/score", sum(metrics[m] for m in self.monitor) / len(self.monitor), prog_bar=True)


def _normalised(embeds: Tensor) -> Tensor:
    return F.normalize(embeds.float(), dim=-1)

"""Base class of the retrieval tasks: ranking with the gate closed, optionally reranking with the gate open."""

import time
from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from egovlpv2.batch import RetrievalBatch, RetrievalPairs, Text, TextBatch
from egovlpv2.distributed import gather, local_shard
from egovlpv2.metrics.ranking import dual_softmax
from egovlpv2.metrics.retrieval import RetrievalScores, ScoredClips, rankings
from egovlpv2.model.config import BackboneConfig
from egovlpv2.model.freeze import freeze_fusion
from egovlpv2.model.outputs import Trunk
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.base import BackboneTask
from egovlpv2.tasks.matching import draw_pairs, match_logits
from egovlpv2.tasks.metric_task import MetricTask, Split

EvalBatch: TypeAlias = TextBatch | RetrievalBatch  # all texts come first, then the clips

_BEST = 10  # texts of a clip that `egovlpv2 predict` writes


class EncodedTexts(NamedTuple):
    """Encoded texts."""

    embeds: Tensor  # (M, P) of length 1
    trunk: Tensor  # (M, L, D), input of the fused layers
    mask: Tensor  # (M, L) bool


class Retrieval(MetricTask, BackboneTask):
    """Base class of text-to-video and video-to-text retrieval.

    Ranking has the gate closed. With `rerank`, the `rerank` best texts of each clip are scored again with the gate
    open, and that score of a pair is used in both directions.

    Training has the gate closed too, unless `match_weight` also trains the fused layers and the match head: on the
    clips' own texts, and on other texts and clips of the batch, drawn the more often the more similar they are. The
    target of a pair is its relevancy.

    Args:
        backbone: Configuration of the backbone.
        optimizer: The optimiser and its schedule; parameters that nothing trains are frozen.
        weights: Weights to start from.
        num_frames: Frames of the training clips; see `BackboneTask`.
        rerank: Number of texts of a clip to match with the gate open; 0: none.
        rerank_weight: Factor of the probability of a match, which is added to the cosine.
        match_weight: Weight of video-text matching beside the retrieval loss in training; 0: none.
        negative_temperature: Temperature of the sampling of pairs to match: the lower, the harder they are.
        dual_softmax: Temperature of a softmax over texts and over clips before ranking; null: none.
    """

    monitored: ClassVar[tuple[str, ...]]  # the metrics whose mean ranks checkpoints

    def __init__(self, backbone: BackboneConfig, optimizer: OptimizerConfig, weights: str | None = None,
                 num_frames: int | None = None, rerank: int = 0, rerank_weight: float = 1.0, match_weight: float = 0.0,
                 negative_temperature: float = 0.05, dual_softmax: float | None = None) -> None:
        super().__init__(backbone, optimizer, weights, num_frames)
        if rerank < 0 or (dual_softmax is not None and dual_softmax <= 0):
            raise ValueError(f"rerank={rerank} must be at least 0 and dual_softmax={dual_softmax} above 0")
        if min(rerank_weight, negative_temperature) <= 0 or match_weight < 0:
            raise ValueError(f"rerank_weight={rerank_weight} and negative_temperature={negative_temperature} must be "
                             f"above 0 and match_weight={match_weight} at least 0")
        for option, value in (("rerank", rerank), ("match_weight", match_weight)):
            if value:
                backbone.require_fusion(f"{option}={value}")
        if match_weight:
            self.backbone.masked_word_head.requires_grad_(False)
        else:
            freeze_fusion(self.backbone)
        self.rerank, self.rerank_weight, self.dual_softmax = rerank, rerank_weight, dual_softmax
        self.match_weight, self.negative_temperature = match_weight, negative_temperature
        self.make_metrics(RetrievalScores)
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
        """Metrics in % of (N, M) scores and relevancies."""

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings of the model, for `metrics.json`, and the cost of the open gate (on the first process)."""
        cost = {"rerank_pairs": self._pairs, "rerank_seconds": round(self._seconds["fusion"], 1),
                "dual_seconds": round(self._seconds["dual"], 1)}
        options = {"rerank": self.rerank, "rerank_weight": self.rerank_weight, "dual_softmax": self.dual_softmax,
                   "match_weight": self.match_weight, "negative_temperature": self.negative_temperature}
        return super().protocol | options | (cost if self.rerank else {})

    def training_step(self, batch: RetrievalPairs, batch_idx: int) -> Tensor:
        trunk = Trunk(self.backbone.trunk_video(batch["video"]), *self.backbone.trunk_text(batch["text"]))
        num_frames = batch["video"].shape[1]
        if self.match_weight and self.backbone.shares_trunk:  # both passes read it
            trunk = trunk._replace(attended=self.backbone.attend_first(trunk.video, num_frames))
        dual = self.backbone.top(trunk, num_frames, gate=False, video_output="cls")
        video_embeds = gather(_normalised(self.backbone.project_video(dual.video_cls)))  # (n, P)
        text_embeds = gather(_normalised(self.backbone.project_text(dual.text_cls)))  # (n, P)
        relevancy = gather(batch["relevancy"][:, gather(batch["target"])])  # (n, n)
        if len(video_embeds) < 2 and batch_idx == 0:  # not just an epoch's last batch
            raise ValueError("A batch of one clip has nothing to compare it with: raise data.init_args.batch_size.")
        with torch.autocast(self.device.type, enabled=False):  # in bfloat16 a cosine is a hundredth off
            similarity = video_embeds @ text_embeds.T
            loss = self.loss(similarity, relevancy)
        losses = {"loss": loss}
        if self.match_weight:
            seed = self.step_seed(batch_idx)  # the same on every process
            losses = {"retrieval": loss, "vtm": self._match_loss(batch["video"], trunk, similarity, relevancy, seed)}
            losses = {"loss": loss + self.match_weight * losses["vtm"]} | losses
        self.log_losses(losses, len(batch["video"]))
        return losses["loss"]

    def _match_loss(self, video: Tensor, trunk: Trunk, similarity: Tensor, relevancy: Tensor, seed: int) -> Tensor:
        """Cross-entropy of video-text matching; what is as relevant as a row's own text or clip isn't drawn for it."""
        if not self.backbone.shares_trunk:
            trunk = trunk._replace(video=self.backbone.trunk_video(video, gate=True))
        own = relevancy.diagonal()
        same = (relevancy >= own[:, None]) | (relevancy >= own)  # (n, n) clips x texts
        pairs = draw_pairs(similarity.T, same.T, self.negative_temperature, torch.Generator().manual_seed(seed))
        target = local_shard(relevancy[pairs.video, pairs.text])  # (B,)
        logits = match_logits(self.backbone, trunk, video.shape[1], pairs).float()  # (B, 2)
        return F.cross_entropy(logits, torch.stack([1 - target, target], dim=1))

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation()

    def on_test_epoch_start(self) -> None:
        self._start_evaluation()

    def on_predict_epoch_start(self) -> None:
        self._start_evaluation()

    def predict_step(self, batch: EvalBatch, batch_idx: int, dataloader_idx: int = 0) -> list[dict[str, Any]]:
        """Key of each clip that could be read, and indexes (from 0) and scores of its best texts.

        The scores are cosines, or `ensemble` with `rerank`. No dual softmax: that would need all clips.
        """
        if "video" not in batch:
            self._texts.append(self._encode(batch["text"]))
            return []
        scores = rankings(ScoredClips(batch["relevancy"], *self._compare(batch["video"])), self.rerank_weight)
        best = scores.get("ensemble", scores["dual"]).sort(dim=1, descending=True)
        return [{"clip": key, "texts": texts[:_BEST], "scores": values[:_BEST]} for key, texts, values
                in zip(batch["key"], best.indices.tolist(), best.values.tolist(), strict=True)]

    def update_metric(self, metric: RetrievalScores, batch: EvalBatch) -> None:
        if "video" not in batch:
            self._texts.append(self._encode(batch["text"]))
            return
        dual, match = self._compare(batch["video"])
        if dual.shape[1] != batch["relevancy"].shape[1]:
            raise ValueError(f"{dual.shape[1]} texts were read and the clips have relevancies to "
                             f"{batch['relevancy'].shape[1]}: trainer.limit_*_batches and fast_dev_run limit the texts"
                             " too; leave them out where you evaluate retrieval")
        metric.update(batch["index"], batch["relevancy"], dual, match)

    def summarize(self, split: Split, computed: ScoredClips) -> dict[str, float]:
        """Metrics of each ranking (`dual/map` and the like), and the number of texts without a relevant clip."""
        if not len(computed.dual):
            raise ValueError(f"{split}: no clip could be read, so there is nothing to evaluate")
        if not computed.dual.isfinite().all():
            raise ValueError(f"{split}: the embeddings are not finite, the training has diverged: lower "
                             "model.init_args.optimizer.lr, or look at the weights")
        without_clip = (computed.relevancy.max(0).values < 1).sum()  # mean average precision leaves them out
        values = {"texts_without_clip": float(without_clip)}
        for name, scores in rankings(computed, self.rerank_weight).items():
            if self.dual_softmax is not None and name != "chance":
                scores = dual_softmax(scores, self.dual_softmax)
            values |= {f"{name}/{metric}": value for metric, value in self.measure(scores, computed.relevancy).items()}
        return values

    def score(self, split: Split, values: dict[str, float]) -> float:
        trained = "ensemble" if self.match_weight and self.rerank else "dual"
        return sum(values[f"{trained}/{metric}"] for metric in self.monitored) / len(self.monitored)

    def _start_evaluation(self) -> None:
        self._texts: list[EncodedTexts] = []
        self._pairs = 0
        self._seconds = {"dual": 0.0, "fusion": 0.0}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()

    def _encode(self, text: Text) -> EncodedTexts:
        trunk, mask = self.backbone.trunk_text(text)
        embeds = _normalised(self.backbone.project_text(self.backbone.pooled_text(trunk, mask)))
        return EncodedTexts(embeds, trunk, mask) if self.rerank else EncodedTexts(embeds, trunk[:0], mask[:0])

    def _compare(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines (B, M) of clips (B, T, 3, H, W) with all texts, and probabilities of a match (B, M), or (B, 0)."""
        if len(self._texts) > 1:
            self._texts = [EncodedTexts(*map(torch.cat, zip(*self._texts, strict=True)))]
        texts, num_frames = self._texts[0], video.shape[1]
        if not len(video):  # none of the clips could be read, or this process has one batch less
            none = texts.embeds.new_empty(0, len(texts.embeds))
            return none, none if self.rerank else none[:, :0]
        began = self._now() if self.rerank else 0.0
        trunk = self.backbone.trunk_video(video)  # (B, S, D)
        embeds = _normalised(self.backbone.project_video(self.backbone.pooled_video(trunk, num_frames)))
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
        """Probabilities of a match (B, k) with the best texts (B, k) of each clip, one column at a time for memory."""
        columns, attended = [], self.backbone.attend_first(trunk, num_frames)
        for text in best.T:  # (B,)
            pairs = Trunk(trunk, texts.trunk[text], texts.mask[text], attended)
            logits = self.backbone.vtm_logits_from(self.backbone.top(pairs, num_frames, True, "cls"))
            columns.append(logits.float().softmax(-1)[:, 1])
        self._pairs += best.numel()
        return torch.stack(columns, dim=1)


def _normalised(embeds: Tensor) -> Tensor:
    return F.normalize(embeds.float(), dim=-1)

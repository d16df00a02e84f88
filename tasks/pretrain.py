"""Pre-training: EgoNCE, masked language modelling and video-text matching over one shared trunk."""

from functools import reduce
from math import isfinite
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from egovlpv2.batch import ClipBatch
from egovlpv2.distributed import broadcast_from_rank0, exchange_rows, gather, local_shard, world_size
from egovlpv2.losses import (
    NegativesBy,
    Positives,
    VTMPairs,
    ego_positives,
    mask_tokens,
    multi_positive_nce,
    sample_vtm_pairs,
)
from egovlpv2.model.backbone import Trunk
from egovlpv2.model.config import BackboneConfig
from egovlpv2.model.released_init import init_as_released
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.egomcq import SCORES, EgoMCQTask, Monitor
from egovlpv2.tokenization import load_fitting_tokenizer


class Pretrain(EgoMCQTask):
    """Pre-train a backbone on EgoClip and evaluate it on EgoMCQ.

    The weight of EgoNCE is 1 - `mlm_weight` - `vtm_weight` (paper: 0.25, with 0.25 and 0.5).

    Args:
        backbone: Configuration of the backbone.
        optimizer: The optimiser and its schedule.
        weights: Weights to start from; None: the towers' initial weights.
        init: Initial weights of the layers that the towers don't bring: `released` draws them as the authors' code
            does (see `init_as_released`). With `weights`, nothing is drawn.
        positives: The rows that EgoNCE treats as the same action; `none` is InfoNCE.
        temperature: Temperature of EgoNCE.
        negative_temperature: Temperature of the hard negatives' sampling: the lower, the harder; infinite: uniform.
        mlm_weight: Weight of masked language modelling.
        vtm_weight: Weight of video-text matching; with 0, EgoMCQ is evaluated with the gate closed only.
        masked_share: Share of the tokens to predict.
        negatives_by: The similarity that draws negatives for video-text matching, see `sample_vtm_pairs`.
        monitor: See `EgoMCQ`.
    """

    special_ids: Tensor

    def __init__(self, backbone: BackboneConfig, optimizer: OptimizerConfig, weights: str | None = None,
                 positives: Positives = "verb_or_noun", temperature: float = 0.05, negative_temperature: float = 0.05,
                 mlm_weight: float = 0.25, vtm_weight: float = 0.5, masked_share: float = 0.15,
                 init: Literal["default", "released"] = "default", negatives_by: NegativesBy = "own",
                 monitor: Monitor = "intra") -> None:
        super().__init__(backbone, optimizer, weights)
        if init == "released" and weights is None:
            init_as_released(self.backbone)
        if min(mlm_weight, vtm_weight) < 0 or mlm_weight + vtm_weight > 1:
            raise ValueError(f"mlm_weight={mlm_weight} and vtm_weight={vtm_weight}: EgoNCE's weight is 1 minus both, "
                             "so they must be at least 0 and their sum at most 1")
        self.positives, self.masked_share, self.negatives_by = positives, masked_share, negatives_by
        self.temperature, self.negative_temperature = temperature, negative_temperature
        self.loss_weights = {"ego_nce": 1 - mlm_weight - vtm_weight, "mlm": mlm_weight, "vtm": vtm_weight}
        self.make_choice_metrics(monitor, ("dual",) if vtm_weight == 0 else SCORES)  # the match head is untrained then
        if mlm_weight == vtm_weight == 0:
            self.backbone.freeze_fusion()
        tokenizer = load_fitting_tokenizer(backbone.text.tokenizer, self.backbone.text_tower)
        self.mask_id, self.vocab_size = tokenizer.mask_token_id, len(tokenizer)
        self.register_buffer("special_ids", torch.tensor(tokenizer.all_special_ids), persistent=False)

    @property
    def protocol(self) -> dict[str, Any]:
        negatives = self.negative_temperature if isfinite(self.negative_temperature) else "any"  # no infinity in JSON
        return super().protocol | {"positives": self.positives, "loss_weights": self.loss_weights,
                                   "negative_temperature": negatives, "negatives_by": self.negatives_by,
                                   "monitor": self.monitor}

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        # The generator is the same on every process: all draw the pairs and masks of the whole batch.
        losses = self.objectives(batch, torch.Generator().manual_seed(self.step_seed(batch_idx)))
        total = reduce(torch.add, (self.loss_weights[name] * loss for name, loss in losses.items()))
        self.log_losses({"loss": total} | losses, len(batch["video"]))
        return total

    def objectives(self, batch: ClipBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of this process; their mean over all processes is the loss of the whole batch.

        Args:
            batch: Clips of this process.
            generator: In the same state on every process.
        """
        backbone, num_frames = self.backbone, batch["video"].shape[1]
        trunk = backbone.trunk(batch["video"], batch["text"], gate=False)
        dual = backbone.top(trunk, num_frames, gate=False, video_output="cls")
        assert dual.video is not None and dual.text is not None
        video_embeds = gather(F.normalize(backbone.project_video(dual.video[:, 0]).float(), dim=-1))  # (n, P)
        text_embeds = gather(F.normalize(backbone.project_text(dual.text[:, 0]).float(), dim=-1))  # (n, P)
        with torch.autocast(self.device.type, enabled=False):  # in bfloat16 a logit is a tenth off
            similarity = text_embeds @ video_embeds.T  # (n, n)
        positives = ego_positives(gather(batch["verbs"]), gather(batch["nouns"]), self.positives)
        losses = {"ego_nce": multi_positive_nce(similarity, positives, self.temperature)}
        if self.loss_weights["mlm"] == self.loss_weights["vtm"] == 0:
            return losses
        # Compute both even if one has no weight: DDP waits for a gradient of each parameter.
        if not backbone.shares_trunk:
            trunk = trunk._replace(video=backbone.trunk_video(batch["video"], gate=True))
        losses["vtm"] = self._matching(trunk, num_frames, similarity.detach(), positives, generator)
        losses["mlm"] = self._masked_tokens(trunk, num_frames, batch, generator)
        return losses

    def _matching(self, trunk: Trunk, num_frames: int, similarity: Tensor, positives: Tensor,
                  generator: torch.Generator) -> Tensor:
        """Loss of video-text matching; hard negatives of other processes come as trunk states, not as pixels."""
        # Rank 0 draws for all: a similarity that differs in its last bit could draw another pair on another process.
        drawn = sample_vtm_pairs(similarity, positives, self.negative_temperature, generator, self.negatives_by)
        pairs = VTMPairs(*map(broadcast_from_rank0, drawn))
        mask = local_shard(gather(trunk.mask.long())[pairs.text]).bool()
        matched = Trunk(exchange_rows(trunk.video, pairs.video), exchange_rows(trunk.text, pairs.text), mask)
        logits = self.backbone.vtm_logits_from(self.backbone.top(matched, num_frames, True, "cls"))
        return F.cross_entropy(logits.float(), local_shard(pairs.is_match))

    def _masked_tokens(self, trunk: Trunk, num_frames: int, batch: ClipBatch, generator: torch.Generator) -> Tensor:
        """Loss of masked language modelling, over the masked tokens of all processes."""
        input_ids = gather(batch["text"]["input_ids"])
        maskable = ~torch.isin(input_ids, self.special_ids)
        masked = mask_tokens(input_ids, maskable, self.mask_id, self.vocab_size, self.masked_share, generator)
        ids, chosen = local_shard(masked.input_ids), local_shard(masked.chosen)
        text, mask = self.backbone.trunk_text({**batch["text"], "input_ids": ids})
        states = self.backbone.top(Trunk(trunk.video, text, mask), num_frames, True, "none").text  # (B, L, D)
        assert states is not None
        logits = self.backbone.mlm_logits_from(states[chosen])  # (tokens, V)
        loss = F.cross_entropy(logits.float(), batch["text"]["input_ids"][chosen], reduction="sum")
        return loss * world_size() / masked.chosen.sum().clamp(min=1)

    def on_train_epoch_end(self) -> None:
        for tower in ("video", "text"):
            for i, block in enumerate(getattr(self.backbone, f"{tower}_tower").blocks):
                if block.fusion is not None:
                    self.log(f"alpha/{tower}/{i}", block.fusion.alpha.detach().squeeze())

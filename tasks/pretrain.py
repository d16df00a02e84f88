"""Pre-training: EgoNCE, masked language modelling and video-text matching over one shared trunk."""

from functools import partial
from math import inf, isfinite
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egovlpv2.batch import ClipBatch
from egovlpv2.distributed import gather, local_shard, world_size
from egovlpv2.gradients import Cut, in_parts
from egovlpv2.losses import (
    MaskedTokens,
    NegativesBy,
    Positives,
    ego_positives,
    mask_tokens,
    multi_positive_nce,
)
from egovlpv2.model.config import BackboneConfig
from egovlpv2.model.freeze import freeze_fusion
from egovlpv2.model.outputs import Trunk
from egovlpv2.model.released_init import init_as_released
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.egomcq import SCORES, EgoMCQTask, Monitor
from egovlpv2.tasks.matching import draw_pairs, match_logits
from egovlpv2.tokenization import check_tokenizer, load_tokenizer, mask_token_id

_IGNORED = -100  # in place of a token that is not to be predicted
_CENTRE_RATE = 0.1  # share of a batch's mean that is taken off a projector's bias
_SHORTEST = 1e-3  # of an embedding's length without its bias: what is shorter after centring is not scaled to length 1


class Objectives(NamedTuple):
    """Losses of a step."""

    total: Tensor  # weighted sum, to be differentiated
    losses: dict[str, Tensor]  # by name, without a graph


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
        end_negative_temperature: Temperature of that sampling at the last step, to which it falls linearly; None: it
            stays. A model without pre-trained weights learns nothing from the hardest negatives at first.
        pairs_per_clip: Pairs to match for each clip of a batch; half of them are matches.
        mlm_weight: Weight of masked language modelling.
        vtm_weight: Weight of video-text matching; with 0, EgoMCQ is evaluated with the gate closed only.
        masked_share: Share of the tokens to predict.
        negatives_by: The similarity that draws negatives for video-text matching, see `sample_vtm_pairs`.
        monitor: See `EgoMCQ`.
        contrastive_batch: Rows in the losses of a step on one device, a multiple of `data.batch_size`, the rows whose
            activations are in memory at a time. A third more is computed. None: `data.batch_size`.
        center_embeddings: Subtract the mean of a step's embeddings, of clips and of texts, before EgoNCE. A new text
            tower gives nearly the same embedding to all texts, and takes several times the steps to tell actions apart.
    """

    special_ids: Tensor
    cut: ClassVar[type[Cut]] = Cut

    def __init__(self, backbone: BackboneConfig, optimizer: OptimizerConfig, weights: str | None = None,
                 positives: Positives = "verb_or_noun", temperature: float = 0.05, negative_temperature: float = 0.05,
                 mlm_weight: float = 0.25, vtm_weight: float = 0.5, masked_share: float = 0.15,
                 init: Literal["default", "released"] = "default", negatives_by: NegativesBy = "own",
                 monitor: Monitor = "intra", contrastive_batch: int | None = None,
                 end_negative_temperature: float | None = None, pairs_per_clip: int = 1,
                 center_embeddings: bool = False) -> None:
        if mlm_weight or vtm_weight:
            backbone.require_fusion(f"mlm_weight={mlm_weight} and vtm_weight={vtm_weight}")
        tokenizer = load_tokenizer(backbone.text.tokenizer)  # before the weights, which take longer
        super().__init__(backbone, optimizer, weights)
        check_tokenizer(tokenizer, self.backbone.text_tower, backbone.text.tokenizer)
        if init == "released" and weights is None:
            init_as_released(self.backbone)
        if min(mlm_weight, vtm_weight) < 0 or mlm_weight + vtm_weight > 1:
            raise ValueError(f"mlm_weight={mlm_weight} and vtm_weight={vtm_weight}: EgoNCE's weight is 1 minus both, "
                             "so they must be at least 0 and their sum at most 1")
        if contrastive_batch is not None and contrastive_batch < 1:
            raise ValueError(f"contrastive_batch={contrastive_batch}: give null, or a multiple of data.batch_size")
        self.contrastive_batch = contrastive_batch
        self.positives, self.masked_share, self.negatives_by = positives, masked_share, negatives_by
        self.temperature, self.negative_temperature = temperature, negative_temperature
        if end_negative_temperature is not None and not 0 < end_negative_temperature <= negative_temperature < inf:
            raise ValueError(f"end_negative_temperature={end_negative_temperature} must be above 0 and at most "
                             f"negative_temperature={negative_temperature}, which must be finite then")
        if pairs_per_clip < 1:
            raise ValueError(f"pairs_per_clip={pairs_per_clip} must be at least 1; vtm_weight=0 leaves matching out")
        self.end_negative_temperature, self.pairs_per_clip = end_negative_temperature, pairs_per_clip
        self.sampling_temperature = negative_temperature  # of this step
        if center_embeddings and backbone.linear_projector:
            raise ValueError("center_embeddings needs projectors with a bias, and linear_projector has none")
        self.center_embeddings = center_embeddings
        self.loss_weights = {"ego_nce": 1 - mlm_weight - vtm_weight, "mlm": mlm_weight, "vtm": vtm_weight}
        self.make_choice_metrics(monitor, ("dual",) if vtm_weight == 0 else SCORES)  # the match head is untrained then
        if mlm_weight == vtm_weight == 0:
            freeze_fusion(self.backbone)
        self.vocab_size = len(tokenizer)
        self.mask_id = mask_token_id(tokenizer, self.backbone.text_tower) if mlm_weight else 0  # not learned then
        self.register_buffer("special_ids", torch.tensor(tokenizer.all_special_ids), persistent=False)

    @property
    def protocol(self) -> dict[str, Any]:
        negatives = self.negative_temperature if isfinite(self.negative_temperature) else "any"  # no infinity in JSON
        if self.end_negative_temperature is not None:
            negatives = f"{negatives} to {self.end_negative_temperature}"
        return super().protocol | {"positives": self.positives, "loss_weights": self.loss_weights,
                                   "negative_temperature": negatives, "negatives_by": self.negatives_by,
                                   "pairs_per_clip": self.pairs_per_clip,
                                   "center_embeddings": self.center_embeddings,
                                   "contrastive_batch": self.contrastive_batch}

    def on_train_batch_start(self, batch: ClipBatch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if self.end_negative_temperature is not None:
            done = self.global_step / self.trainer.estimated_stepping_batches  # 0 to 1
            change = self.end_negative_temperature - self.negative_temperature
            self.sampling_temperature = self.negative_temperature + done * change

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        # The generator is the same on every process: all draw the pairs and masks of the whole batch.
        at_a_time = None if self.contrastive_batch is None else self.data.clips_per_row * self.data.batch_size
        total, losses = self.objectives(batch, torch.Generator().manual_seed(self.step_seed(batch_idx)), at_a_time)
        self.log_losses({"loss": total} | losses, len(batch["video"]))
        return total

    def objectives(self, batch: ClipBatch, generator: torch.Generator, at_a_time: int | None = None
                   ) -> Objectives:
        """Losses of this process; their mean over all processes is the loss of the whole batch.

        Args:
            batch: Clips of this process.
            generator: In the same state on every process.
            at_a_time: Clips whose activations are in memory at a time; None for all.
        """
        backbone, cut, weights = self.backbone, self.cut(self.backbone.parameters()), self.loss_weights
        num_frames = batch["video"].shape[1]
        ids, mask = batch["text"]["input_ids"], backbone.text_tower.mask(batch["text"])
        video, attended = self._share_video(cut, batch["video"], at_a_time)
        trunk = Trunk(video, cut.share(in_parts(backbone.trunk_tokens, at_a_time, ids, mask)), mask, attended)
        embed = partial(self._embed, num_frames)
        video_embeds, text_embeds = map(gather, in_parts(embed, at_a_time, *trunk.tensors))  # (n, P)
        if self.center_embeddings:
            video_embeds = _centered(video_embeds, backbone.video_projector)
            text_embeds = _centered(text_embeds, backbone.text_projector)
        else:
            video_embeds, text_embeds = F.normalize(video_embeds, dim=-1), F.normalize(text_embeds, dim=-1)
        with torch.autocast(self.device.type, enabled=False):  # in bfloat16 a logit is a tenth off
            similarity = text_embeds @ video_embeds.T  # (n, n)
        positives = ego_positives(gather(batch["verbs"]), gather(batch["nouns"]), self.positives)
        ego_nce = multi_positive_nce(similarity, positives, self.temperature)
        losses = {"ego_nce": cut.backward(ego_nce, weights["ego_nce"])}
        if weights["mlm"] == weights["vtm"] == 0:
            return Objectives(cut.total(), losses)
        # Compute both even if one has no weight: DDP waits for a gradient of each parameter.
        if not backbone.shares_trunk:
            video, attended = self._share_video(cut, batch["video"], at_a_time, gate=True)
            trunk = trunk._replace(video=video, attended=attended)
        pairs = draw_pairs(similarity, positives, self.sampling_temperature, generator, self.negatives_by,
                           self.pairs_per_clip)
        logits = match_logits(backbone, trunk, num_frames, pairs, at_a_time)  # (pairs of this process, 2)
        losses["vtm"] = cut.backward(F.cross_entropy(logits.float(), local_shard(pairs.is_match)), weights["vtm"])
        masked = self._mask(gather(ids), generator)  # the same on every process
        own = MaskedTokens(*map(local_shard, masked))
        # Shared although one objective uses it: its parameters' gradients don't wait beside the other objectives' then.
        trunk = trunk._replace(text=cut.share(in_parts(backbone.trunk_tokens, at_a_time, own.input_ids, mask)))
        summed = self._masked_tokens(trunk, num_frames, torch.where(own.chosen, ids, _IGNORED), at_a_time)
        losses["mlm"] = cut.backward(summed * world_size() / masked.chosen.sum().clamp(min=1), weights["mlm"])
        return Objectives(cut.total(), losses)

    def _share_video(self, cut: Cut, video: Tensor, at_a_time: int | None, gate: bool = False
                     ) -> tuple[Tensor, Tensor | None]:
        """Trunk states of clips, and the self-attention of the layer above, for all objectives."""
        def run(clips: Tensor) -> tuple[Tensor, ...]:
            states = self.backbone.trunk_video(clips, gate)
            attended = self.backbone.attend_first(states, clips.shape[1])
            return (states,) if attended is None else (states, attended)

        states, *attended = map(cut.share, in_parts(run, at_a_time, video))
        return states, attended[0] if attended else None

    def _embed(self, num_frames: int, *trunk: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of clips and texts, gate closed: (B, P) each."""
        dual = self.backbone.top(Trunk(*trunk), num_frames, gate=False, video_output="cls")
        return (self.backbone.project_video(dual.video_cls).float(), self.backbone.project_text(dual.text_cls).float())

    def _mask(self, ids: Tensor, generator: torch.Generator) -> MaskedTokens:
        maskable = ~torch.isin(ids, self.special_ids)
        return mask_tokens(ids, maskable, self.mask_id, self.vocab_size, self.masked_share, generator)

    def _masked_tokens(self, trunk: Trunk, num_frames: int, target: Tensor, at_a_time: int | None) -> Tensor:
        """Summed loss of masked language modelling, of masked texts and their target tokens (B, L)."""
        def loss(*inputs: Tensor) -> Tensor:
            *trunk, target = inputs
            states = self.backbone.top(Trunk(*trunk), num_frames, True, "none").text  # (B, L, D)
            assert states is not None
            chosen = target != _IGNORED
            logits = self.backbone.mlm_logits_from(states[chosen])  # (tokens, V)
            return F.cross_entropy(logits.float(), target[chosen], reduction="sum")[None]

        return in_parts(loss, at_a_time, *trunk.tensors, target).sum()

    def on_train_epoch_end(self) -> None:
        for tower in ("video", "text"):
            for i, block in enumerate(getattr(self.backbone, f"{tower}_tower").blocks):
                if block.fusion is not None:
                    self.log(f"alpha/{tower}/{i}", block.fusion.alpha.detach().squeeze())


def _centered(embeds: Tensor, projector: nn.Sequential) -> Tensor:
    """Subtract the mean of embeddings (n, P), scale them to length 1, and let the projector's bias follow the mean.

    EgoNCE doesn't depend on the bias then, and the embeddings of an evaluation are centred by it. What is left of
    embeddings that are all the same is rounding errors: those of float32 are not scaled up, those of bfloat16 by a
    factor of a thousand at most.
    """
    bias, mean = projector[-1].bias, embeds.mean(0)
    assert isinstance(bias, nn.Parameter)
    with torch.no_grad():
        shortest = _SHORTEST * (embeds - bias).norm(dim=-1).mean()
        bias.sub_(_CENTRE_RATE * mean)
    centred = embeds - mean
    return centred / centred.norm(dim=-1, keepdim=True).clamp(min=shortest)

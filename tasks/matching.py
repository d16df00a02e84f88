"""Video-text matching of pairs drawn from the whole batch, for pre-training and for fine-tuning on retrieval."""

import torch
from torch import Tensor

from egovlpv2.distributed import broadcast_from_rank0, exchange_rows, gather, rank, world_size
from egovlpv2.gradients import in_parts
from egovlpv2.losses import NegativesBy, VTMPairs, sample_vtm_pairs
from egovlpv2.model.backbone import Backbone
from egovlpv2.model.outputs import Trunk


def draw_pairs(similarity: Tensor, positives: Tensor, temperature: float, generator: torch.Generator,
               negatives_by: NegativesBy = "own", per_clip: int = 1) -> VTMPairs:
    """Draw the pairs of `sample_vtm_pairs`, `per_clip` times, the same on every process.

    Rank 0 draws for all: a similarity that differs in its last bit could draw another pair on another process.
    """
    drawn = [sample_vtm_pairs(similarity.detach(), positives, temperature, generator, negatives_by)
             for _ in range(per_clip)]
    return VTMPairs(*(broadcast_from_rank0(torch.cat(part)) for part in zip(*drawn, strict=True)))


def match_logits(backbone: Backbone, trunk: Trunk, num_frames: int, pairs: VTMPairs, at_a_time: int | None = None
                 ) -> Tensor:
    """Compute video-text matching logits of this process's share of the pairs, (B, 2).

    Rows of other processes come as trunk states, not as pixels.

    Args:
        backbone: The backbone.
        trunk: Outputs of the trunk for this process's rows; for a trunk that isn't shared, those of the open gate.
        num_frames: `T` of the clips.
        pairs: Pairs of the whole batch, the same on every process.
        at_a_time: Pairs whose activations are in memory at a time; None for all.
    """
    def match(videos: Tensor, texts: Tensor) -> Tensor:
        clips = videos.T.flatten()
        matched = Trunk(exchange_rows(trunk.video, clips), exchange_rows(trunk.text, texts.T.flatten()),
                        masks[texts[:, rank()]],
                        None if trunk.attended is None else exchange_rows(trunk.attended, clips))
        return backbone.vtm_logits_from(backbone.top(matched, num_frames, True, "cls"))

    masks = gather(trunk.mask.long()).bool()  # (n, L)
    videos, texts = (rows.view(world_size(), -1).T for rows in (pairs.video, pairs.text))  # (B, processes)
    return in_parts(match, at_a_time, videos, texts)

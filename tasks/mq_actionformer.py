"""Ego4D moment queries: ActionFormer on frozen features."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from egovlpv2.batch import MomentBatch
from egovlpv2.heads.actionformer import ActionFormer, ActionFormerOutput, Variant
from egovlpv2.heads.actionformer_decoding import Decoding, find_moments
from egovlpv2.heads.actionformer_losses import ActionFormerLoss
from egovlpv2.heads.nms import Detections
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.moments import MomentTask, PickedBy


class MQActionFormer(MomentTask):
    """Detect the activities of a clip with ActionFormer; needs `clips_as: cropped` of the data.

    Args:
        optimizer: The head's optimiser and its schedule.
        in_dim: Width of the features.
        num_classes: Number of labels, without the background.
        dim: Width inside the head.
        num_levels: Levels of the head's pyramid; null: 8, or 9 of OpenTAD.
        num_heads: Attention heads.
        window: Steps that a step attends to, itself included; 1 or less: all of them.
        num_full_levels: Coarsest levels on which a step attends to all steps; null: 0, or 3 of OpenTAD.
        max_steps: Length to which clips are padded.
        dropout: In the head's blocks.
        drop_path: Probability to leave out a branch of a block.
        input_dropout: Probability to leave out a channel of the features; null: 0, or 0.2 of OpenTAD.
        variant: The authors' head, or OpenTAD's.
        loss: Settings of the loss; null: the authors'.
        decoding: Settings of the post-processing; null: the authors'.
        picked_by: The validation's mean average precision or its loss ranks checkpoints.
        weights: Weights to start from.
    """

    kind = "actionformer"

    def __init__(self, optimizer: OptimizerConfig, in_dim: int = 4096, num_classes: int = 110, dim: int = 384,
                 num_levels: int | None = None, num_heads: int = 4, window: int = 9, num_full_levels: int | None = None,
                 max_steps: int = 1024, dropout: float = 0.1, drop_path: float = 0.1,
                 input_dropout: float | None = None, variant: Variant = "authors", loss: ActionFormerLoss | None = None,
                 decoding: Decoding | None = None, picked_by: PickedBy = "map", weights: str | None = None) -> None:
        head = ActionFormer(in_dim, num_classes, dim, num_levels, num_heads, window, num_full_levels, max_steps,
                            dropout, drop_path, input_dropout, variant)
        super().__init__(head, optimizer, in_dim, num_classes, picked_by, weights)
        self.loss, self.decoding = loss or ActionFormerLoss(), decoding or Decoding()
        self.settings = {"variant": variant, "dim": dim, "num_levels": head.num_levels, "num_heads": num_heads,
                         "window": window, "num_full_levels": head.num_full_levels, "max_steps": max_steps}
        self.sizes = {"in_dim": in_dim, "decoding": asdict(self.decoding)} | self.settings

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings of the model, for `metrics.json`."""
        return super().protocol | self.settings | {"loss": asdict(self.loss), "decoding": asdict(self.decoding)}

    def setup(self, stage: str) -> None:
        """Refuse clips whose times are shares of their duration."""
        super().setup(stage)
        if getattr(self.data, "clips_as", "cropped") != "cropped":
            raise ValueError("ActionFormer takes clips in all their features: set data.init_args.clips_as=cropped")

    def forward(self, batch: MomentBatch) -> ActionFormerOutput:
        self.check_batch(batch, background=False)
        assert isinstance(self.head, ActionFormer)
        with self.float32():
            return self.head.detect(batch["features"], batch["num_frames"])

    def losses(self, out: ActionFormerOutput, batch: MomentBatch) -> dict[str, Tensor]:
        assert isinstance(self.head, ActionFormer)
        return self.loss(self.head, out, batch["segments"], batch["classes"])

    def moments(self, out: ActionFormerOutput, batch: MomentBatch, classes: list[Tensor]
                ) -> Iterator[tuple[Detections, Detections]]:
        times = torch.stack([batch["step_seconds"], batch["first_seconds"], batch["duration"]], 1)  # (B, 3)
        for i, (step_seconds, first_seconds, duration) in enumerate(times.tolist()):
            found = find_moments(out, i, step_seconds, first_seconds, duration, self.decoding)
            wanted = torch.isin(found.classes, classes[i].cpu())
            yield found, Detections(*(column[wanted] for column in found))


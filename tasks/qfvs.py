"""QFVS: summaries of long videos for two concepts, by a transformer on features of a frozen backbone."""

from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from egovlpv2.batch import SummaryBatch
from egovlpv2.checkpoints.head_weights import read_summary_head
from egovlpv2.heads.summary import Design, ShotScores, SummaryHead
from egovlpv2.metrics.summary import SummaryF1, select
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.base import global_seed
from egovlpv2.tasks.head import HeadTask


class QFVS(HeadTask):
    """A summary head on features of shots that are fused with the query.

    Args:
        optimizer: The head's optimiser and its schedule.
        dim: Width of the features.
        num_layers: Layers of the transformer (paper: 1).
        num_heads: Its attention heads.
        dropout: Its dropout.
        design: Design of the head, see `SummaryHead`.
        share: Share of a video's shots in a summary.
        round_down: Round the number of these shots down, not to the nearest.
        weights: Weights to start from.
    """

    name, kind, monitor = "qfvs", "qfvs", "f1"

    def __init__(self, optimizer: OptimizerConfig, dim: int = 768, num_layers: int = 1, num_heads: int = 2,
                 dropout: float = 0.1, design: Design = "paper", share: float = 0.02, round_down: bool = False,
                 weights: str | None = None) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"model.init_args.share={share}: give a share of the shots above 0 and up to 1")
        self.sizes = {"dim": dim, "num_layers": num_layers, "num_heads": num_heads, "design": design}
        self.trained_on = {} if weights is None else read_summary_head(Path(weights))[1]
        if wrong := [name for name, size in self.sizes.items() if self.trained_on.get(name, size) != size]:
            raise ValueError(f"{weights} was trained with {wrong[0]}={self.trained_on[wrong[0]]}: set model.init_args."
                             f"{wrong[0]} to it")
        super().__init__(SummaryHead(dim, num_layers, num_heads, dropout, design), SummaryF1, optimizer, weights)
        self.dim, self.share, self.round_down = dim, share, round_down

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings of the model, for `metrics.json`."""
        return super().protocol | {"design": self.sizes["design"], "share": self.share, "round_down": self.round_down}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the settings that `egovlpv2 summarize` needs to use this head."""
        super().on_save_checkpoint(checkpoint)
        recipe = self.data.folder.recipe
        checkpoint["egovlpv2"]["qfvs"] = self.sizes | {"kind": recipe.kind, "checkpoint": recipe.checkpoint,
                                                       **self.data.shots.settings}

    def setup(self, stage: str) -> None:
        """Refuse features of other weights, or of another kind, than a trained head's."""
        recipe = self.data.folder.recipe
        for name in ("kind", "checkpoint"):
            if self.trained_on.get(name, getattr(recipe, name)) != getattr(recipe, name):
                raise ValueError(f"{self.weights} was trained on features of {name} {self.trained_on[name]}, and these "
                                 f"are of {name} {getattr(recipe, name)}: give the features that it was trained on")
        super().setup(stage)

    def training_step(self, batch: SummaryBatch, batch_idx: int) -> Tensor:
        scores = self(batch)
        mask = batch["mask"]  # (B, G, n)
        targets = {"first": (scores.concept[:, 0], batch["concepts"][:, 0]),
                   "second": (scores.concept[:, 1], batch["concepts"][:, 1]),
                   "summary": (scores.summary[:, 2], batch["summary"])}
        losses = {name: F.binary_cross_entropy_with_logits(logits[mask].float(), truth[mask])
                  for name, (logits, truth) in targets.items()}
        loss = reduce(torch.add, losses.values())
        self.log_losses({"loss": loss} | losses, len(mask))
        return loss

    def forward(self, batch: SummaryBatch) -> ShotScores:
        """Scores of all shots for all prompts: (B, P, G, n)."""
        self.check_width(batch["features"].shape[-1], self.dim, "dim")
        return self.head(batch["features"], batch["mask"][:, None])

    def update_metric(self, metric: SummaryF1, batch: SummaryBatch) -> None:
        chosen, drawn, wanted = [], [], []
        for scores, truth, index in zip(*self._shots(batch), batch["index"].tolist(), strict=True):
            chosen.append(select(scores, self.share, self.round_down))
            chance = np.random.default_rng((global_seed(), index)).random(len(scores))
            drawn.append(select(chance, self.share, self.round_down))
            wanted.append(truth.nonzero()[0])
        metric.update(batch["index"], chosen, wanted, batch["tags"], drawn)

    def predict_step(self, batch: SummaryBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Summary of each query, as numbers of shots from 1 as in the oracles' files, and the scores of all shots."""
        return [{"query": key, "shots": (select(scores, self.share, self.round_down) + 1).tolist(),
                 "scores": scores.tolist()} for key, scores in zip(batch["key"], self._shots(batch)[0], strict=True)]

    def _shots(self, batch: SummaryBatch) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Scores (means over the prompts) and ground truth of all shots of each query's video, in their order."""
        if not batch["key"]:
            return [], []
        scores = self(batch).summary.float().mean(1)  # (B, G, n)
        scored, truth = ([values[i][mask].cpu().numpy() for i, mask in enumerate(batch["mask"])]
                         for values in (scores, batch["summary"]))
        return scored, truth

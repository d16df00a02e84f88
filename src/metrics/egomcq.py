"""Accuracy of EgoMCQ (EgoVLP, Lin et al., 2022), multiple choice among five clips, by kind of question."""

import torch
from torch import Tensor
from torchmetrics import Metric

from egovlpv2.metrics.ranking import correct_choices

KINDS = {1: "inter", 2: "intra"}


class EgoMCQAccuracy(Metric):
    """EgoMCQ accuracy in %, for inter-video and intra-video questions; a kind without questions is left out."""

    right: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", torch.zeros(2), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(2), dist_reduce_fx="sum")

    def update(self, scores: Tensor, answer: Tensor, kind: Tensor) -> None:
        """Add questions.

        Args:
            scores: (Q, 5) of the choices.
            answer: (Q,) int64.
            kind: (Q,) int64: 1 inter, 2 intra.
        """
        right = correct_choices(scores, answer)
        for i, number in enumerate(KINDS):
            self.right[i] += (right & (kind == number)).sum()
            self.total[i] += (kind == number).sum()

    def compute(self) -> dict[str, Tensor]:
        """Compute the accuracies."""
        names = KINDS.values()
        return {name: 100 * self.right[i] / self.total[i] for i, name in enumerate(names) if self.total[i] > 0}

"""Accuracy of EgoMCQ (EgoVLP, Lin et al., 2022), multiple choice among five clips, by kind of question."""

import torch
from torch import Tensor
from torchmetrics import Metric

from egovlpv2.batch import Difference
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


class EgoMCQErrors(Metric):
    """Wrong answers of EgoMCQ in % of all questions of a kind, by the difference of the chosen clip from the right one.

    With the accuracy of the kind they sum to 100.
    """

    wrong: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("wrong", torch.zeros(2, len(Difference)), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(2), dist_reduce_fx="sum")

    def update(self, scores: Tensor, answer: Tensor, kind: Tensor, difference: Tensor) -> None:
        """Add questions.

        Args:
            scores: (Q, 5) of the choices.
            answer: (Q,) int64.
            kind: (Q,) int64: 1 inter, 2 intra.
            difference: (Q, 5) int64, see `Difference`.
        """
        wrong = ~correct_choices(scores, answer)
        chosen = difference.gather(1, scores.argmax(-1, keepdim=True))[:, 0]  # (Q,)
        for i, number in enumerate(KINDS):
            self.wrong[i] += chosen[wrong & (kind == number)].bincount(minlength=len(Difference))
            self.total[i] += (kind == number).sum()

    def compute(self) -> dict[str, Tensor]:
        """Compute the shares, `inter/verb` and the like; a kind without questions is left out."""
        return {f"{kind}/{by.name}": 100 * self.wrong[i, by] / self.total[i] for i, kind in enumerate(KINDS.values())
                if self.total[i] > 0 for by in Difference}

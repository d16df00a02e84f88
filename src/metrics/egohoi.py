"""Accuracy of EgoHOIBench (Xu et al., 2025): the text of a clip against texts with another verb, or another noun."""

import torch
from torch import Tensor
from torchmetrics import Metric

PARTS = ("verb", "noun", "action")


class HOIAccuracy(Metric):
    """EgoHOIBench accuracy in %, by verb, by noun, and of both for the same clip (action), each with its chance."""

    right: Tensor
    chance: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", torch.zeros(len(PARTS)), dist_reduce_fx="sum")
        self.add_state("chance", torch.zeros(len(PARTS)), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, own: Tensor, others: Tensor, mask: Tensor) -> None:
        """Add Q clips.

        A part is right if the clip's own text scores higher than each of the others.

        Args:
            own: (Q,) scores of the clips' own texts.
            others: (Q, 2, K) scores of texts with another verb, and with another noun.
            mask: (Q, 2, K) bool, False where there is no text.
        """
        right = ((own[:, None, None] > others) | ~mask).all(2)  # (Q, 2)
        chance = 1 / (1 + mask.sum(2))  # (Q, 2)
        self.right += torch.cat([right.sum(0), right.all(1).sum()[None]])
        self.chance += torch.cat([chance.sum(0), chance.prod(1).sum()[None]])
        self.total += len(own)

    def compute(self) -> dict[str, Tensor]:
        """Compute the accuracies and their chances.

        Raises:
            ValueError: There are no clips.
        """
        if not self.total:
            raise ValueError("no clip could be read, so there is nothing to evaluate")
        values = {part: 100 * self.right[i] / self.total for i, part in enumerate(PARTS)}
        return values | {f"chance_{part}": 100 * self.chance[i] / self.total for i, part in enumerate(PARTS)}

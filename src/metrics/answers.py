"""Accuracy of answers by kind of question. Letters: `Q` questions, `K` kinds."""

from collections.abc import Sequence

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class AnswerAccuracy(Metric):
    """EgoTaskQA accuracy in %, over all questions and over each kind that occurs.

    `most_frequent` is the accuracy of a baseline: the most frequent answer of each question's template.
    """

    full_state_update = False
    index: list[Tensor]
    right: list[Tensor]
    kinds: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("index", "right", "kinds"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.names: list[str] = []

    def update(self, index: Tensor, right: Tensor, kinds: Tensor, names: Sequence[str]) -> None:
        """Add questions.

        Args:
            index: (Q,) rows of the questions.
            right: (Q, 2) bool, correctness of the model and of the most frequent answer.
            kinds: (Q, K) bool, kinds of each question.
            names: Names of the K kinds; `all` is one of them.
        """
        self.names = list(names)
        self.index.append(index)
        self.right.append(right)
        self.kinds.append(kinds)

    def compute(self) -> dict[str, float]:
        """Compute the accuracies.

        Raises:
            ValueError: There are no questions.
        """
        index, right, kinds = (dim_zero_cat(state) for state in (self.index, self.right, self.kinds))
        if not len(index):
            raise ValueError("none of the questions' videos could be read, so there is nothing to evaluate")
        assert len(index.unique()) == len(index)
        count = kinds.double().sum(0)  # (K,)
        share = 100 * (kinds.double().T @ right.double()) / count[:, None]  # (K, 2)
        accuracies = {name: share[i, 0].item() for i, name in enumerate(self.names) if count[i]}
        return accuracies | {"most_frequent": share[self.names.index("all"), 1].item()}


"""Accuracy of answers, by kind of question. Letters: `Q` questions, `K` kinds."""

from collections.abc import Sequence

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class AnswerAccuracy(Metric):
    """EgoTaskQA: the share of right answers in %, of all questions and of each kind that occurs.

    `most_frequent` is what the most frequent answer of each question's template gets, without a look at the video.
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
        """Args:
            index: (Q,) the questions' rows.
            right: (Q, 2) bool, whether the model and the most frequent answer are right.
            kinds: (Q, K) bool, which kinds a question is of.
            names: Of the K kinds; `all` is one.
        """
        self.names = list(names)
        self.index.append(index)
        self.right.append(right)
        self.kinds.append(kinds)

    def compute(self) -> dict[str, float]:
        index, right, kinds = (dim_zero_cat(state) for state in (self.index, self.right, self.kinds))
        if not len(index):
            raise ValueError("none of the questions' videos could be read, so there is nothing to evaluate")
        assert len(index.unique()) == len(index)
        count = kinds.double().sum(0)  # (K,)
        share = 100 * (kinds.double().T @ right.double()) / count[:, None]  # (K, 2)
        found = {name: share[i, 0].item() for i, name in enumerate(self.names) if count[i]}
        return found | {"most_frequent": share[self.names.index("all"), 1].item()}


"""The head of EgoTaskQA: an answer out of a fixed set, from the CLS state of a video that has seen the question."""

from torch import Tensor, nn


class AnswerHead(nn.Module):
    """Two linear layers (paper, D.2; the released `projector_1` and `projector_2`).

    Args:
        dim: Width of the CLS state.
        num_answers: C, size of the answer set.
        dropout: Between the layers.
    """

    def __init__(self, dim: int, num_answers: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, num_answers)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(num_answers, num_answers)

    def forward(self, cls: Tensor) -> Tensor:
        """(B, D) -> logits (B, C)."""
        return self.out(self.dropout(self.hidden(cls).relu()))

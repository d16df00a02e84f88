"""The head of EgoTaskQA: an answer out of a fixed set, from the CLS state of a video that has seen the question."""

from collections import Counter
from pathlib import Path

from torch import Tensor, nn

from egovlpv2.io.schema import read_lines, shown

UNKNOWN = "<UNK1>"  # stands for answers that training never met


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


def read_answers(path: Path) -> list[str]:
    """The answer set: one answer a line, whose number is its class.

    Raises:
        ValueError: The file is missing, empty or names an answer twice.
    """
    try:
        answers = [line.strip() for line in read_lines(path) if line.strip()]
    except ValueError as error:
        raise ValueError(f"{error}; the file lists the answers, one a line") from error
    twice = [answer for answer, count in Counter(answers).items() if count > 1]
    if twice or not answers:
        raise ValueError(f"{path} lists {shown(twice[0])} twice" if twice else f"{path} lists no answers")
    return answers

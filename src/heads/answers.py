"""The head of EgoTaskQA: classify the answer from the CLS state of a video fused with the question."""

from collections import Counter
from pathlib import Path

from torch import Tensor, nn

from egovlpv2.io.schema import read_lines, shown

UNKNOWN = "<UNK1>"  # class of all answers outside the answer set


class AnswerHead(nn.Module):
    """Two linear layers (paper, D.2; the released `projector_1` and `projector_2`).

    Args:
        dim: Width of the CLS state.
        num_answers: Size of the answer set, `C`.
        dropout: Rate between the layers.
    """

    def __init__(self, dim: int, num_answers: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, num_answers)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(num_answers, num_answers)

    def forward(self, cls: Tensor) -> Tensor:
        """Compute logits of the answers: (B, D) -> (B, C)."""
        return self.out(self.dropout(self.hidden(cls).relu()))


def read_answers(path: Path) -> list[str]:
    """Read the answer set: one answer a line, in the order of classes.

    Raises:
        ValueError: The file is missing or empty, or lists an answer twice.
    """
    try:
        answers = [line.strip() for line in read_lines(path) if line.strip()]
    except ValueError as error:
        raise ValueError(f"{error}; the file lists the answers, one a line") from error
    twice = [answer for answer, count in Counter(answers).items() if count > 1]
    if twice or not answers:
        raise ValueError(f"{path} lists {shown(twice[0])} twice" if twice else f"{path} lists no answers")
    return answers

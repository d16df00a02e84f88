"""Metrics as pure functions of tensors and official dictionaries."""

from torch import Tensor


def choices_right(scores: Tensor, answer: Tensor) -> Tensor:
    """Whether the highest of each question's choices is the right one: (Q, 5) scores, (Q,) answers -> (Q,) bool."""
    return scores.argmax(-1) == answer

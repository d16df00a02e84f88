"""Relevancy of texts to clips in multi-instance retrieval, from verb and noun labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from egovlpv2.batch import multi_hot


@dataclass(frozen=True)
class Relevancy:
    """An (n, m) matrix of n clips and m texts that stores equal rows and equal columns once.

    Args:
        table: (a, b) float32, 0 to 1: distinct rows and columns.
        clip: (n,) int64, row of the table for each clip.
        text: (m,) int64, column of the table for each text.
    """

    table: Tensor
    clip: Tensor
    text: Tensor

    @classmethod
    def of_matrix(cls, matrix: Tensor) -> "Relevancy":
        """Wrap a matrix (n, m)."""
        return cls(matrix, torch.arange(matrix.shape[0]), torch.arange(matrix.shape[1]))

    @classmethod
    def of_labels(cls, verb_classes: Sequence[int], noun_classes: Sequence[Sequence[int]],
                  sentence_verb_classes: Sequence[int], sentence_noun_classes: Sequence[Sequence[int]]) -> "Relevancy":
        """Compute EPIC-Kitchens-100's relevancy: the mean of equal verb classes and of the IoU of noun classes.

        Args:
            verb_classes: (n,) of the clips.
            noun_classes: Noun classes of each of the n clips.
            sentence_verb_classes: (m,) of the texts.
            sentence_noun_classes: Noun classes of each of the m texts.
        """
        (verbs, nouns), clip = _distinct(verb_classes, noun_classes)
        (other_verbs, other_nouns), text = _distinct(sentence_verb_classes, sentence_noun_classes)
        width = 1 + max((noun for labels in (*nouns, *other_nouns) for noun in labels), default=0)
        a, b = multi_hot(nouns, width), multi_hot(other_nouns, width)
        both = a @ b.T  # (a, b) counts, exact in float32
        table = both / (a.sum(1)[:, None] + b.sum(1) - both)  # intersection over union of the nouns
        same_verb = torch.tensor(verbs)[:, None] == torch.tensor(other_verbs)
        return cls(table.add_(same_verb).div_(2), clip, text)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of clips and of texts."""
        return len(self.clip), len(self.text)

    def __getitem__(self, row: int) -> Tensor:
        """Get the relevancy of all texts to a clip, (m,)."""
        return self.table[self.clip[row]][self.text]

    def best(self) -> Tensor:
        """Get the highest relevancy of any text to each clip, (n,)."""
        return self.table[:, self.text.unique()].max(1).values[self.clip]

    def full(self) -> Tensor:
        """Expand to the full matrix (n, m) float32."""
        return self.table[:, self.text][self.clip]

    def of_clips(self, rows: Tensor) -> "Relevancy":
        """Select clips, with all texts."""
        return Relevancy(self.table, self.clip[rows], self.text)


def _distinct(verbs: Sequence[int], nouns: Sequence[Sequence[int]]) -> tuple[tuple[Any, Any], Tensor]:
    """Find the distinct labels, as (verbs, sets of nouns), and the index of each row's label among them."""
    index: dict[tuple[int, frozenset[int]], int] = {}
    codes = [index.setdefault((int(v), frozenset(n)), len(index)) for v, n in zip(verbs, nouns, strict=True)]
    return ([verb for verb, _ in index], [nouns for _, nouns in index]), torch.tensor(codes)

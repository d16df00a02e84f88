"""Relevancy of texts for clips in multi-instance retrieval, from verb and noun labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from egovlpv2.batch import multi_hot


@dataclass(frozen=True)
class Relevancy:
    """An (n, m) matrix of n clips and m texts, equal rows and equal columns stored once.

    Args:
        table: (a, b) float32, 0 to 1: the different rows and columns.
        clip: (n,) int64, each clip's row of the table.
        text: (m,) int64, each text's column of the table.
    """

    table: Tensor
    clip: Tensor
    text: Tensor

    @classmethod
    def of_matrix(cls, matrix: Tensor) -> "Relevancy":
        """A matrix (n, m) as it is."""
        return cls(matrix, torch.arange(matrix.shape[0]), torch.arange(matrix.shape[1]))

    @classmethod
    def of_labels(cls, verb_classes: Sequence[int], noun_classes: Sequence[Sequence[int]],
                  sentence_verb_classes: Sequence[int], sentence_noun_classes: Sequence[Sequence[int]]) -> "Relevancy":
        """EPIC-Kitchens-100's relevancy: half for the same verb class, half for the nouns' intersection over union.

        Args:
            verb_classes: Classes of n clips.
            noun_classes: Classes of n clips, at least one each.
            sentence_verb_classes: Classes of m sentences.
            sentence_noun_classes: Classes of m sentences, at least one each.
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
        return len(self.clip), len(self.text)

    def __getitem__(self, row: int) -> Tensor:
        """(m,): how well each text fits a clip."""
        return self.table[self.clip[row]][self.text]

    def best(self) -> Tensor:
        """(n,): how well the best text fits each clip."""
        return self.table[:, self.text.unique()].max(1).values[self.clip]

    def full(self) -> Tensor:
        """(n, m) float32."""
        return self.table[:, self.text][self.clip]

    def of_clips(self, rows: Tensor) -> "Relevancy":
        """Some of the clips, with all texts."""
        return Relevancy(self.table, self.clip[rows], self.text)


def _distinct(verbs: Sequence[int], nouns: Sequence[Sequence[int]]) -> tuple[tuple[Any, Any], Tensor]:
    """The different labels as (verbs, sets of nouns), and which of them each row has."""
    places: dict[tuple[int, frozenset[int]], int] = {}
    codes = [places.setdefault((int(v), frozenset(n)), len(places)) for v, n in zip(verbs, nouns, strict=True)]
    return ([verb for verb, _ in places], [nouns for _, nouns in places]), torch.tensor(codes)

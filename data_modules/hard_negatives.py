"""Hard-negative captions: another verb of the same objects, or another object of the same verb."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from egovlpv2.data_modules.egoclip import Neighbours
from egovlpv2.data_modules.tables import NUM_NOUNS, NUM_VERBS, ClipTable
from egovlpv2.data_modules.word_forms import ClassWords
from egovlpv2.io.schema import shown

NEGATIVES = ("verb_neg", "noun_neg")
"""The columns of a file of hard negatives: sentences joined by commas."""

_OTHER_TEXTS = 0.01  # share of rows whose caption may be written otherwise in a file of hard negatives


class HardNegatives(NamedTuple):
    """Captions that are wrong for a clip."""

    verbs: list[str]  # with another verb
    nouns: list[str]  # with another noun


class NegativesOfFile:
    """Hard negatives from a file in the format of `EgoClip_hardnegHOI.csv` (Xu et al., 2025).

    Args:
        table: Its rows, read with `NEGATIVES`.
    """

    def __init__(self, table: ClipTable) -> None:
        self.table = table

    def __call__(self, row: int) -> HardNegatives:
        """The hard negatives of a row, each once; those that equal its caption are left out."""
        caption = self.table.text[row].strip()
        cells = (self.table.more[name][row].split(",") for name in NEGATIVES)
        return HardNegatives(*(list(dict.fromkeys(text for part in cell if (text := part.strip()) not in ("", caption)))
                               for cell in cells))


class NegativesByRule:
    """Hard negatives by replacing one word of a caption by a word of another class, in the same inflection.

    The other verb is drawn in proportion to the training rows in which it occurs with an object of the row, and the
    other noun to those with a verb of the row; a row without such tags draws from all rows. A caption of another row of
    the same minute is left out. A row's hard negatives depend on the seed and the row alone.

    Args:
        table: The rows.
        verbs: The words of each verb class.
        nouns: The words of each noun class.
        count: Greatest number of hard negatives with another verb, and with another noun.
        seed: Seed of the draws.
    """

    def __init__(self, table: ClipTable, verbs: list[ClassWords], nouns: list[ClassWords], count: int, seed: int
                 ) -> None:
        self.table, self.verbs, self.nouns, self.count, self.seed = table, verbs, nouns, count, seed
        self._together = count_together(table)  # (118, 582)
        self._neighbours = Neighbours(table)

    def __call__(self, row: int) -> HardNegatives:
        """The hard negatives of a row; none where no word of its tags is in its caption."""
        rng = np.random.default_rng((self.seed, row))
        verbs, nouns = self.table.verbs[row].numpy(), self.table.nouns[row].numpy()
        taken = {self.table.text[other] for other in self._neighbours.same_minute(row)}
        captions = self.table.text[row], taken
        return HardNegatives(self._replace(*captions, self.verbs, verbs, _weights(self._together, nouns), rng),
                             self._replace(*captions, self.nouns, nouns, _weights(self._together.T, verbs), rng))

    def _replace(self, caption: str, taken: set[str], words: list[ClassWords], own: np.ndarray, weights: np.ndarray,
                 rng: np.random.Generator) -> list[str]:
        """Captions with a word of another class, none of them in `taken`."""
        own_words = [words[number] for number in own if number < len(words)]
        mention = next((found for word in own_words if (found := word.find(caption))), None)
        if mention is None:
            return []
        weights[own] = 0
        classes = np.flatnonzero(weights[: len(words)])
        # In the order of a draw without replacement: the earliest of exponential times with these rates.
        order = classes[np.argsort(rng.exponential(size=len(classes)) / weights[classes])]
        captions: list[str] = []
        for word in (words[number] for number in order):
            spellings = [form[mention.inflection] for form in word.forms]
            fitting = [text for text in spellings if not any(text in other.inflections for other in own_words)]
            if fitting and len(captions) < self.count:
                text = caption[: mention.begin] + fitting[int(rng.integers(len(fitting)))] + caption[mention.end :]
                captions += [text] if text not in taken and text not in captions else []
        return captions


def _weights(together: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Rows in which each class occurs with one of other classes, or, if there are none, occurs at all."""
    return together[:, others].sum(1) if len(others) else together.sum(1)


def count_together(table: ClipTable) -> np.ndarray:
    """Count the rows with a verb and a noun: (118, 582) int64."""
    codes = torch.stack([table.verbs.codes, table.nouns.codes], dim=1)
    together = np.zeros((NUM_VERBS, NUM_NOUNS), dtype=np.int64)
    pairs, counts = codes.unique(dim=0, return_counts=True)
    for (verbs, nouns), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        together[np.ix_(np.unique(table.verbs.of_code(verbs)), np.unique(table.nouns.of_code(nouns)))] += count
    return together


def check_same_rows(clips: ClipTable, clips_path: Path, negatives: ClipTable, path: Path) -> None:
    """Refuse a file of hard negatives that has other rows than the clips.

    Raises:
        ValueError: The first difference, by file and line.
    """
    remedy = f"give one of the same rows in the same order, or train on its own rows with data.init_args.train={path}"
    codes = {video: code for code, video in enumerate(clips.videos)}
    video = torch.tensor([codes.get(name, -1) for name in negatives.videos])[negatives.video.long()]  # (M,)
    n = min(len(clips), len(negatives))
    other = (video[:n] != clips.video[:n]) | ((negatives.start[:n] - clips.start[:n]).abs() > 1e-3) | (
        (negatives.end[:n] - clips.end[:n]).abs() > 1e-3)
    equal = len(clips) == len(negatives)
    counts = "" if equal else f"{path} has {len(negatives):,} rows and {clips_path} {len(clips):,}"
    if other.any():
        row = int(other.nonzero()[0])
        raise ValueError(f"{path}, line {int(negatives.line[row])}: {_clip(negatives, row)}, and {clips_path}, line "
                         f"{int(clips.line[row])}: {_clip(clips, row)}{counts and '; '}{counts}: {remedy}")
    texts = [row for row in range(n) if negatives.text[row].strip() != clips.text[row].strip()]
    if len(texts) > _OTHER_TEXTS * n:
        row = texts[0]
        raise ValueError(f"{len(texts):,} of {n:,} rows of {path} have another clip_text than {clips_path}, the first "
                         f"in line {int(negatives.line[row])}: {shown(negatives.text[row])}, not "
                         f"{shown(clips.text[row])}: {remedy}")
    if counts:
        longer, where = (clips, clips_path) if len(clips) > n else (negatives, path)
        raise ValueError(f"{counts}, the first of those beyond in {where}, line {int(longer.line[n])}: {remedy}")


def _clip(table: ClipTable, row: int) -> str:
    return f"{table.videos[int(table.video[row])]} from {float(table.start[row]):g} to {float(table.end[row]):g} s"


def pad_negatives(negatives: Iterable[HardNegatives], count: int) -> tuple[list[str], Tensor]:
    """Cut or fill the hard negatives of B clips to `count` with another verb and `count` with another noun.

    Returns:
        B*2*count texts, empty where there is none, and the mask of those that are there, (B, 2, count) bool.
    """
    lists = [texts[:count] for each in negatives for texts in each]
    filled = [text for texts in lists for text in texts + [""] * (count - len(texts))]
    mask = [[i < len(texts) for i in range(count)] for texts in lists]
    return filled, torch.tensor(mask, dtype=torch.bool).view(-1, 2, count)

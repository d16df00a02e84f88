"""Clips of tables of narrations to pre-train on, beside EgoClip's rows."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from egovlpv2.data_modules.clip_groups import ClipGroup, Negatives, draw_others, require_rows
from egovlpv2.data_modules.clips import ClipReader, read_or_replace
from egovlpv2.data_modules.loaders import Rows
from egovlpv2.data_modules.narration_table import NarrationTable

_NO_TAGS = torch.zeros(0, dtype=torch.int64)


class TableClips(Rows[ClipGroup]):
    """The N rows of a table of narrations, each with negatives of the same table.

    The text of a row is drawn uniformly from its texts. The sample of a key `(epoch, row)` depends on the seed, the
    place and the key alone. The rows have no verbs and nouns: EgoNCE's positives are their own pairs.

    Args:
        table: The table.
        reader: Reads the clips.
        seed: Seed of the texts, negatives, times and crops.
        place: Number of the table among those that are trained on.
        negatives: See `EgoClipDataModule`.
        num_negatives: See `EgoClipDataModule`.
        prompt: Template of the texts, with `{}` for the text of the table.

    Raises:
        ValueError: The table has too few rows.
    """

    def __init__(self, table: NarrationTable, reader: ClipReader, seed: int, place: int,
                 negatives: Negatives = "scene", num_negatives: int = 1, prompt: str = "{}") -> None:
        require_rows(len(table), table.folder, num_negatives)
        self.table, self.reader, self.seed, self.place = table, reader, seed, place
        self.negatives, self.num_negatives, self.prompt = negatives, num_negatives, prompt

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, key: tuple[int, int]) -> ClipGroup:
        epoch, row = key
        rng = np.random.default_rng((self.seed, self.place, epoch, row))
        _, (rows, texts, video), failures = read_or_replace(row, len(self), rng, lambda i: self._read_group(i, rng))
        no_tags = [_NO_TAGS] * len(rows)
        return ClipGroup(rows, video, texts, no_tags, no_tags, failures)

    def draw_text(self, row: int, rng: np.random.Generator) -> str:
        """Draw one of the texts of a row, all with the same probability."""
        text = self.table.text(row, int(rng.integers(self.table.num_texts_of(row))))
        return self.prompt.replace("{}", text)

    def _read_group(self, row: int, rng: np.random.Generator) -> tuple[list[int], list[str], Tensor]:
        """A row and its negatives, their texts and their clips (N, T, 3, H, W)."""
        rows, table = [row, *self._draw_negatives(row, rng)], self.table
        texts = [self.draw_text(i, rng) for i in rows]
        return rows, texts, torch.stack([self.reader.train(table.videos[int(table.video[i])], float(table.start[i]),
                                                     float(table.end[i]), rng) for i in rows])

    def _draw_negatives(self, row: int, rng: np.random.Generator) -> list[int]:
        if self.negatives == "scene":
            return self.table.draw_neighbours(row, self.num_negatives, rng)
        return draw_others(range(len(self)), {row}, self.num_negatives, rng)


class Concatenated(Rows[ClipGroup]):
    """The rows of several data sets one after the other, each once an epoch.

    A clip that a table of human texts and one of a model's both have is then shown with either half of the time, as
    LaViLa and AVION draw.

    Args:
        parts: The data sets.
    """

    def __init__(self, parts: Sequence[Rows[ClipGroup]]) -> None:
        self.parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, key: tuple[int, int]) -> ClipGroup:
        epoch, row = key
        part = bisect_right(self._ends, row)
        return self.parts[part][epoch, row - (self._ends[part - 1] if part else 0)]

"""Groups of a narrated clip and its negatives: what EgoClip's rows and tables of narrations give to training."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from egovlpv2.data_modules.clips import Failure

Negatives = Literal["scene", "any", "object"]


class ClipGroup(NamedTuple):
    """A row and its N - 1 negatives; `failures` are groups that were drawn before and could not be read."""

    rows: list[int]
    video: Tensor  # (N, T, 3, H, W) uint8
    text: list[str]
    verbs: list[Tensor]
    nouns: list[Tensor]
    failures: list[Failure]


def require_rows(rows: int, path: Path, num_negatives: int) -> None:
    """Refuse a data set in which a row has too few others to be its negatives."""
    if rows <= num_negatives:
        has = "one row" if rows == 1 else f"{rows} rows"
        raise ValueError(f"{path} has {has}: a row needs {num_negatives} other(s) as its negatives.")


def draw_others(within: range, taken: set[int], count: int, rng: np.random.Generator) -> list[int]:
    """Draw different numbers of a range but those in `taken`; fewer than `count` if there aren't so many."""
    taken, drawn = {i for i in taken if i in within}, []
    for _ in range(min(count, len(within) - len(taken))):
        other = within.start + int(rng.integers(len(within) - len(taken)))
        for i in sorted(taken):
            other += other >= i
        taken.add(other)
        drawn.append(other)
    return drawn


def draw_scene_negatives(row: int, count: int, minute: range, video: range, all_rows: range,
                         time: Callable[[int], float], rng: np.random.Generator) -> list[int]:
    """Draw scene-aware negatives of a row, from rows that are sorted by video and time.

    Args:
        row: The row.
        count: Number of negatives, fewer than `all_rows` has.
        minute: The rows of its minute.
        video: The rows of its video.
        all_rows: All rows.
        time: Seconds of a row.
        rng: Draws them.

    Returns:
        Other rows of its minute; if there are too few, also those of its video that are nearest in time; if its video
        has too few others, any other rows.
    """
    drawn = draw_others(minute, {row}, count, rng)
    if len(drawn) < count:
        others = sorted((i for i in video if i != row and i not in drawn), key=lambda i: abs(time(i) - time(row)))
        drawn += others[:count - len(drawn)]
    return drawn + draw_others(all_rows, {row, *drawn}, count - len(drawn), rng)

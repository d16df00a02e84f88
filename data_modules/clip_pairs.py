"""Pairs of a narrated clip and its negative: what EgoClip's rows and tables of narrations give to training."""

from typing import Literal, NamedTuple

from torch import Tensor

from egovlpv2.data_modules.clips import Failure

Negatives = Literal["scene", "any"]


class ClipPair(NamedTuple):
    """A row and its negative; `failures` are pairs that were drawn before and could not be read."""

    rows: list[int]
    video: Tensor  # (2, T, 3, H, W) uint8
    text: list[str]
    verbs: list[Tensor]
    nouns: list[Tensor]
    failures: list[Failure]

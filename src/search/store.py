"""The embeddings of an index: one row for each window, mapped from its files.

One product with the query's embedding reads every row once, in float16: memory's speed bounds it, not arithmetic.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from egovlpv2.features.files import SUFFIX, FeatureFolder
from egovlpv2.search.moments import Moment, temporal_nms
from egovlpv2.types import FeatureKind

KIND: FeatureKind = "unit"


class EmbeddingStore:
    """All windows of an index.

    Args:
        folder: Of the index.

    Raises:
        ValueError: It holds no embeddings, or others than `egovlpv2 index` writes; one of them is damaged or not of
            length one, or all are the same.
    """

    def __init__(self, folder: Path) -> None:
        if not any(folder.glob(f"*{SUFFIX}")):
            raise ValueError(f"{folder} has no finished videos: run `egovlpv2 index VIDEOS --out {folder}`")
        files = FeatureFolder(folder)
        if files.recipe.kind != KIND:
            first = folder / f"{min(files.names)}{SUFFIX}"
            raise ValueError(f"{first} holds features of kind {files.recipe.kind} and no index: `egovlpv2 index VIDEOS "
                             "--out FOLDER` makes one, in a folder of its own")
        if files.recipe.frame_rule != "centre":  # whose windows do not begin at multiples of `stride / fps`
            raise ValueError(f"{folder} holds features of frame_rule {files.recipe.frame_rule}, and an index has those "
                             "of centre: run `egovlpv2 index VIDEOS --out FOLDER`, with another folder")
        self.recipe = files.recipe
        self.names = sorted(files.names)
        features = [files.read(name) for name in self.names]
        self.values = [video.values for video in features]  # (n, D) each, float16, mapped
        self.durations = [video.duration for video in features]
        self.first = np.cumsum([0, *map(len, self.values)])  # row of each video's first window, and their number
        if len(self) > 1 and all((values == self.values[0][0]).all() for values in self.values):
            raise ValueError(f"{folder}: all {len(self):,} windows have the same embedding: the weights "
                             f"{self.recipe.checkpoint} are not sound, or nothing happens in these videos")

    def __len__(self) -> int:
        return int(self.first[-1])

    @property
    def seconds(self) -> float:
        """Length of a window."""
        return self.recipe.window / self.recipe.fps

    @property
    def hours(self) -> float:
        """Length of all videos."""
        return sum(self.durations) / 3600

    def topk(self, query: Tensor, count: int) -> list[Moment]:
        """Find the windows that fit a query best, the best first; of windows that overlap in time, only the best.

        Args:
            query: (D,) of length one.
            count: How many at most.
        """
        half = query.half()
        with one_thread():
            scores = torch.cat([values @ half for values in self.values])  # (n,)
        # A window overlaps so many others at most.
        overlapping = 2 * (-(-self.recipe.window // self.recipe.stride) - 1)
        rows = scores.topk(min(count * (1 + overlapping), len(scores))).indices.tolist()
        return temporal_nms(sorted((self._moment(row, query) for row in rows), key=lambda moment: -moment.cosine),
                     self.seconds, count)

    def spans(self) -> list[tuple[str, float, float]]:
        """Video, start and end in seconds of each window."""
        return [(name, *self._span(video, place)) for video, name in enumerate(self.names)
                for place in range(len(self.values[video]))]

    def _span(self, video: int, place: int) -> tuple[float, float]:
        start = place * self.recipe.stride / self.recipe.fps
        return start, min(start + self.seconds, self.durations[video])

    def _moment(self, row: int, query: Tensor) -> Moment:
        """A row's window, with its cosine in float32: float16 has ties."""
        video = int(np.searchsorted(self.first, row, side="right")) - 1
        place = row - int(self.first[video])
        cosine = float(self.values[video][place].float() @ query)
        return Moment(self.names[video], *self._span(video, place), cosine, window_index=place)


@contextmanager
def one_thread() -> Iterator[None]:
    """A context with one thread: it reads as fast as memory gives, and more would wait for each other at each file."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

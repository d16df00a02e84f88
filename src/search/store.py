"""The embeddings of an index: one row for each window, mapped from its files.

One product with the query's embedding reads every row once, in float16: memory's speed bounds it, not arithmetic.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
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
        self.numbers = {name: i for i, name in enumerate(self.names)}
        self._count = sum(map(len, self.values))
        if len(self) > 1 and all((values == self.values[0][0]).all() for values in self.values):
            raise ValueError(f"{folder}: all {len(self):,} windows have the same embedding: the weights "
                             f"{self.recipe.checkpoint} are not sound, or nothing happens in these videos")

    def __len__(self) -> int:
        return self._count

    @property
    def seconds(self) -> float:
        """Length of a window."""
        return self.recipe.window / self.recipe.fps

    @property
    def hours(self) -> float:
        """Length of all videos."""
        return sum(self.durations) / 3600

    def topk(self, query: Tensor, count: int, videos: Sequence[str] | None = None, unwanted: Tensor | None = None,
             except_at: tuple[str, float] | None = None, min_cosine: float | None = None) -> list[Moment]:
        """Find the windows that fit a query best, the best first; of windows that overlap in time, only the best.

        Args:
            query: (D,) of length one.
            count: How many at most.
            videos: Names of those to search in; None for all.
            unwanted: (D,) of length one; windows that fit it better than the query are left out.
            except_at: Video and second of a moment, whose windows are left out.
            min_cosine: Windows with a lower cosine are left out.
        """
        some = range(len(self.names)) if videos is None else sorted({self.numbers[name] for name in videos})
        half = query.half()
        with one_thread():
            scores = torch.cat([self.values[i] @ half for i in some])  # (n,)
            if unwanted is not None:
                scores[scores < torch.cat([self.values[i] @ unwanted.half() for i in some])] = -torch.inf
        if except_at is not None:
            self._leave_out(scores, some, *except_at)
        # A window overlaps so many others at most.
        overlapping = 2 * (-(-self.recipe.window // self.recipe.stride) - 1)
        best = scores.topk(min(count * (1 + overlapping), int((scores > -torch.inf).sum())))
        first = np.cumsum([0, *(len(self.values[i]) for i in some)])
        moments = (self._moment(row, query, some, first) for row in best.indices.tolist())
        fitting = [moment for moment in moments if min_cosine is None or moment.cosine >= min_cosine]
        return temporal_nms(sorted(fitting, key=lambda moment: -moment.cosine), self.seconds, count)

    def _leave_out(self, scores: Tensor, some: Sequence[int], name: str, seconds: float) -> None:
        """Set the scores of the windows that show a moment to minus infinity."""
        place = 0
        for i in some:
            for window in range(len(self.values[i]) if self.names[i] == name else 0):
                start, end = self.span(i, window)
                if start - self.seconds / 2 <= seconds <= end + self.seconds / 2:
                    scores[place + window] = -torch.inf
            place += len(self.values[i])

    def spans(self) -> list[tuple[str, float, float]]:
        """Video, start and end in seconds of each window."""
        return [(name, *self.span(video, place)) for video, name in enumerate(self.names)
                for place in range(len(self.values[video]))]

    def span(self, video: int, place: int) -> tuple[float, float]:
        """Start and end, in seconds, of a window of a video, both by number."""
        start = place * self.recipe.stride / self.recipe.fps
        return start, min(start + self.seconds, self.durations[video])

    def _moment(self, row: int, query: Tensor, some: Sequence[int], first: NDArray[np.int64]) -> Moment:
        """The window of a row of some videos, with its cosine in float32: float16 has ties."""
        number = int(np.searchsorted(first, row, side="right")) - 1
        video, place = some[number], row - int(first[number])
        cosine = float(self.values[video][place].float() @ query)
        return Moment(self.names[video], *self.span(video, place), cosine, window_index=place)


@contextmanager
def one_thread() -> Iterator[None]:
    """A context with one thread: it reads as fast as memory gives, and more would wait for each other at each file."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""Ego4D natural language queries, in the official files and in those of VSLNet."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from egovlpv2.batch import QueryBatch
from egovlpv2.data_modules.grounding import ClipSpan, FeatureDataModule, FeatureRows, averaged, pad, place_within
from egovlpv2.data_modules.loaders import ResumableDataLoader
from egovlpv2.features import Features
from egovlpv2.io.annotations import check_times
from egovlpv2.io.nlq_files import AskedClip, AskedQuery, read_nlq
from egovlpv2.io.schema import plain, shown


class Query(NamedTuple):
    """A question about a clip."""

    place: ClipSpan
    annotation: str
    index: int  # in its annotation
    text: str
    window: tuple[float, float] | None  # seconds of the clip; None if it is not told

    @property
    def key(self) -> str:
        return f"{self.place.clip} {self.annotation} {self.index}"


class NLQSample(NamedTuple):
    """A query as the head reads it."""

    query: Query
    row: int
    video: Tensor  # (n, D)
    words: Tensor  # (L, D)
    most_words: int  # of a query in the file
    duration: float


class NLQQueries(FeatureRows):
    """Queries with the features of their clips and words.

    Args:
        queries: All of them with features.
        read: Gives the features of a clip.
        max_positions: Longer clips are averaged down to it.
    """

    def __init__(self, queries: list[Query], read: Callable[[ClipSpan], Features], max_positions: int) -> None:
        super().__init__(queries, read)
        self.max_positions = max_positions

    def sample(self, row: int) -> NLQSample:
        query: Query = self.rows[row]
        features = self.read(query.place)
        if query.text not in features.queries:
            raise ValueError(f"The features of {query.place.clip} know nothing of the query {query.text!r}: extract "
                             "them with --queries of this annotation file")
        which = features.queries.index(query.text)
        values = features.values[:, which] if features.values.ndim == 3 else features.values  # (T, D)
        words = features.words[which][features.word_mask[which]]  # (L, D)
        return NLQSample(query, row, averaged(values, self.max_positions), words, features.words.shape[1],
                      features.duration)


class NLQDataModule(FeatureDataModule):
    """Where in a clip is the answer to a query?

    Args:
        root: The folder of the annotations.
        features: The folder of the features, extracted with the queries.
        train: Annotations to train on: `nlq_train.json`, or VSLNet's `train.json`.
        val: Those to validate on.
        test: Those to test on, or to predict for.
        max_positions: Longer clips are averaged down to so many features.
        highlight_margin: How much of a window's length the highlight goes beyond it, on each side.
        **kwargs: Of all with features, see `FeatureDataModule`.
    """

    evaluated = "queries"

    def __init__(self, root: str, features: str, train: str = "nlq_train.json", val: str = "nlq_val.json",
                 test: str | None = None, max_positions: int = 256, highlight_margin: float = 0.1,
                 **kwargs: Any) -> None:
        super().__init__(root, features, train, val, test, **kwargs)
        self.max_positions, self.highlight_margin = max_positions, highlight_margin

    @property
    def protocol(self) -> dict[str, Any]:
        return super().protocol | {"max_positions": self.max_positions, "highlight_margin": self.highlight_margin}

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled queries, less those whose window has no length."""
        queries = self.queries("train")
        long = [query for query in queries if query.window is not None and query.window[1] > query.window[0]]
        self.counts |= {"train_without_length": len(queries) - len(long)}
        if not long:
            raise ValueError(f"{self.path('train')}: none of {len(queries)} queries with features has a window")
        return self.train_loader(NLQQueries(long, self.read, self.max_positions), self._collate)

    def val_dataloader(self) -> DataLoader:
        """The queries of `val`."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader:
        """The queries of `test`."""
        self.require_answers("test")
        return self._evaluation("test")

    def predict_dataloader(self) -> DataLoader:
        """The queries of `test`, or of `val` if there is none, to answer."""
        return self._evaluation("val" if self.test is None else "test")

    def has_ground_truth(self, split: str) -> bool:
        return any(query.window is not None for clip in read_nlq_queries(self.path(split)) for query in clip)

    def places(self, split: str) -> list[ClipSpan]:
        return [query.place for query in self.queries(split)]

    def _evaluation(self, split: str) -> DataLoader:
        queries = self.queries(split)
        self.counts |= {f"{split}_without_length": sum(q.window is not None and q.window[0] == q.window[1]
                                                       for q in queries)}
        return self.eval_loader(NLQQueries(queries, self.read, self.max_positions), self._collate)

    def queries(self, split: str) -> list[Query]:
        """The queries of a split of whose clips there are features.

        Raises:
            ValueError: There are none.
        """
        path = self.path(split)
        clips = list(read_nlq_queries(path))
        told = [query for clip in clips for query in clip]
        asked = [query for query in told if query.text]
        found = [query for query in asked if self.has_features(query.place)]
        self.counts |= {f"{split}_clips_without_queries": sum(not clip for clip in clips),
                        f"{split}_empty_queries": len(told) - len(asked),
                        f"{split}_without_features": len(asked) - len(found)}
        if not found:
            raise ValueError(f"{self.features} has features of none of the clips of {path}: extract them with "
                             f"`egovlpv2 extract VIDEOS --kind fused --queries {path} --out {self.features}`")
        return found

    def _collate(self, samples: list[NLQSample | None]) -> QueryBatch:
        real = [sample for sample in samples if sample is not None]
        width = self.folder.recipe.width
        if not real:  # a filler alone: one position of nothing, which the task leaves out
            return _batch([], pad([torch.zeros(1, width)], 1), pad([torch.zeros(1, 1)], 1), self.highlight_margin)
        # VSLNet's convolutions hear the padding: always as much of it, so that answers don't depend on the batch.
        video = pad([sample.video for sample in real], self.max_positions)
        words = pad([sample.words for sample in real], max(sample.most_words for sample in real))
        return _batch(real, video, words, self.highlight_margin)


def _batch(samples: list[NLQSample], video: tuple[Tensor, Tensor], words: tuple[Tensor, Tensor], margin: float
           ) -> QueryBatch:
    (features, mask), (query, query_mask) = video, words
    spans = [label_span(s.query.window or (0.0, 0.0), s.duration, len(s.video)) for s in samples]
    highlight = torch.zeros(len(samples), features.shape[1])
    for row, (start, end), sample in zip(highlight, spans, samples, strict=True):
        extra = round(margin * (end - start + 1))
        row[max(start - extra, 0) : min(end + extra, len(sample.video) - 1) + 1] = 1
    span = torch.tensor(spans, dtype=torch.int64).reshape(-1, 2)
    window = torch.tensor([s.query.window or (torch.nan, torch.nan) for s in samples],
                          dtype=torch.float32).reshape(-1, 2)
    count = len(samples)
    return QueryBatch(
        key=[(s.query.place.clip, s.query.annotation, s.query.index) for s in samples],
        index=torch.tensor([s.row for s in samples], dtype=torch.int64), text=[s.query.text for s in samples],
        video=features[:count], video_mask=mask[:count], query=query[:count], query_mask=query_mask[:count],
        start=span[:, 0], end=span[:, 1], highlight=highlight, window=window,
        duration=torch.tensor([s.duration for s in samples], dtype=torch.float32),
    )


def label_span(window: tuple[float, float], duration: float, positions: int) -> tuple[int, int]:
    """First and last position of the grid's span that overlaps a window (seconds) most; a window may end outside.

    A window that overlaps none, for it has no length or lies beyond the end, gets the position that is nearest.
    """
    step = duration / positions
    grid = torch.arange(positions + 1, dtype=torch.float64) * step  # (n + 1,)
    start, end = grid[:-1, None], grid[None, 1:]  # (n, 1), (1, n)
    inter = (end.clamp(max=window[1]) - start.clamp(min=window[0])).clamp(min=0)  # (n, n)
    if not inter.any():
        nearest = min(max(int(window[0] / step), 0), positions - 1)
        return nearest, nearest
    union = end.clamp(min=window[1]) - start.clamp(max=window[0])
    best = int((inter / union).masked_fill(end <= start, -1.0).argmax())
    return best // positions, best % positions


def read_nlq_queries(path: Path) -> Iterator[list[Query]]:
    """The queries of each clip of an official `nlq_*.json`, or of VSLNet's files; one without a text has an empty one.

    Raises:
        ValueError: The file is of another form, an id is there twice, or a window ends before it begins or lies outside
            its clip.
    """
    for clip in read_nlq(path):
        where = f"{path}: clip {plain(clip.clip)}"
        place = _place(clip, where)
        queries = [Query(place, _annotation(query, where), query.index, query.text, query.window)
                   for query in clip.queries]
        for query in queries:
            if query.window is not None:
                check_times(f"{path}: query {plain(query.key)}", *query.window, query.place.duration)
        yield queries


def _place(clip: AskedClip, where: str) -> ClipSpan:
    if clip.start is None or clip.end is None:
        raise ValueError(f"{where} doesn't tell its times: give video_start_sec and video_end_sec (in VSLNet's files "
                         "fps and num_frames)")
    return place_within(clip.clip, clip.video, clip.start, clip.end, where)


def _annotation(query: AskedQuery, where: str) -> str:
    if query.annotation is None:
        raise ValueError(f"{where}: the query {shown(query.text)} is in an annotation without annotation_uid: give one")
    return query.annotation

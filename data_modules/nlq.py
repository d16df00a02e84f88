"""Ego4D natural language queries, in the official files and in those of VSLNet."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from egovlpv2.batch import QueryBatch
from egovlpv2.data_modules.grounding import FeatureDataModule, FeatureRows, check_span
from egovlpv2.data_modules.loaders import ResumableDataLoader, require_at_least
from egovlpv2.data_modules.naq import jitter_span
from egovlpv2.features import Features
from egovlpv2.features.clips import ClipSpan, averaged, pad
from egovlpv2.io.annotations import check_times
from egovlpv2.io.nlq_files import AskedClip, AskedQuery, read_nlq
from egovlpv2.io.schema import plain, shown


@dataclass(frozen=True)
class NLQQuery:
    """A query about a clip."""

    span: ClipSpan
    annotation: str
    index: int  # in its annotation
    text: str
    window: tuple[float, float] | None  # seconds of the clip; None if it is not annotated

    @property
    def key(self) -> str:
        return f"{self.span.clip} {self.annotation} {self.index}"


class NLQSample(NamedTuple):
    """A query with the features of its clip and tokens."""

    query: NLQQuery
    row: int
    video: Tensor  # (n, D)
    tokens: Tensor  # (L, D)
    max_tokens: int  # of a query in the file
    duration: float
    span: tuple[int, int]  # first and last feature of the window


class NLQQueries(FeatureRows):
    """Queries with the features of their clips and tokens.

    Args:
        queries: The queries with features.
        read: Reads the features of a clip.
        max_positions: Longer clips are averaged down to it.
        jitter: Largest factor by which a narration's span is expanded at each access in training; None: as it is.
        seed: Seed of the jitter, a function of it, the epoch and the row.
    """

    def __init__(self, queries: list[NLQQuery], read: Callable[[ClipSpan], Features], max_positions: int,
                 jitter: float | None = None, seed: int = 0) -> None:
        super().__init__(queries, read)
        self.max_positions, self.jitter, self.seed = max_positions, jitter, seed

    def __getitem__(self, key: int | tuple[int, int]) -> NLQSample | None:
        sample: NLQSample | None = super().__getitem__(key)
        if sample is None or self.jitter is None or not isinstance(key, tuple):
            return sample
        uniform = np.random.default_rng((self.seed, *key)).uniform
        span = jitter_span(sample.query.text, sample.span, len(sample.video), self.jitter, uniform)
        return sample._replace(span=span)

    def sample(self, row: int) -> NLQSample:
        query: NLQQuery = self.rows[row]
        features = self.read(query.span)
        if query.text not in features.queries:
            raise ValueError(f"The features of {query.span.clip} were extracted without the query {query.text!r}: "
                             "extract them with --queries of this annotation file")
        index = features.queries.index(query.text)
        values = features.values[:, index] if features.values.ndim == 3 else features.values  # (T, D)
        video = averaged(values, self.max_positions)  # (n, D)
        span = label_span(query.window or (0.0, 0.0), features.duration, len(video))
        tokens = features.words[index][features.word_mask[index]]  # (L, D)
        return NLQSample(query, row, video, tokens, features.words.shape[1], features.duration, span)


class NLQDataModule(FeatureDataModule):
    """Ego4D natural language queries: the window of a clip that answers a query.

    Args:
        root: The folder of the annotations.
        features: The folder of the features, extracted with the queries.
        train: Annotations to train on: `nlq_train.json`, or VSLNet's `train.json`.
        val: Annotations to validate on.
        test: Annotations to test on, or to predict for.
        max_positions: Longer clips are averaged down to this number of features.
        highlight_margin: Share of a window's length by which the highlight extends it on each side.
        more_queries: Other annotations whose queries the features are extracted for, too, so that the same features
            serve trainings and tests on several files.
        narration_jitter: In training, expand the spans of narrations (queries that begin with `#`, see `egovlpv2 naq`)
            by a random factor from 1 to this, and shift them; null: leave them as they are.
        **kwargs: Arguments of all data sets with features, see `FeatureDataModule`.
    """

    tasks = ("egovlpv2.tasks.nlq.NLQ",)
    evaluated = "queries"
    kinds = ("fused", "transformed", "projected", "dual", "unit")

    def __init__(self, root: str, features: str, train: str = "nlq_train.json", val: str = "nlq_val.json",
                 test: str | None = None, max_positions: int = 256, highlight_margin: float = 0.1,
                 more_queries: Sequence[str] = (), narration_jitter: float | None = None, **kwargs: Any) -> None:
        super().__init__(root, features, train, val, test, **kwargs)
        require_at_least(1, max_positions=max_positions)
        require_at_least(0, highlight_margin=highlight_margin)
        require_at_least(1, narration_jitter=1.0 if narration_jitter is None else narration_jitter)
        self.max_positions, self.highlight_margin = max_positions, highlight_margin
        self.more_queries, self.narration_jitter = tuple(more_queries), narration_jitter

    @property
    def protocol(self) -> dict[str, Any]:
        return super().protocol | {"max_positions": self.max_positions, "highlight_margin": self.highlight_margin,
                                   "narration_jitter": self.narration_jitter}

    @property
    def clip_facts(self) -> dict[str, Any]:
        return super().clip_facts | {"averaged_to": self.max_positions}

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled queries, without those whose window has no length."""
        queries = self.queries("train")
        long = [query for query in queries if query.window is not None and query.window[1] > query.window[0]]
        self.counts |= {"train_without_length": len(queries) - len(long)}
        if not long:
            raise ValueError(f"{self.path('train')}: none of {len(queries)} queries with features has a window")
        self.counts |= {"train_narrations": sum(query.text.startswith("#") for query in long)}
        return self.train_loader(NLQQueries(long, self.read, self.max_positions, self.narration_jitter, self.seed),
                                 self._collate)

    def val_dataloader(self) -> DataLoader:
        """The queries of `val`."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader:
        """The queries of `test`."""
        self.require_ground_truth("test")
        return self._evaluation("test")

    def predict_dataloader(self) -> DataLoader:
        """The queries of `test`, or of `val` if there is none, to answer."""
        return self._evaluation("val" if self.test is None else "test")

    @property
    def query_files(self) -> list[str]:
        """The annotations of all splits, and others."""
        names = dict.fromkeys((self.train, self.val, self.test, *self.more_queries))
        return [str(self.annotations(name)) for name in names if name]

    def has_ground_truth(self, split: str) -> bool:
        return any(query.window is not None for clip in read_nlq_queries(self.path(split)) for query in clip)

    def annotated_spans(self, split: str) -> list[ClipSpan]:
        return [query.span for clip in read_nlq_queries(self.path(split)) for query in clip]

    def spans(self, split: str) -> list[ClipSpan]:
        return [query.span for query in self.queries(split)]

    def _evaluation(self, split: str) -> DataLoader:
        queries = self.queries(split)
        self.counts |= {f"{split}_without_length": sum(q.window is not None and q.window[0] == q.window[1]
                                                       for q in queries)}
        return self.eval_loader(NLQQueries(queries, self.read, self.max_positions), self._collate)

    def queries(self, split: str) -> list[NLQQuery]:
        """The queries of a split whose clips have features.

        Raises:
            ValueError: There are none.
        """
        path = self.path(split)
        clips = list(read_nlq_queries(path))
        annotated = [query for clip in clips for query in clip]
        with_text = [query for query in annotated if query.text]
        queries = [query for query in with_text if self.has_features(query.span)]
        self.counts |= {f"{split}_clips_without_queries": sum(not clip for clip in clips),
                        f"{split}_empty_queries": len(annotated) - len(with_text),
                        f"{split}_without_features": len(with_text) - len(queries)}
        if not queries:
            raise ValueError(f"{self.features} has features of none of the clips of {path}: extract them with "
                             f"`egovlpv2 extract VIDEOS --kind fused --queries {path} --out {self.features}`")
        return queries

    def _collate(self, samples: list[NLQSample | None]) -> QueryBatch:
        real = [sample for sample in samples if sample is not None]
        width = self.folder.recipe.width
        if not real:  # padding alone: one empty position, which the task leaves out
            return _batch([], pad([torch.zeros(1, width)], 1), pad([torch.zeros(1, 1)], 1), self.highlight_margin)
        # VSLNet's convolutions see the padding: its length is constant, so that outputs don't depend on the batch.
        video = pad([sample.video for sample in real], self.max_positions)
        tokens = pad([sample.tokens for sample in real], max(sample.max_tokens for sample in real))
        return _batch(real, video, tokens, self.highlight_margin)


def _batch(samples: list[NLQSample], video: tuple[Tensor, Tensor], tokens: tuple[Tensor, Tensor], margin: float
           ) -> QueryBatch:
    (features, mask), (query, query_mask) = video, tokens
    spans = [sample.span for sample in samples]
    highlight = torch.zeros(len(samples), features.shape[1])
    for row, (start, end), sample in zip(highlight, spans, samples, strict=True):
        extra = round(margin * (end - start + 1))
        row[max(start - extra, 0) : min(end + extra, len(sample.video) - 1) + 1] = 1
    span = torch.tensor(spans, dtype=torch.int64).reshape(-1, 2)
    window = torch.tensor([s.query.window or (torch.nan, torch.nan) for s in samples],
                          dtype=torch.float32).reshape(-1, 2)
    count = len(samples)
    return QueryBatch(
        key=[(s.query.span.clip, s.query.annotation, s.query.index) for s in samples],
        index=torch.tensor([s.row for s in samples], dtype=torch.int64), text=[s.query.text for s in samples],
        video=features[:count], video_mask=mask[:count], query=query[:count], query_mask=query_mask[:count],
        start=span[:, 0], end=span[:, 1], highlight=highlight, window=window,
        duration=torch.tensor([s.duration for s in samples], dtype=torch.float32),
    )


def label_span(window: tuple[float, float], duration: float, positions: int) -> tuple[int, int]:
    """First and last position of the span with the largest IoU with a window (seconds), which may end outside.

    A window without overlap, since it has no length or lies beyond the end, gets the nearest position.
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


def read_nlq_queries(path: Path) -> Iterator[list[NLQQuery]]:
    """The queries of each clip of an official `nlq_*.json`, or of VSLNet's files; a missing text is empty.

    Raises:
        ValueError: The file is of another form, an id is there twice, or a window ends before it begins or lies outside
            its clip.
    """
    for clip in read_nlq(path):
        where = f"{path}: clip {plain(clip.clip)}"
        span = _span(clip, where)
        queries = [NLQQuery(span, _annotation(query, where), query.index, query.text, query.window)
                   for query in clip.queries]
        for query in queries:
            if query.window is not None:
                check_times(f"{path}: query {plain(query.key)}", *query.window, query.span.duration)
        yield queries


def _span(clip: AskedClip, where: str) -> ClipSpan:
    if clip.start is None or clip.end is None:
        raise ValueError(f"{where} has no times: give video_start_sec and video_end_sec (in VSLNet's files "
                         "fps and num_frames)")
    return check_span(clip.clip, clip.video, clip.start, clip.end, where)


def _annotation(query: AskedQuery, where: str) -> str:
    if query.annotation is None:
        raise ValueError(f"{where}: the query {shown(query.text)} is in an annotation without annotation_uid: give one")
    return query.annotation

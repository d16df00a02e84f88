"""A search as the API takes it, in the thread of the model."""

import time
from collections.abc import Callable, Sequence
from math import inf, isfinite
from typing import NamedTuple

from egovlpv2.search.index import Index
from egovlpv2.search.moments import Moment
from egovlpv2.serve.errors import Refusal, printable
from egovlpv2.serve.library import Library, Video
from egovlpv2.serve.schemas import FoundMomentBody, SearchBody
from egovlpv2.video.clock import clock


class Query(NamedTuple):
    """Arguments of a search.

    Args:
        text: A text, or None.
        like: An example, `ID@SECONDS` or `NAME@SECONDS` of a video of the index, or None.
        top: Moments at most.
        rerank: So many of the best are scored with the gate open.
        min_score: The lowest cosine.
        videos: Names with wildcards; None for all.
        without: A text; moments that fit it better are left out.
    """

    text: str | None = None
    like: str | None = None
    top: int = 20
    rerank: int = 0
    min_score: float | None = None
    videos: Sequence[str] | None = None
    without: str | None = None

    @property
    def title(self) -> str:
        """The query in words."""
        parts = [part for part in (self.text, f"like {self.like}" if self.like else None) if part]
        return " and ".join(parts) + (f", not {self.without}" if self.without else "")


class Found(NamedTuple):
    """The moments that were found, each with its video."""

    query: Query
    moments: list[tuple[Moment, Video]]
    searched: str
    seconds: float
    notices: list[str]
    deviation: float | None = None

    def body(self) -> SearchBody:
        """Make the API's answer; looks at the videos' files."""
        rows = [FoundMomentBody(rank=rank, video=video.id, name=video.title, start=round(moment.start, 3),
                                end=round(moment.end, 3), time=f"{clock(moment.start)} – {clock(moment.end)}",
                                score=moment.score, cosine=moment.cosine, match=moment.match,
                                problem=printable(video.problem))
                for rank, (moment, video) in enumerate(self.moments, 1)]
        return SearchBody(query=printable(self.query.title), searched=self.searched, seconds=self.seconds,
                          notices=self.notices, deviation=self.deviation, results=rows)


def find_moments(library: Library, query: Query, on_moment: Callable[[], None] = lambda: None) -> Found:
    """Search the index.

    Args:
        library: With the index.
        query: What to search for.
        on_moment: Called before each moment that is reranked; what it raises ends the search.

    Raises:
        Refusal: No video has such a name.
        ValueError: There is neither a text nor an example, or one of them can't be searched for.
    """
    index = library.index
    if query.text is None and query.like is None:
        raise Refusal(422, "give a text to search for as q, an example as like, or both")
    begun = time.monotonic()
    named = None if query.videos is None else _names(index, query.videos)
    like = None if query.like is None else _example(library, query.like)
    found = index.find(query.text, like, query.top, query.rerank, query.min_score, named, query.without, on_moment)
    store = index.store
    searched = f"{len(store):,} windows of {len(store.names)} videos, {store.hours:.2f} hours" if named is None else (
        f"{len(named)} of {len(store.names)} videos")
    shown = [(moment, library.named(moment.video)) for moment in found.moments
             if moment.video in index.manifest.videos]
    notices = [*_notices(index, query), *([found.chance] if found.chance else [])]
    return Found(query, shown, searched, time.monotonic() - begun, notices, found.deviation)


def _names(index: Index, patterns: Sequence[str]) -> list[str]:
    """Look up the names that patterns stand for."""
    try:
        return index.matching(patterns) or []
    except ValueError as error:
        raise Refusal(404, str(error)) from error


def _example(library: Library, like: str) -> str:
    """Check an example, which names a video of the index and never a file."""
    name, at, time_ = like.rpartition("@")
    try:
        seconds = float(time_) if at else inf
    except ValueError:
        seconds = inf
    if not name or not isfinite(seconds) or seconds < 0:
        raise Refusal(422, f"like {like!r:.100}: give VIDEO@SECONDS, the id or the name of a video of the index and a "
                           "time")
    video = library.named(name)
    return f"{video.name}@{video.require_time(seconds):.3f}"


def _notices(index: Index, query: Query) -> list[str]:
    """Tell which texts are longer than what the model reads of them."""
    notices = []
    for name, text in (("query", query.text), ("text to leave out", query.without)):
        if text is not None and (tokens := len(index.tokenizer(text)["input_ids"])) > index.max_tokens:
            notices.append(f"the {name} has {tokens} tokens, of which the first {index.max_tokens} are searched for")
    return notices

"""Search an index and show what is found as a table and as a page: `egovlpv2 search`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from egovlpv2.arguments import check_call
from egovlpv2.command.errors import one_line
from egovlpv2.command.options import require_text
from egovlpv2.features.query_encoding import warn_if_truncated
from egovlpv2.io.files import make_folder_of, require_suffix
from egovlpv2.search.index import Index
from egovlpv2.search.manifest import FILE as MANIFEST
from egovlpv2.search.moments import Moment
from egovlpv2.search.page import Card, jpegs, write_page
from egovlpv2.types import Count, NonNegativeInt, NumTokens, Precision
from egovlpv2.video.clock import clock
from egovlpv2.video.container import VideoError
from egovlpv2.video.export import check_targets, write_moments
from egovlpv2.video.moment_lists import FoundMoment


@dataclass(frozen=True)
class SearchResult:
    """Moments that fit a text, and the page that shows them.

    Args:
        moments: The best first.
        problems: Why a moment has no pictures, each reason once.
        summary: How much was searched, in words.
        page: The page.
        exported: Other files that were written.
        deviation: Distance of the best moment from chance, see `egovlpv2.search.index.Found`; None if it isn't known.
    """

    moments: list[Moment]
    problems: list[str]
    summary: str
    page: Path
    exported: Sequence[Path] = ()
    deviation: float | None = None

    def __str__(self) -> str:
        size = self.page.stat().st_size / 1e6
        lines = [table(self.moments, self.problems), self.summary, f"written: {self.page} ({size:.1f} MB)"]
        return "\n".join([*lines, *(f"written: {path}" for path in self.exported)])


def search(query: str | None = None, index: str | Path = "index", *, like: str | None = None, top: Count = 10,
           rerank: NonNegativeInt = 0, min_score: float | None = None, videos: Sequence[str] | None = None,
           without: str | None = None, after: str | None = None, before: str | None = None, table: str | None = None,
           out: str | Path = "search.html", export: Sequence[str] | None = None, sound: bool = False,
           weights: str | None = None, tokenizer: str | None = None, max_tokens: NumTokens | None = None,
           device: str | None = None, precision: Precision | None = None) -> SearchResult:
    """Find moments by a text, by an example or by both, as a table and as a page.

    Args:
        query: what happens, as narrations say it: '#C C opens the jar'
        index: folder that `egovlpv2 index` wrote
        like: an example: VIDEO@SECONDS of the index, or the file of a clip or of a picture
        top: moments to show
        rerank: look at so many of the best with the gate open, and rank them by cosine plus probability of a match
        min_score: moments with a lower cosine are left out
        videos: names of the videos to search in, such as 'kitchen*'; all if not given
        without: a text; moments that fit it better than the query are left out
        after: search in videos of this time or later, such as 2026-05-01 or '2026-05-01 14:30'
        before: search in videos from before this time
        table: a CSV file with the times of videos, in the columns video and time; if not given, they are those at which
            their files were last written to
        out: the page
        export: files to write the moments to: a folder for clips (.mp4), or a .csv, .json, .srt, .vtt or .edl
        sound: clips keep the sound of their video
        weights: those of the index, if they have moved
        tokenizer: the text tower's, if it has moved
        max_tokens: tokens of the query; as the index says, if not given
        device: cuda or cpu; cuda where there is one
        precision: bf16 on a GPU if not given, else 32

    Raises:
        ValueError: An argument or a file doesn't allow it.
    """
    check_call(search, locals())
    if query is not None:
        require_text("the query", query, "say what happens, such as '#C C opens the jar'")
    elif like is None:
        raise ValueError("give a query, such as '#C C opens the jar', or an example with --like")
    title = " and ".join(part for part in (query, f"like {like}" if like else None) if part)
    title += f", not {without}" if without else ""
    page = Path(out)
    make_folder_of(page)
    require_suffix(page, ".html", "the page")
    check_targets(export or [], others=[page, table, Path(index) / MANIFEST])
    opened = Index(index, weights, tokenizer, max_tokens, device, precision)
    if query is not None:
        warn_if_truncated(opened.tokenizer, "query", query, opened.max_tokens)
    some = opened.matching(videos, after, before, table)
    begun = time.perf_counter()
    found = opened.find(query, like, top, rerank, min_score, some, without)
    moments = found.moments
    store = opened.store
    searched = f"{len(store):,} windows of {len(store.names)} videos, {store.hours:.2f} hours" if some is None else (
        f"{len(some)} of {len(store.names)} videos")
    summary = f"{searched}, searched in {time.perf_counter() - begun:.2f} s"
    if found.chance:
        summary += f"\n{found.chance}"
    cards = [_card(opened, moment) for moment in tqdm(moments, desc="pictures", unit="moment", leave=False)]
    write_page(page, title, cards, summary)
    problems = dict.fromkeys(card.problem for card in cards if card.problem)
    exported = write_moments(export or [], [_found(opened, moment, title) for moment in moments
                                            if moment.video in opened.manifest.videos], sound)
    return SearchResult(moments, list(problems), summary, page, exported, found.deviation)


def _found(index: Index, moment: Moment, label: str) -> FoundMoment:
    entry = index.manifest.videos[moment.video]
    return FoundMoment(entry.source(moment.video), entry.chunk_seconds, moment.start, moment.end, label, moment.score)


def _card(index: Index, moment: Moment) -> Card:
    """Read the pictures of a moment, or the reason why there are none."""
    try:
        return Card(moment, jpegs(index.frames(moment)), "")
    except VideoError as error:
        return Card(moment, [], str(error))


def table(moments: Sequence[Moment], problems: Sequence[str]) -> str:
    """Lay moments out as rows of text; under them, the problems with their videos."""
    if not moments:
        return "nothing was found: no moment is as near as asked for"
    names = [one_line(moment.video) for moment in moments]
    width = max(map(len, ["video", *names]))
    lines = [f"rank   score  cosine   match  {'video':<{width}}  from - to"]
    for rank, (moment, name) in enumerate(zip(moments, names, strict=True), 1):
        match = "      -" if moment.match is None else f"{moment.match:7.3f}"
        lines.append(f"{rank:4}{moment.score:8.3f}{moment.cosine:8.3f} {match}  {name:<{width}}  "
                     f"{clock(moment.start)} - {clock(moment.end)}")
    return "\n".join([*lines, *(f"no pictures: {problem}" for problem in problems)])

"""Search in an index of videos: moments that fit a text.

The closed gate compares the text with all windows; the open gate may rerank the best of them.
"""

import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from egovlpv2.arguments import check_call
from egovlpv2.batch import Text
from egovlpv2.checkpoints.inference import fingerprint, open_backbone
from egovlpv2.checkpoints.weights import find_weights
from egovlpv2.command.options import require_text
from egovlpv2.device import autocast
from egovlpv2.features.query_encoding import TextEmbedder
from egovlpv2.io.files import refuse_unreadable
from egovlpv2.search.chance import LEAST_DEVIATION, TEXTS
from egovlpv2.search.dates import videos_between
from egovlpv2.search.examples import read_example
from egovlpv2.search.manifest import VideoEntry
from egovlpv2.search.moments import Moment
from egovlpv2.search.store import open_store
from egovlpv2.tokenization import load_fitting_tokenizer
from egovlpv2.types import Count, NonNegativeInt, NumFrames, NumTokens, Precision, Side
from egovlpv2.video.container import VideoError
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import WholePicture


class Found(NamedTuple):
    """What a search has found.

    Args:
        moments: The best first.
        cosine: The best cosine of all, also if reranking has left it out; None if there are no moments.
        deviation: Distance of that cosine from the mean of the best ones that arbitrary texts have in the same videos,
            in standard deviations: below `LEAST_DEVIATION` nothing fits. None for a search by example, without moments,
            and where a video is not compared yet: `build_index` does that.
    """

    moments: list[Moment]
    cosine: float | None
    deviation: float | None

    @property
    def chance(self) -> str:
        """Say that the moments are no better than chance; empty if they are, or if it isn't known."""
        if self.cosine is None or self.deviation is None or self.deviation >= LEAST_DEVIATION:
            return ""
        side = "above" if self.deviation >= 0 else "below"
        return (f"nothing fits better than chance would: the best cosine is {self.cosine:.3f}, "
                f"{abs(self.deviation):.1f} standard deviations {side} the mean of the best that {len(TEXTS)} "
                "arbitrary texts have in these videos")


class Index:
    """Videos to search in.

    Args:
        folder: What `egovlpv2 index` wrote.
        weights: The weights that it was made with, if they have moved.
        tokenizer: The text tower's, if it has moved.
        max_tokens: Tokens of a query, if not as many as the index says.
        device: Where the model runs; CUDA where there is one.
        precision: `bf16` or `32`; `bf16` on a GPU if not given.

    Raises:
        ValueError: An argument is out of bounds, the folder isn't an index or is empty, or its weights are missing or
            are not those given.
    """

    def __init__(self, folder: str | os.PathLike[str], weights: str | None = None, tokenizer: str | None = None,
                 max_tokens: NumTokens | None = None, device: str | None = None, precision: Precision | None = None
                 ) -> None:
        check_call(Index.__init__, locals())
        self.folder = Path(folder)
        self.manifest, self.store = open_store(self.folder)
        path = self._weights(weights)
        self.max_tokens = self.manifest.max_tokens if max_tokens is None else max_tokens
        self.backbone = open_backbone(path, self.store.recipe.frames, device)
        self.tokenizer = load_fitting_tokenizer(tokenizer or self.manifest.tokenizer, self.backbone.text_tower)
        self._precision = autocast(precision, self.backbone.device)
        self._embed_texts = TextEmbedder(self.backbone, self.tokenizer, self.max_tokens, precision)

    def _weights(self, given: str | None) -> str:
        """Find the weights, which must be those of the index."""
        path, made_with = str(find_weights(given or self.manifest.weights)), self.store.recipe.checkpoint
        refuse_unreadable(Path(path), "a weights file")
        if not Path(path).is_file():
            raise ValueError(f"{path}: the weights of {self.folder} are not there (any more): say where with --weights")
        # Gigabytes are hashed only if the file isn't the one that the index remembers.
        if not self.manifest.has_seen(path) and (here := fingerprint(path)) != made_with:
            raise ValueError(f"{self.folder} was made with the weights {made_with}, and {path} is {here}: give those, "
                             "or index the videos anew, into another folder")
        return path

    def search(self, text: str | None = None, like: str | None = None, top: Count = 10, rerank: NonNegativeInt = 0,
               min_score: float | None = None, videos: Sequence[str] | None = None, without: str | None = None
               ) -> list[Moment]:
        """Find the moments that fit a text or an example best, the best first; no two of a video overlap.

        Args:
            text: What happens, as EgoClip's narrations say it: `#C C opens the jar`.
            like: An example, alone or beside the text: `VIDEO@SECONDS`, a moment of the index, which is not found
                itself; or the file of a clip or of a picture.
            top: How many at most.
            rerank: So many of the best are scored with the gate open too, and ranked by cosine plus probability of a
                match; the others follow.
            min_score: Moments with a lower cosine are left out.
            videos: Names of the videos to search in, with the wildcards `*`, `?` and `[...]`; None for all.
            without: A text; moments that fit it better than what is searched for are left out.

        Raises:
            ValueError: There is neither a text nor an example, one of them can't be read, no video has such a name,
                `top` is below 1, `rerank` below 0, or above it without a text or without fusion.
        """
        check_call(Index.search, locals())
        return self.find(text, like, top, rerank, min_score, videos, without).moments

    @torch.inference_mode()
    def find(self, text: str | None = None, like: str | None = None, top: int = 10, rerank: int = 0,
             min_score: float | None = None, videos: Sequence[str] | None = None, without: str | None = None,
             on_moment: Callable[[], None] = lambda: None) -> "Found":
        """Search, and compare what is found with chance.

        Args:
            text: As for `search`, like all others but the last.
            like: An example.
            top: How many at most.
            rerank: How many to look at with the gate open.
            min_score: The lowest cosine.
            videos: Names of videos.
            without: A text to leave out.
            on_moment: Called before each moment that is reranked; what it raises ends the search.

        Raises:
            ValueError: As `search`.
        """
        for given, name in ((text, "the query"), (without, "the text to leave out")):
            if given is not None:
                require_text(name, given, "say what happens, such as '#C C opens the jar'")
        if text is None and like is None:
            raise ValueError("give a text to search for, an example, or both")
        if rerank:
            if text is None:
                raise ValueError(f"rerank={rerank} needs a text: the open gate compares moments with words")
            self.backbone.config.require_fusion(f"rerank={rerank}")
        example = None if like is None else read_example(like, self.store, self._embed_clip)
        parts = [*([] if text is None else [self._embed(text)]), *([] if example is None else [example.embedding])]
        named = self._names(videos)
        moments = self.store.topk(
            normalize(torch.stack(parts).sum(0), dim=0), max(top, rerank), named,
            None if without is None else self._embed(without),
            (example.video, example.seconds) if example is not None and example.video else None, min_score)
        deviation = None if example is not None else self._deviation(moments, named)
        reranked = [] if text is None else self._match(moments[:rerank], self._embed_texts.tokens([text]), on_moment)
        ranked = [*sorted(reranked, key=lambda moment: (moment.match is None, -moment.score)), *moments[rerank:]]
        return Found(ranked[:top], max((moment.cosine for moment in moments), default=None), deviation)

    def _deviation(self, moments: Sequence[Moment], videos: Sequence[str] | None) -> float | None:
        """Compare the best of the moments found by a text with what arbitrary texts reach in the same videos."""
        if not moments or self.store.chance is None:
            return None
        best = max(moment.cosine for moment in moments)
        return self.store.chance.deviation(best, self.store.names if videos is None else videos)

    def matching(self, videos: Sequence[str] | None = None, after: str | None = None, before: str | None = None,
                 table: str | None = None) -> list[str] | None:
        """Find the videos of some names and of a span of time, for `search`'s `videos`.

        Args:
            videos: Names, with the wildcards `*`, `?` and `[...]`; None for any.
            after: The earliest time, as `2026-05-01` or `2026-05-01 14:30`; None for any.
            before: A time that is too late; None for none.
            table: A CSV file with the times of videos, see `videos_between`; None for those of their files.

        Returns:
            Their names; None for all videos.

        Raises:
            ValueError: There are none, or a time or the table can't be read.
        """
        named = self._names(videos)
        if after is None and before is None and table is None:
            return named
        dated = videos_between(self.manifest.videos, after, before, table)
        among = set(self.store.names if named is None else named)
        found = [name for name in dated if name in among]
        if not found:
            raise ValueError(f"none of the {len(dated)} videos of that time, such as {dated[0]!r}, has such a name, or "
                             "is indexed already")
        return found

    def _embed(self, text: str) -> Tensor:
        """Embed a text: (P,) of length one."""
        return self._embed_texts([text])[0]

    def _embed_clip(self, frames: Tensor) -> Tensor:
        """Embed a clip, (T, 3, H, W) uint8: (P,) of length one."""
        with self._precision:
            return normalize(self.backbone.embed_video(frames[None].to(self.backbone.device))[0].float(), dim=0).cpu()

    def _names(self, patterns: Sequence[str] | None) -> list[str] | None:
        """The videos that patterns stand for.

        Raises:
            ValueError: A pattern stands for none, or can't be read.
        """
        if patterns is None:
            return None
        found: dict[str, None] = {}
        for pattern in patterns:
            literal = pattern in self.store.numbers  # though it may hold `[`
            try:
                names = [pattern] if literal else [name for name in self.store.names if fnmatchcase(name, pattern)]
            except re.error as error:
                raise ValueError(f"{pattern!r} can't be read as a name with wildcards: check its brackets") from error
            if not names:
                raise ValueError(f"no video of the index is named {pattern!r}; there are {len(self.store.names)}, such "
                                 f"as {self.store.names[0]!r}")
            found |= dict.fromkeys(names)
        return list(found)

    def _match(self, moments: Sequence[Moment], tokens: Text, on_moment: Callable[[], None]) -> list[Moment]:
        """Score moments with the gate open; those whose video can't be read stay without a match."""
        seen = []
        for moment in tqdm(moments, desc="reranking", unit="moment", leave=False, disable=(
                len(moments) < 2 or threading.current_thread() is not threading.main_thread())):
            on_moment()
            try:
                video = self._window(moment).to(self.backbone.device)  # (1, T, 3, H, W)
            except VideoError:
                seen.append(moment)
                continue
            with self._precision:
                logits = self.backbone.vtm_logits(video, tokens)  # (1, 2)
            seen.append(replace(moment, match=float(logits[0].float().softmax(-1)[1])))
        return seen

    def _window(self, moment: Moment) -> Tensor:
        """Read the frames that the model sees of a moment: (1, T, 3, H, W) uint8."""
        entry = self._entry(moment)
        windows = self.store.recipe.windows(entry.chunk_seconds)
        return windows.read(entry.source(moment.video), moment.end, moment.window_index, 1)

    def frames(self, moment: Moment, count: NumFrames = 6, short_side: Side = 270) -> Tensor:
        """Read whole pictures of a moment, at the centres of equal parts: (n, 3, H, W) uint8.

        Raises:
            ValueError: `count` or `short_side` is out of bounds.
            VideoError: The video is not there any more, has changed, or can't be read.
        """
        check_call(Index.frames, locals())
        entry = self._entry(moment)
        times = uniform_times(moment.start, moment.end, count)
        return entry.source(moment.video).read(times, WholePicture(short_side), entry.chunk_seconds).frames

    def _entry(self, moment: Moment) -> VideoEntry:
        """Look up a moment's video.

        Raises:
            VideoError: It is not there any more, or has changed.
        """
        entry = self.manifest.videos.get(moment.video)
        if entry is None:
            raise VideoError(f"{moment.video} is not in the index's list: run `egovlpv2 index` on it again")
        if entry.problem:
            raise VideoError(entry.problem)
        return entry

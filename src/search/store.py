"""The embeddings of an index: one row for each window, mapped from its files.

One product with the query's embedding reads every row once, in float16: memory's speed bounds it, not arithmetic. Where
the index has codes, these are read instead, and the best thousand of the rows.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egovlpv2.features.files import SUFFIX, Features, read_features
from egovlpv2.features.header import Recipe
from egovlpv2.search.chance import Chance
from egovlpv2.search.coded_rows import FEW_ROWS, CodedRows
from egovlpv2.search.manifest import IndexManifest, read_manifest
from egovlpv2.search.moments import Moment, temporal_nms
from egovlpv2.types import FeatureKind

KIND: FeatureKind = "unit"
_AT_ONCE, _HEADER = 16, 8192  # files, and bytes of each
_CANDIDATES, _MOST_CANDIDATES = 1000, 20_000  # windows whose cosines are computed where the index has codes


class EmbeddingStore:
    """All windows of an index.

    Args:
        folder: Of the index.
        manifest: Its manifest, which says what is whole; None: all embeddings in the folder are checked.

    Raises:
        ValueError: It holds no embeddings, or others than `egovlpv2 index` writes; one of them is damaged or not of
            length one, or all are the same; the codes can't be read.
    """

    def __init__(self, folder: Path, manifest: IndexManifest | None = None) -> None:
        known = {} if manifest is None else manifest.embeddings
        self.paths = sorted(path for path in folder.glob(f"*{SUFFIX}") if not known or path.stem in known)
        if not self.paths:
            raise ValueError(f"{folder} has no finished videos: run `egovlpv2 index VIDEOS --out {folder}`")

        def read(path: Path) -> tuple[Features, bool]:
            with path.open("rb", buffering=0) as file:
                file.read(_HEADER)  # side by side with others, while safetensors would wait for the disk alone
            whole = path.stem in known and known[path.stem].matches(path)
            try:
                return read_features(path, checked=whole), whole
            except ValueError as error:
                if path.stem not in known:
                    raise
                raise ValueError(f"{path} is damaged: `egovlpv2 index --check --out {folder}` sets it aside ({error})"
                                 ) from error

        with ThreadPoolExecutor(_AT_ONCE) as pool:  # what is not in memory waits for the disk
            features, whole = zip(*pool.map(read, self.paths), strict=True)
        self.recipe = features[0].recipe
        _check_recipes(folder, self.paths, [video.recipe for video in features])
        self.names = [path.stem for path in self.paths]
        self.values = [video.values for video in features]  # (n, D) each, float16, mapped
        self.durations = [video.duration for video in features]
        self.numbers = {name: i for i, name in enumerate(self.names)}
        self._count = sum(map(len, self.values))
        if len(self) > 1 and _all_same(self.values):
            raise ValueError(f"{folder}: all {len(self):,} windows have the same embedding: the weights "
                             f"{self.recipe.checkpoint} are not sound, or nothing happens in these videos")
        sound = {name: i for i, name in enumerate(self.names) if whole[i]}
        self.chance = self.codes = None
        if manifest is not None and manifest.chance is not None:
            self.chance = Chance(folder, manifest.chance, {name: known[name] for name in sound})
        if manifest is not None and manifest.codes is not None:
            self.codes = CodedRows(folder, manifest.codes, known, sound, self.paths)

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
        # A window overlaps so many others at most.
        most = count * (1 + 2 * (-(-self.recipe.window // self.recipe.stride) - 1))
        scanned, moments = list(some), []
        if self.codes is not None and sum(len(self.values[i]) for i in some) > FEW_ROWS:
            coded = set(some) & self.codes.videos
            if len(found := self._rescored(query, coded, most, unwanted, except_at)) >= most:
                scanned, moments = [i for i in some if i not in coded], found
        if scanned:
            moments += self._scanned(query, scanned, most, unwanted, except_at)
        fitting = [moment for moment in moments if min_cosine is None or moment.cosine >= min_cosine]
        return temporal_nms(sorted(fitting, key=lambda moment: -moment.cosine), self.seconds, count)

    def _scanned(self, query: Tensor, some: Sequence[int], most: int, unwanted: Tensor | None,
                 except_at: tuple[str, float] | None) -> list[Moment]:
        """Find the best windows of some videos by reading all of theirs."""
        half = query.half()
        with one_thread():
            scores = torch.cat([self.values[i] @ half for i in some])  # (n,)
            if unwanted is not None:
                scores[scores < torch.cat([self.values[i] @ unwanted.half() for i in some])] = -torch.inf
        if except_at is not None:
            self._leave_out(scores, some, *except_at)
        best = scores.topk(min(most, int((scores > -torch.inf).sum())))
        first = np.cumsum([0, *(len(self.values[i]) for i in some)])
        return [self._moment(row, query, some, first) for row in best.indices.tolist()]

    def _rescored(self, query: Tensor, some: set[int], most: int, unwanted: Tensor | None,
                  except_at: tuple[str, float] | None) -> list[Moment]:
        """Find the best windows of some videos by the codes, and compute their cosines from the embeddings.

        These are fewer than `most` if the best windows of all videos are mostly other videos' or unwanted ones.
        """
        assert self.codes is not None
        found: list[Moment] = []
        for count in (max(_CANDIDATES, 10 * most), _MOST_CANDIDATES):
            if len(found) < most <= count <= _MOST_CANDIDATES:
                found = self._looked_at(query, some, count, unwanted, except_at)
        return found

    def _looked_at(self, query: Tensor, some: set[int], count: int, unwanted: Tensor | None,
                   except_at: tuple[str, float] | None) -> list[Moment]:
        """Compute the cosines of so many of all windows that seem best by the codes; leave out those not asked for."""
        assert self.codes is not None
        found = []
        for video, windows, rows in self.codes.candidates(query, some, count):
            cosines = rows @ query  # (n,)
            worse = cosines < rows @ unwanted if unwanted is not None else torch.zeros_like(cosines, dtype=torch.bool)
            found += [Moment(self.names[video], *self.span(video, place), float(cosine), window_index=place)
                      for place, cosine, bad in zip(windows, cosines, worse, strict=True)
                      if not bad and not self._shows(video, place, except_at)]
        return found

    def _leave_out(self, scores: Tensor, some: Sequence[int], name: str, seconds: float) -> None:
        """Set the scores of the windows that show a moment to minus infinity."""
        place = 0
        for i in some:
            for window in range(len(self.values[i]) if self.names[i] == name else 0):
                if self._shows(i, window, (name, seconds)):
                    scores[place + window] = -torch.inf
            place += len(self.values[i])

    def _shows(self, video: int, place: int, moment: tuple[str, float] | None) -> bool:
        """Tell if a window shows a moment, given by video and second, or is near it."""
        if moment is None or moment[0] != self.names[video]:
            return False
        start, end = self.span(video, place)
        return start - self.seconds / 2 <= moment[1] <= end + self.seconds / 2

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


def _all_same(values: Sequence[Tensor]) -> bool:
    """Tell if all rows, (n, D) each, are one; reads a few of them if they are not."""
    first = values[0][0]
    ends = (torch.equal(rows[place], first) for rows in values for place in (len(rows) // 2, -1))
    return all(ends) and all(bool((rows == first).all()) for rows in values)


def open_store(folder: Path) -> tuple[IndexManifest, EmbeddingStore]:
    """Open the manifest and the embeddings of an index as they were at one time, also while it is written to.

    Raises:
        ValueError: As `read_manifest` and `EmbeddingStore`.
    """
    while True:
        manifest = read_manifest(folder)
        try:
            return manifest, EmbeddingStore(folder, manifest)
        except (ValueError, OSError, RuntimeError):
            if read_manifest(folder) == manifest:  # else a writer has replaced what it names
                raise


def _check_recipes(folder: Path, paths: Sequence[Path], recipes: Sequence[Recipe]) -> None:
    """Refuse features that are no embeddings of an index, or not of one recipe."""
    first = recipes[0]
    if first.kind != KIND:
        raise ValueError(f"{paths[0]} holds features of kind {first.kind} and no index: `egovlpv2 index VIDEOS "
                         "--out FOLDER` makes one, in a folder of its own")
    if first.frame_rule != "centre":  # whose windows do not begin at multiples of `stride / fps`
        raise ValueError(f"{folder} holds features of frame_rule {first.frame_rule}, and an index has those "
                         "of centre: run `egovlpv2 index VIDEOS --out FOLDER`, with another folder")
    for path, recipe in zip(paths, recipes, strict=True):
        if recipe != first and (different := recipe.differences(asdict(first))):
            raise ValueError(f"{paths[0]} and {path.name} don't go together ({'; '.join(different)}): keep the "
                             "features of each model and each recipe in a folder of their own")


@contextmanager
def one_thread() -> Iterator[None]:
    """A context with one thread: it reads as fast as memory gives, and more would wait for each other at each file."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

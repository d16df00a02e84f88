"""Time of searching a large index of made-up embeddings: `egovlpv2 bench search`.

It writes an index of some hours to a folder that it deletes, opens it in a process of its own, and searches with
nothing of it in memory and then again.

The embeddings are clustered as those of activities: each of 2,000 centres is drawn for 20 windows after another, with
noise of 0.7 of its size, in 768 directions of falling importance, which a random matrix takes to the width. Queries are
drawn likewise.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from egovlpv2.bench.measure import BenchOptions, Figure, alone, peak_gb
from egovlpv2.features.files import SUFFIX, FeatureWriter
from egovlpv2.features.header import Recipe
from egovlpv2.io.files import write_json
from egovlpv2.search.codes import update_codes
from egovlpv2.search.manifest import FILE, IndexManifest, commit
from egovlpv2.search.moments import Moment, temporal_nms
from egovlpv2.search.store import KIND, EmbeddingStore, one_thread, open_store

_TOP = 10
_QUERIES = 100
_CENTRES, _LASTS, _DIRECTIONS, _NOISE = 2000, 20, 768, 0.7


class Activities:
    """A source of clustered embeddings.

    Args:
        width: Of an embedding.
    """

    def __init__(self, width: int) -> None:
        generator = torch.Generator().manual_seed(0)
        directions = min(_DIRECTIONS, width)
        self.size = (1 + torch.arange(directions) / 30).rsqrt()  # (R,)
        self.centres = torch.randn(_CENTRES, directions, generator=generator) * self.size  # (C, R)
        self.matrix = torch.randn(directions, width, generator=generator)  # (R, D)

    def draw(self, count: int, seed: int, lasts: int = 1) -> Tensor:
        """Draw embeddings of length one, (count, D), `lasts` after another around a centre."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(_CENTRES, (-(-count // lasts),), generator=generator).repeat_interleave(lasts)[:count]
        noise = torch.randn(count, len(self.size), generator=generator) * self.size
        return normalize((self.centres[chosen] + _NOISE * noise) @ self.matrix, dim=-1)


def write_video(folder: Path, number: int, activities: Activities, windows: int, seconds: float, every: float) -> None:
    """Write the embeddings of a video; they reach the disk."""
    recipe = Recipe(KIND, activities.matrix.shape[1], 1000.0, 2000, round(every * 1000), 4, 224, "0" * 16)
    with (folder / f"video{number:05}{SUFFIX}").open("wb") as file:
        writer = FeatureWriter(file, recipe, seconds, windows)
        writer.append(activities.draw(windows, number + 1, _LASTS))
        writer.finish()
        file.flush()
        os.fsync(file.fileno())


def write_index(folder: Path, hours: float, every: float, width: int, videos: int) -> None:
    """Write an index of made-up embeddings."""
    seconds = hours * 3600 / videos
    windows = max(int(seconds / every), 1)
    activities = Activities(width)
    for video in tqdm(range(videos), desc="writing", unit="video", mininterval=1):
        write_video(folder, video, activities, windows, seconds, every)
    write_json(folder / FILE, asdict(IndexManifest("made up", "made up", 30, {})))
    commit(folder)


def forget(folder: Path) -> bool:
    """Takes the files out of the page cache; whether the system can be asked for that."""
    if not hasattr(os, "posix_fadvise"):  # macOS
        return False
    for path in [*folder.glob(f"*{SUFFIX}"), *folder.glob("*.faiss")]:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def timed(work: Callable[[], object]) -> float:
    """Seconds that something takes."""
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def search_seconds(folder: Path, width: int) -> dict[str, float]:
    """Open an index and search in it.

    Returns:
        Seconds of opening it and of a first search, with nothing of it in memory where that is `from disk`; the median
        and the 95th percentile of further ones; the peak of the process's memory in GB before the index is opened and
        after; the share of the best moments that an exact search finds; seconds of reading all rows once on one thread,
        as a search without codes does.
    """
    queries = Activities(width).draw(_QUERIES, 0)
    forgotten, start = forget(folder), peak_gb()
    before = time.perf_counter()
    _, store = open_store(folder)
    opened = time.perf_counter() - before
    found: list[list[Moment]] = []
    took = [timed(lambda query=query: found.append(store.topk(query, _TOP))) for query in queries]  # type: ignore[misc]
    peak = peak_gb()
    with one_thread():
        read = timed(lambda: [values.view(torch.int16).max() for values in store.values])
    recall = 1.0 if store.codes is None else float(np.mean(
        [_same(some, exact) for some, exact in zip(found, _exact(store, queries), strict=True)]))
    return {"windows": len(store), "from disk": forgotten, "open": opened, "first": took[0],
            "more": float(np.median(took[1:])), "p95": float(np.quantile(took[1:], 0.95)), "before": start,
            "peak": peak, "recall": recall, "read": read, "coded": store.codes is not None}


def _exact(store: EmbeddingStore, queries: Tensor) -> list[list[Moment]]:
    """The best moments of all queries (q, D), with one pass over all rows, as a large index may not fit memory."""
    found: list[list[Moment]] = [[] for _ in queries]
    for video, values in enumerate(store.values):
        best = (queries @ values.float().T).topk(min(5 * _TOP, len(values)))  # (q, k)
        for moments, cosines, windows in zip(found, best.values.tolist(), best.indices.tolist(), strict=True):
            moments += [Moment(store.names[video], *store.span(video, window), cosine, window_index=window)
                        for cosine, window in zip(cosines, windows, strict=True)]
            moments.sort(key=lambda moment: -moment.cosine)
            del moments[5 * _TOP:]
    return [temporal_nms(moments, store.seconds, _TOP) for moments in found]


def _same(found: list[Moment], exact: list[Moment]) -> float:
    """The share of the exact moments that were found."""
    places = {(moment.video, moment.window_index) for moment in found}
    return sum((moment.video, moment.window_index) in places for moment in exact) / max(len(exact), 1)


def add_an_hour(folder: Path, width: int, every: float, number: int) -> float:
    """Seconds of adding a video of an hour whose embeddings are there, until it can be searched."""
    write_video(folder, number, Activities(width), int(3600 / every), 3600.0, every)
    before = time.perf_counter()
    commit(folder)
    update_codes(folder, None)
    return time.perf_counter() - before


def measure(options: BenchOptions) -> list[Figure]:
    """Figures of each width.

    Raises:
        ValueError: The folder isn't there, or the codes can't be made.
    """
    if options.folder is not None and not options.folder.is_dir():
        raise ValueError(f"--folder {options.folder} is not a folder: give one that is there")
    figures = []
    for width in options.widths:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            write_index(folder, options.hours, options.every, width, options.index_files)
            learning = timed(partial(update_codes, folder, options.store))
            got = alone(search_seconds, folder, width)
            hour = add_an_hour(folder, width, options.every, options.index_files)
        figures += _figures(got, width, options, learning, hour)
    return figures


def _figures(got: dict[str, float], width: int, options: BenchOptions, learning: float, hour: float) -> list[Figure]:
    size = f"{got['windows']:,.0f} windows, {width} wide, {got['windows'] * width * 2 / 1e9:.2f} GB, {options.store}"
    figures = [Figure("search", f"opening an index of {size}", got["open"], "s"),
               Figure("search", f"its first search{', all from disk' if got['from disk'] else ''}", got["first"], "s"),
               Figure("search", "further searches", got["more"], "s",
                      f"memory: reading all rows once {got['read']:.3g} s", got["more"] / got["read"]),
               Figure("search", "further searches, 95th percentile", got["p95"], "s"),
               Figure("search", "peak memory of the process", got["peak"], "GB",
                      f"before the index is opened {got['before']:.3g} GB", got["peak"] / got["before"]),
               Figure("search", "adding an hour", hour, "s")]
    if got["coded"]:
        figures += [Figure("search", f"best {_TOP} moments of an exact search, found", 100 * got["recall"], "%"),
                    Figure("search", "making the codes", learning, "s")]
    return figures

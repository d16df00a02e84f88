"""Time of searching a large index of made-up embeddings: `egovlpv2 bench search`.

It writes an index of some hours to a folder that it deletes, opens it, and searches with nothing of it in memory and
then again.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.nn.functional import normalize
from tqdm import tqdm

from egovlpv2.bench.measure import BenchOptions, Figure
from egovlpv2.features.files import SUFFIX, FeatureWriter
from egovlpv2.features.header import Recipe
from egovlpv2.search.store import KIND, EmbeddingStore, one_thread

_TOP = 10
_AT_ONCE = 4096  # rows that are drawn at a time
_REPEATS = 5


def write_index(folder: Path, hours: float, every: float, width: int, videos: int) -> None:
    """An index of random embeddings; each file reaches the disk."""
    recipe = Recipe(KIND, width, 1000.0, 2000, round(every * 1000), 4, 224, "0" * 16)
    seconds = hours * 3600 / videos
    windows = max(int(seconds / every), 1)
    generator = torch.Generator().manual_seed(0)
    for video in tqdm(range(videos), desc="writing", unit="video"):
        with (folder / f"video{video:05}{SUFFIX}").open("wb") as file:
            writer = FeatureWriter(file, recipe, seconds, windows)
            for first in range(0, windows, _AT_ONCE):
                rows = torch.randn(min(_AT_ONCE, windows - first), width, generator=generator)
                writer.append(normalize(rows, dim=-1))
            writer.finish()
            file.flush()
            os.fsync(file.fileno())


def forget(folder: Path) -> bool:
    """Takes the files out of the page cache; whether the system can be asked for that."""
    if not hasattr(os, "posix_fadvise"):  # macOS
        return False
    for path in folder.glob(f"*{SUFFIX}"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def timed(work: Callable[[], object]) -> float:
    """Seconds that something takes."""
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def search_seconds(folder: Path, width: int) -> dict[str, float]:
    """Seconds of opening an index and of a first search, with nothing of it in memory where that is `from disk`; the
    median of further ones, and of reading all rows once, in turn, on one thread as a search does.
    """
    queries = normalize(torch.randn(_REPEATS + 1, width, generator=torch.Generator().manual_seed(1)), dim=-1)
    forgotten = forget(folder)
    before = time.perf_counter()
    rows = EmbeddingStore(folder)
    opened = time.perf_counter() - before
    first = timed(lambda: rows.topk(queries[0], _TOP))
    read, more = [], []
    for query in queries[1:]:
        more.append(timed(partial(rows.topk, query, _TOP)))
        with one_thread():
            read.append(timed(lambda: [values.view(torch.int16).max() for values in rows.values]))
    return {"windows": len(rows), "from disk": forgotten, "open": opened, "first": first,
            "more": statistics.median(more), "read": statistics.median(read)}


def measure(options: BenchOptions) -> list[Figure]:
    """Figures of each width.

    Raises:
        ValueError: The folder isn't there.
    """
    if options.folder is not None and not options.folder.is_dir():
        raise ValueError(f"--folder {options.folder} is not a folder: give one that is there")
    figures = []
    for width in options.widths:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            write_index(Path(folder), options.hours, options.every, width, options.index_files)
            got = search_seconds(Path(folder), width)
        size = f"{got['windows']:,.0f} windows, {width} wide, {got['windows'] * width * 2 / 1e9:.2f} GB"
        figures += [Figure("search", f"opening an index of {size}", got["open"], "s"),
                    Figure("search", f"its first search{', all from disk' if got['from disk'] else ''}", got["first"],
                           "s"),
                    Figure("search", "further searches", got["more"], "s",
                           f"memory: reading all rows once {got['read']:.3g} s", got["more"] / got["read"])]
    return figures

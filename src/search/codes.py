"""Codes of an index's embeddings, which are smaller and faster to scan: `egovlpv2 index --store int8` or `pq`.

The codes find candidates, whose cosines are then computed from the embeddings themselves. They are made from the
embeddings and can be made anew at any time.

Letters: `D` width of an embedding, `R` width after the projection.
"""

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from egovlpv2.features.files import SUFFIX, read_features
from egovlpv2.io.files import sync, write_json
from egovlpv2.search.manifest import FILE, IndexManifest, locked, read_manifest
from egovlpv2.search.records import CodesRecord, CoveredVideo, FileRecord, is_current
from egovlpv2.types import CodesKind, EmbeddingKind

if TYPE_CHECKING:
    import faiss

_WIDTH = 256  # R: a product quantiser of so many numbers loses no neighbour of the base model's 4096 (docs/search.md)
_SAMPLE = 20_000  # rows to learn from
_FEWEST = 1000  # rows: 16 centres for each piece are learned from them
_AT_ONCE = 36_000  # rows: 10 hours, 0.6 GB of the base model's
_DEAD = 0.2  # share of rows of videos that have changed from which all codes are written anew


class TooFewWindows(ValueError):
    """An error for an index that is too small to learn codes from."""


class Codes:
    """The codes of an index, open to search in.

    Args:
        folder: Of the index.
        record: What the manifest says of them.

    Raises:
        ValueError: faiss is not installed, or the file is missing or damaged.
    """

    def __init__(self, folder: Path, record: CodesRecord) -> None:
        path = folder / record.file
        faiss = _faiss()
        if not record.record.matches(path):
            raise ValueError(f"{path} is missing or damaged: `egovlpv2 index --check --out {folder}` makes it anew")
        # Codes of 8 bits are gigabytes, and stay on the disk; the others are scanned from memory.
        try:
            self.index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if record.kind == "int8" else 0)
        except RuntimeError as error:
            raise ValueError(f"{path} can't be read: `egovlpv2 index --check --out {folder}` makes it anew") from error
        self.first = np.cumsum([0, *(video.windows for video in record.videos)])

    def __len__(self) -> int:
        return int(self.first[-1])

    def search(self, query: Tensor, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the rows that fit a query best: places of their videos in `record.videos`, and their windows."""
        _, found = self.index.search(query.float().numpy()[None], min(count, len(self)))
        rows = np.sort(found[0][found[0] >= 0])
        videos = np.searchsorted(self.first, rows, side="right") - 1
        return videos, rows - self.first[videos]


def update_codes(folder: Path, store: EmbeddingKind | None) -> None:
    """Bring the codes of an index in line with its embeddings; codes and manifest change together or not at all.

    Args:
        folder: Of the index.
        store: What to search in; None: as before.

    Raises:
        TooFewWindows: `store` asks for codes, and there are too few windows to learn them from.
        ValueError: faiss is not installed.
    """
    with locked(folder):
        manifest = read_manifest(folder)
        before = manifest.codes
        kind = store or (before.kind if before else "float16")
        try:
            codes = None if kind == "float16" else _current(folder, manifest, kind)
        except TooFewWindows:
            if store is not None:
                raise
            codes = None  # so few that they are searched as fast without
        if codes == before:
            return
        write_json(folder / FILE, asdict(replace(manifest, codes=codes)))
        for path in folder.glob("codes-*.faiss*"):  # a reader keeps the file that it has opened
            if codes is None or path.name != codes.file:
                path.unlink(missing_ok=True)


def _current(folder: Path, manifest: IndexManifest, kind: CodesKind) -> CodesRecord:
    """Codes of all recorded embeddings: those that are there, with rows added, or new ones."""
    embeddings, before = manifest.embeddings, manifest.codes
    kept: list[CoveredVideo] = []
    if before is not None and before.kind == kind and before.record.matches(folder / before.file):
        kept = list(before.videos)
        alive = [video for video in kept if is_current(video, embeddings)]
        total = sum(video.windows for video in kept)
        if total - sum(video.windows for video in alive) > _DEAD * total:
            kept = []
    covered = {video.name for video in kept if is_current(video, embeddings)}
    new = [name for name in embeddings if name not in covered]
    if before is not None and kept and not new:
        return before
    if kept:
        assert before is not None
        index: Any = _faiss().read_index(str(folder / before.file))
    else:
        index = _learn(folder, new, kind)
    for name in tqdm(new, desc="coding", unit="video", leave=False, mininterval=1):
        count = 0
        for rows in _pieces(folder, name):
            index.add(rows.float().numpy())
            count += len(rows)
        kept.append(CoveredVideo(name, embeddings[name].sha256, count))
    return _write(folder, index, kind, tuple(kept))


def _pieces(folder: Path, name: str) -> Sequence[Tensor]:
    """The embeddings of a video, (n, D) float16 at a time."""
    return read_features(folder / f"{name}{SUFFIX}", checked=True).values.split(_AT_ONCE)


def _learn(folder: Path, names: Sequence[str], kind: CodesKind) -> Any:
    """An index without rows, learned from some of the embeddings."""
    faiss = _faiss()
    total = sum(len(rows) for name in names for rows in _pieces(folder, name))
    if total < _FEWEST:
        raise TooFewWindows(f"--store {kind}: {folder} has {total} windows, and codes are learned from {_FEWEST:,} or "
                         "more: leave the option out, so few are searched in no time")
    step = max(total // _SAMPLE, 1)
    sample = torch.cat([rows[::step] for name in names for rows in _pieces(folder, name)]).float()  # (n, D)
    width = sample.shape[1]
    if kind == "int8":
        index = faiss.index_factory(width, "SQ8", faiss.METRIC_INNER_PRODUCT)
    else:
        small = min(_WIDTH, width - width % 4)
        index = faiss.IndexPreTransform(_projection(sample, small), faiss.index_factory(
            small, f"PQ{small // 4}x4fs", faiss.METRIC_INNER_PRODUCT))
    index.train(sample.numpy())
    return index


def _projection(sample: Tensor, small: int) -> "faiss.LinearTransform":
    """The projection to the directions in which embeddings (n, D) differ most, randomly rotated: D -> R.

    The rotation gives each piece of the product quantiser its share of them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        *_, directions = torch.pca_lowrank(sample, small, center=False)  # (D, R)
        rotation, _ = torch.linalg.qr(torch.randn(small, small))
    faiss = _faiss()
    transform = faiss.LinearTransform(sample.shape[1], small, False)
    matrix = (directions @ rotation).T.contiguous().numpy()  # (R, D)
    faiss.copy_array_to_vector(matrix.ravel(), transform.A)
    transform.is_trained = True
    return transform


def _write(folder: Path, index: Any, kind: CodesKind, videos: tuple[CoveredVideo, ...]) -> CodesRecord:
    """Write the codes to a file that nothing refers to yet."""
    path = folder / f"codes-{uuid4().hex[:16]}.faiss"
    try:
        _faiss().write_index(index, str(path))
        sync(path)
        sync(folder)
        return CodesRecord(kind, path.name, FileRecord.of(path), videos)
    except BaseException as error:
        with suppress(OSError):
            path.unlink()
        if isinstance(error, RuntimeError):  # faiss's, such as for a full disk
            raise OSError(errno.EIO, f"{os.strerror(errno.EIO)}: is the disk full?", str(path)) from error
        raise


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ValueError("codes of an index need faiss: `pip install 'egovlpv2[scale]'`, or `egovlpv2 index --store "
                         "float16 --out INDEX` to search without them") from error
    return faiss

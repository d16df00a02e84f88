"""Feature files: one `.safetensors` for each video, with the recipe in its header, written piece by piece.

Letters: `T` windows in time, `Q` queries, `L` tokens of a query, `D` width, `S` tokens of a window.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from egovlpv2.features.header import (
    PER_QUERY,
    Header,
    Recipe,
    check_header,
    check_layout,
    check_values,
    check_words,
    parse_header,
)
from egovlpv2.io.files import refuse_unreadable, require_folder

SUFFIX = ".safetensors"
_DTYPES = {torch.float16: "F16", torch.bool: "BOOL"}
_UNFUSED = ("unfused", "unfused_cls")


class Features(NamedTuple):
    """Content of a feature file."""

    recipe: Recipe
    values: Tensor  # (T, D), or (T, Q, D) of kinds `PER_QUERY`, or (T, S, D) of a trunk; float16
    duration: float  # of the video, seconds
    queries: list[str]
    words: Tensor  # (Q, L, D) token features of the queries, gate closed; float16
    word_mask: Tensor  # (Q, L) bool
    unfused: Tensor  # (T, D) query-independent features of the windows; (0, 0) if not kept
    unfused_cls: Tensor  # (T, D) CLS states below the fused layers; (0, 0) if not kept


class FeatureWriter:
    """A writer of a feature file from front to back, so that memory use stays constant.

    Args:
        file: The open file to write to.
        recipe: Of the features.
        duration: Of the video, seconds.
        num_windows: Number of features that will be appended.
        queries: The queries, if there are any.
        words: (Q, L, D) their token features.
        word_mask: (Q, L) bool.
        num_tokens: S of a trunk.
        keeps_unfused: True if `finish` will get query-independent features.
        keeps_cls: True if `finish` will get CLS states below the fused layers.

    Raises:
        ValueError: The recipe or the duration is out of bounds; from all methods: a feature is NaN, infinite or, of
            kind `unit`, not of length one.
    """

    def __init__(self, file: BinaryIO, recipe: Recipe, duration: float, num_windows: int, queries: Sequence[str] = (),
                 words: Tensor | None = None, word_mask: Tensor | None = None, num_tokens: int = 0,
                 keeps_unfused: bool = False, keeps_cls: bool = False) -> None:
        many = [len(queries)] if recipe.kind in PER_QUERY else [num_tokens] if recipe.kind == "trunk" else []
        self.file, self.shape, self.left, self.count = file, [*many, recipe.width], num_windows, num_windows
        self.recipe, self.name = recipe, str(file.name).removesuffix(".partial")
        header = Header(recipe, duration, list(queries))
        check_header(header, self.name)
        self.last: dict[str, Tensor] = {}
        if words is not None:
            assert word_mask is not None, "words come with their mask"
            self.last = {"words": words.half(), "word_mask": word_mask}
            check_words(self.last["words"], self.name)
        sizes = {"features": (torch.float16, [num_windows, *self.shape])}
        kept = {"unfused": keeps_unfused, "unfused_cls": keeps_cls}
        sizes |= {name: (torch.float16, [num_windows, recipe.width]) for name, keeps in kept.items() if keeps}
        sizes |= {name: (tensor.dtype, list(tensor.shape)) for name, tensor in self.last.items()}
        text = json.dumps({"__metadata__": {"egovlpv2": json.dumps(asdict(header))}, **_layout(sizes)}).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
        self._write(struct.pack("<Q", len(text)) + text)

    def append(self, values: Tensor) -> None:
        """Write the next features, (n, D), (n, Q, D) or (n, S, D)."""
        assert list(values.shape[1:]) == self.shape and len(values) <= self.left
        values = values.detach().cpu().half()
        check_values(values, self.recipe.kind, self.name, self.count - self.left)
        self._write(_bytes(values))
        self.left -= len(values)

    def finish(self, unfused: Tensor | None = None, cls: Tensor | None = None) -> None:
        """Write the tensors after the features: `unfused` and `cls`, (T, D) each, and the queries' tokens."""
        assert self.left == 0
        for values in (unfused, cls):
            if values is not None:
                values = values.detach().cpu().half()
                check_values(values, "dual", self.name)
                self._write(_bytes(values))
        for tensor in self.last.values():
            self._write(_bytes(tensor))

    def _write(self, content: bytes) -> None:
        try:
            self.file.write(content)
        except OSError as error:  # such as a full disk, which doesn't name the file
            raise type(error)(error.errno, error.strerror, self.name) from error


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def _layout(sizes: dict[str, tuple[torch.dtype, list[int]]]) -> dict[str, dict[str, object]]:
    """Make the header's entries for consecutive tensors."""
    entries: dict[str, dict[str, object]] = {}
    place = 0
    for name, (dtype, shape) in sizes.items():
        end = place + dtype.itemsize * prod(shape)
        entries[name] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [place, end]}
        place = end
    return entries


def read_features(path: str | Path, queries: Sequence[str] | None = None, checked: bool = False) -> Features:
    """Read a feature file.

    Args:
        path: The file.
        queries: For kinds in `PER_QUERY`, the queries to read, in this order; None for all.
        checked: True if its numbers have been checked before, which reads all of them; its header always is.

    Raises:
        ValueError: The file is missing, cut short, or not a feature file; its header or its tensors are damaged; a
            feature is NaN, infinite or, of kind `unit`, not of length one; a query is missing, or the features are
            not for queries.
    """
    with _opened(Path(path)) as (file, header):
        recipe, there = header.recipe, header.queries
        if queries is not None and recipe.kind not in PER_QUERY:
            raise ValueError(f"{path} holds features of kind {recipe.kind}, not one for each query: extract, or fuse, "
                             f"those of kind {' or '.join(PER_QUERY)}")
        rows = list(range(len(there))) if queries is None else [_row_of(Path(path), there, query) for query in queries]
        count = len(rows)
        tensors = {"words": torch.zeros(count, 0, 0, dtype=torch.float16),
                   "word_mask": torch.zeros(count, 0, dtype=torch.bool),
                   **{name: torch.zeros(0, 0, dtype=torch.float16) for name in _UNFUSED}}
        tensors |= {name: _rows(file, name, None if queries is None else rows) for name in file.keys()}  # noqa: SIM118
        if not checked:
            check_values(tensors["features"], recipe.kind, str(path))
            for name in _UNFUSED:
                check_values(tensors[name], "dual", str(path))
            check_words(tensors["words"], str(path))
        return Features(recipe, tensors["features"], header.duration, [there[row] for row in rows],
                        tensors["words"], tensors["word_mask"], *(tensors[name] for name in _UNFUSED))


def _row_of(path: Path, queries: list[str], query: str) -> int:
    if query not in queries:
        raise ValueError(f"{path} lacks the query {query!r}: extract, or fuse, with it")
    return queries.index(query)


def _rows(file: Any, name: str, rows: list[int] | None) -> Tensor:
    """Read a tensor, or its part for some queries, as the whole may be gigabytes."""
    if rows is None or name in _UNFUSED:
        return file.get_tensor(name)
    stored = file.get_slice(name)
    if name == "features":  # (T, Q, D)
        return torch.cat([stored[:, :0], *(stored[:, row : row + 1] for row in rows)], dim=1)
    return torch.cat([stored[:0], *(stored[row : row + 1] for row in rows)])  # (Q, ...)


def features_begin(path: Path) -> int:
    """Find where the features of a sound feature file begin, in bytes."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return 8 + length + int(json.loads(file.read(length))["features"]["data_offsets"][0])


def read_recipe(path: Path) -> Recipe:
    """Read the recipe of a feature file, without its tensors.

    Raises:
        ValueError: As `read_features`.
    """
    return read_plain(path)[0]


def read_plain(path: Path) -> tuple[Recipe, list[str]]:
    """Read the recipe and the queries of a feature file, without its tensors.

    Raises:
        ValueError: As `read_features`.
    """
    with _opened(path) as (_, header):
        return header.recipe, header.queries


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Header]]:
    """Open a feature file and yield it with its header, checked against its tensors."""
    refuse_unreadable(path, "a feature file")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such feature file; `egovlpv2 extract` writes them")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("egovlpv2")
            if text is None or "features" not in file.keys():  # noqa: SIM118
                raise SafetensorError("not ours")
            header = parse_header(text, f"{path}, header")
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            check_layout(header, {name: (one.get_dtype(), one.get_shape()) for name, one in slices.items()}, str(path))
            yield file, header
    except SafetensorError as error:
        raise ValueError(f"{path} is cut short or is not a feature file: move it and run `egovlpv2 extract`") from error


class FeatureFolder:
    """The feature files of a folder, all of one recipe.

    Args:
        folder: The folder.

    Raises:
        ValueError: The folder is missing, has no feature files, or files of more than one recipe.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        require_folder(self.folder)
        paths = sorted(self.folder.glob(f"*{SUFFIX}"))
        if not paths:
            raise ValueError(f"{self.folder} holds no feature files: `egovlpv2 extract VIDEOS --out {self.folder}` "
                             "writes them")
        self.names = {path.stem for path in paths}
        self.recipe = read_recipe(paths[0])
        for path in paths[1:]:
            if different := read_recipe(path).differences(asdict(self.recipe)):
                raise ValueError(f"{paths[0]} and {path.name} don't go together ({'; '.join(different)}): keep the "
                                 "features of each model and each recipe in a folder of their own")

    def count(self, name: str) -> int:
        """Count the features of a video."""
        with _opened(self._path(name)) as (file, _):
            return file.get_slice("features").get_shape()[0]

    def duration(self, name: str) -> float:
        """Return the length of a video, in seconds."""
        with _opened(self._path(name)) as (_, header):
            return header.duration

    def pieces(self, name: str, size: int) -> Iterator[Tensor]:
        """Read the features of a video `size` windows at a time, as a trunk may be larger than memory."""
        with _opened(self._path(name)) as (file, _):
            stored = file.get_slice("features")
            for first in range(0, stored.get_shape()[0], size):
                piece = stored[first : first + size]
                check_values(piece, self.recipe.kind, str(self._path(name)), first)
                yield piece

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"

    def read(self, name: str, queries: Sequence[str] | None = None) -> Features:
        """Read the features of a video, of all queries or of some."""
        return read_features(self._path(name), queries)


def check_same_recipe(out: Path, recipe: Recipe, queries: Mapping[str, Sequence[str]]) -> None:
    """Refuse a folder with files of another recipe or with missing queries, which would count as finished.

    Raises:
        ValueError: There is such a file; the message gives the differences.
    """
    for path in sorted(out.glob(f"*{SUFFIX}")):
        there, known = read_plain(path)
        if different := recipe.differences(asdict(there)):
            raise ValueError(f"{path} is of another recipe (there and here: {'; '.join(different)}): give "
                             "another folder (--out, or data.init_args.features of a fit), or delete those files")
        if new := set(queries.get(path.stem, [])).difference(known):
            raise ValueError(f"{path} lacks {len(new)} queries of its video, {min(new)!r} for one: give another folder "
                             "(--out, or data.init_args.features of a fit), or delete it")

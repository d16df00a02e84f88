"""Feature files: one `.safetensors` for each video, with the recipe in its header, written piece by piece.

Letters: `T` windows in time, `Q` queries, `L` words, `D` width, `S` tokens of a window.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

SUFFIX = ".safetensors"
PER_QUERY = ("fused", "transformed")
_DTYPES = {torch.float16: "F16", torch.bool: "BOOL"}


@dataclass(frozen=True)
class Recipe:
    """How features came about; files of one folder share it.

    Args:
        kind: `dual` (CLS, gate closed), `projected` (that after the projector), `unit` (that of length one),
            `fused` (CLS, gate open), `transformed` (that after the cross-modal transform) or `trunk` (all tokens that
            fused layers start from).
        width: Of a feature.
        fps: Frames a second in which `window` and `stride` count.
        window: Length of what a feature shows, in such frames.
        stride: From one window's start to the next one's.
        frames: How many frames of a window the model sees, at the centres of as many equal segments.
        size: Their height and width, pixels.
        checkpoint: The first 16 hexadecimal digits of the SHA-256 of the weights' file.
    """

    kind: str
    width: int
    fps: float
    window: int
    stride: int
    frames: int
    size: int
    checkpoint: str

    @property
    def rate(self) -> float:
        """Features a second."""
        return self.fps / self.stride

    def differences(self, other: "Recipe") -> list[str]:
        """What is not the same in another recipe, in words."""
        mine, others = asdict(self), asdict(other)
        return [f"{key} {mine[key]} and {others[key]}" for key in mine if mine[key] != others[key]]


class Features(NamedTuple):
    """What a file holds."""

    recipe: Recipe
    values: Tensor  # (T, D), or (T, Q, D) of kinds `PER_QUERY`, or (T, S, D) of a trunk; float16
    duration: float  # of the video, seconds
    queries: list[str]
    words: Tensor  # (Q, L, D) the queries' words, gate closed; float16
    word_mask: Tensor  # (Q, L) bool
    unfused: Tensor  # (T, D) what the windows look like, whatever is asked; (0, 0) where it isn't kept


class FeatureWriter:
    """Writes a feature file from front to back, so that memory stays flat.

    Args:
        file: Where to.
        recipe: Of the features.
        duration: Of the video, seconds.
        num_windows: How many features will come.
        queries: The queries, if there are any.
        words: (Q, L, D).
        word_mask: (Q, L) bool.
        num_tokens: S of a trunk.
        keeps_unfused: Whether `finish` will get what the windows look like.
    """

    def __init__(self, file: BinaryIO, recipe: Recipe, duration: float, num_windows: int, queries: Sequence[str] = (),
                 words: Tensor | None = None, word_mask: Tensor | None = None, num_tokens: int = 0,
                 keeps_unfused: bool = False) -> None:
        many = [len(queries)] if recipe.kind in PER_QUERY else [num_tokens] if recipe.kind == "trunk" else []
        self.file, self.shape, self.left = file, [*many, recipe.width], num_windows
        self.last = {} if words is None else {"words": words.half(), "word_mask": word_mask}
        sizes = {"features": (torch.float16, [num_windows, *self.shape])}
        sizes |= {"unfused": (torch.float16, [num_windows, recipe.width])} if keeps_unfused else {}
        sizes |= {name: (tensor.dtype, list(tensor.shape)) for name, tensor in self.last.items()}
        plain = {"recipe": asdict(recipe), "duration": duration, "queries": list(queries)}
        header = json.dumps({"__metadata__": {"egovlpv2": json.dumps(plain)}, **_layout(sizes)}).encode()
        header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
        file.write(struct.pack("<Q", len(header)) + header)

    def append(self, values: Tensor) -> None:
        """The next features, (n, D), (n, Q, D) or (n, S, D)."""
        assert list(values.shape[1:]) == self.shape and len(values) <= self.left
        self.file.write(_bytes(values.half()))
        self.left -= len(values)

    def finish(self, unfused: Tensor | None = None) -> None:
        """Writes what comes last."""
        assert self.left == 0
        if unfused is not None:
            self.file.write(_bytes(unfused.half()))
        for tensor in self.last.values():
            self.file.write(_bytes(tensor))


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def _layout(sizes: dict[str, tuple[torch.dtype, list[int]]]) -> dict[str, dict[str, object]]:
    """The header's entries of tensors that lie one behind the other."""
    entries, place = {}, 0
    for name, (dtype, shape) in sizes.items():
        end = place + dtype.itemsize * prod(shape)
        entries[name] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [place, end]}
        place = end
    return entries


def read_features(path: str | Path, queries: Sequence[str] | None = None) -> Features:
    """What a feature file holds.

    Args:
        path: The file.
        queries: Of a kind `PER_QUERY`, the queries to read, in this order; None: all.

    Raises:
        ValueError: The file is missing, cut short, or no feature file; it lacks a query, or its features are none of
            queries.
    """
    with _opened(Path(path)) as (file, plain):
        recipe, there = _recipe(plain), plain["queries"]
        if queries is not None and recipe.kind not in PER_QUERY:
            raise ValueError(f"{path} holds features of kind {recipe.kind}, not one for each query: extract, or fuse, "
                             f"those of kind {' or '.join(PER_QUERY)}")
        rows = list(range(len(there))) if queries is None else [_row_of(Path(path), there, query) for query in queries]
        count = len(rows)
        tensors = {"words": torch.zeros(count, 0, 0, dtype=torch.float16),
                   "word_mask": torch.zeros(count, 0, dtype=torch.bool),
                   "unfused": torch.zeros(0, 0, dtype=torch.float16)}
        tensors |= {name: _rows(file, name, None if queries is None else rows) for name in file.keys()}  # noqa: SIM118
        return Features(recipe, tensors["features"], plain["duration"], [there[row] for row in rows],
                        tensors["words"], tensors["word_mask"], tensors["unfused"])


def _row_of(path: Path, queries: list[str], query: str) -> int:
    if query not in queries:
        raise ValueError(f"{path} knows nothing of the query {query!r}: extract, or fuse, with it")
    return queries.index(query)


def _rows(file: Any, name: str, rows: list[int] | None) -> Tensor:
    """A tensor, or what it has of some queries: the others may be gigabytes."""
    if rows is None or name == "unfused":
        return file.get_tensor(name)
    stored = file.get_slice(name)
    if name == "features":  # (T, Q, D)
        return torch.cat([stored[:, :0], *(stored[:, row : row + 1] for row in rows)], dim=1)
    return torch.cat([stored[:0], *(stored[row : row + 1] for row in rows)])  # (Q, ...)


def read_recipe(path: Path) -> Recipe:
    """The recipe of a feature file, without its tensors.

    Raises:
        ValueError: As `read_features`.
    """
    return read_plain(path)[0]


def read_plain(path: Path) -> tuple[Recipe, list[str]]:
    """The recipe and the queries of a feature file, without its tensors.

    Raises:
        ValueError: As `read_features`.
    """
    with _opened(path) as (_, plain):
        return _recipe(plain), plain["queries"]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """An open feature file and the plain part of its header."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such feature file; `egovlpv2 extract` writes them")
    try:
        with safe_open(path, framework="pt") as file:
            yield file, json.loads((file.metadata() or {})["egovlpv2"])
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is cut short or is no feature file: move it and run `egovlpv2 extract`") from error


def _recipe(plain: dict[str, Any]) -> Recipe:
    return Recipe(**{field.name: plain["recipe"][field.name] for field in fields(Recipe)})


class FeatureFolder:
    """The feature files of a folder, all of one recipe.

    Args:
        folder: Where they are.

    Raises:
        ValueError: There is no such folder, it holds no feature files, or they are of more than one recipe.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        paths = sorted(self.folder.glob(f"*{SUFFIX}"))
        if not paths:
            raise ValueError(f"{self.folder} holds no feature files: `egovlpv2 extract VIDEOS --out {self.folder}` "
                             "writes them")
        self.names = {path.stem for path in paths}
        self.recipe = read_recipe(paths[0])
        for path in paths[1:]:
            if different := self.recipe.differences(read_recipe(path)):
                raise ValueError(f"{paths[0]} and {path.name} don't go together ({'; '.join(different)}): keep the "
                                 "features of each model and each recipe in a folder of their own")

    def count(self, name: str) -> int:
        """How many features a video has."""
        with _opened(self._path(name)) as (file, _):
            return file.get_slice("features").get_shape()[0]

    def duration(self, name: str) -> float:
        """Length of a video, seconds."""
        with _opened(self._path(name)) as (_, plain):
            return plain["duration"]

    def pieces(self, name: str, size: int) -> Iterator[Tensor]:
        """The features of a video, `size` windows at a time: a trunk is larger than memory."""
        with _opened(self._path(name)) as (file, _):
            stored = file.get_slice("features")
            for first in range(0, stored.get_shape()[0], size):
                yield stored[first : first + size]

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"

    def read(self, name: str, queries: Sequence[str] | None = None) -> Features:
        """The features of a video; of some queries only, if they are named."""
        return read_features(self._path(name), queries)

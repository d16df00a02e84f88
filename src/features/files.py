"""Feature files: one `.safetensors` for each video, with the recipe in its header, written piece by piece.

Letters: `T` windows in time, `Q` queries, `L` words, `D` width.
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
_DTYPES = {torch.float16: "F16", torch.bool: "BOOL"}


@dataclass(frozen=True)
class Recipe:
    """How features came about; files of one folder share it.

    Args:
        kind: `dual` (CLS, gate closed), `projected` (that after the projector) or `fused` (CLS, gate open).
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
    values: Tensor  # (T, D), or (T, Q, D) if fused; float16
    duration: float  # of the video, seconds
    queries: list[str]
    words: Tensor  # (Q, L, D) the queries' words, gate closed; float16
    word_mask: Tensor  # (Q, L) bool


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
    """

    def __init__(self, file: BinaryIO, recipe: Recipe, duration: float, num_windows: int, queries: Sequence[str] = (),
                 words: Tensor | None = None, word_mask: Tensor | None = None) -> None:
        per_query = [len(queries)] if recipe.kind == "fused" else []
        self.file, self.shape, self.left = file, [*per_query, recipe.width], num_windows
        self.last = {} if words is None else {"words": words.half(), "word_mask": word_mask}
        sizes = {"features": (torch.float16, [num_windows, *self.shape])}
        sizes |= {name: (tensor.dtype, list(tensor.shape)) for name, tensor in self.last.items()}
        plain = {"recipe": asdict(recipe), "duration": duration, "queries": list(queries)}
        header = json.dumps({"__metadata__": {"egovlpv2": json.dumps(plain)}, **_layout(sizes)}).encode()
        header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
        file.write(struct.pack("<Q", len(header)) + header)

    def append(self, values: Tensor) -> None:
        """The next features, (n, D) or (n, Q, D)."""
        assert list(values.shape[1:]) == self.shape and len(values) <= self.left
        self.file.write(_bytes(values.half()))
        self.left -= len(values)

    def finish(self) -> None:
        """Writes what comes last."""
        assert self.left == 0
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


def read_features(path: str | Path) -> Features:
    """What a feature file holds.

    Raises:
        ValueError: The file is missing, cut short, or no feature file.
    """
    with _opened(Path(path)) as (file, plain):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        recipe, values, duration, queries = _recipe(plain), tensors["features"], plain["duration"], plain["queries"]
    count = len(queries)
    words = tensors.get("words", torch.zeros(count, 0, 0, dtype=torch.float16))
    mask = tensors.get("word_mask", torch.zeros(count, 0, dtype=torch.bool))
    return Features(recipe, values, duration, queries, words, mask)


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

    def read(self, name: str) -> Features:
        """The features of a video."""
        return read_features(self.folder / f"{name}{SUFFIX}")

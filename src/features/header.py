"""The header of a feature file, and the check of its tensors against it.

Letters: `T` windows in time, `Q` queries, `L` tokens of a query, `D` width, `S` tokens of a window.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Annotated, Any, Literal, get_args

import torch
from msgspec import Meta
from torch import Tensor

from egovlpv2.io.schema import check, parse_json
from egovlpv2.types import FeatureKind, FrameRuleName, PerQueryKind
from egovlpv2.video.frame_rules import WINDOW_RATE
from egovlpv2.video.windows import Windows

PER_QUERY: tuple[PerQueryKind, ...] = get_args(PerQueryKind)
_Positive = Annotated[int, Meta(ge=1)]
_HALF_A_PERCENT = 5e-3  # float16 rounds a vector of length one by less than a tenth of that


@dataclass(frozen=True)
class Recipe:
    """A recipe of features, shared by the files of a folder.

    Args:
        kind: `dual` (CLS, gate closed), `projected` (that after the projector), `unit` (that of length one),
            `fused` (CLS, gate open), `transformed` (that after the cross-modal transform) or `trunk` (all tokens that
            fused layers start from).
        width: Size of a feature vector.
        fps: Frame rate in which `window` and `stride` are counted.
        window: Length of the window of a feature, in such frames.
        stride: Distance between the starts of windows, in such frames.
        frames: Number of frames of a window that the model sees, at the centres of as many equal segments.
        size: Height and width of these frames, in pixels.
        checkpoint: The first 16 hexadecimal digits of the SHA-256 of the weights' file.
        crop: Part of a picture that the model sees.
        frame_rule: How the frames of a window are chosen, see `egovlpv2.video.frame_rules`.
    """

    kind: FeatureKind
    width: _Positive
    fps: Annotated[float, Meta(gt=0)]
    window: _Positive
    stride: _Positive
    frames: _Positive
    size: _Positive
    checkpoint: Annotated[str, Meta(min_length=1)]
    crop: Literal["largest square"] = "largest square"
    frame_rule: FrameRuleName = "centre"

    @property
    def rate(self) -> float:
        """Feature rate, in features a second."""
        return WINDOW_RATE if self.frame_rule == "released" else self.fps / self.stride

    def windows(self, chunk_seconds: float) -> Windows:
        """Make the sliding windows of a video, which may be a folder of chunks of `chunk_seconds` each."""
        return Windows(self.fps, self.window, self.stride, self.frames, self.size, chunk_seconds, self.frame_rule)

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Describe where other settings, by name, differ from this recipe, theirs first; absent ones don't count."""
        return differing(asdict(self), other)


def differing(settings: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Describe where other settings, by name, differ from these, theirs first; absent ones don't count."""
    return [f"{name} {other[name]} and {value}" for name, value in settings.items()
            if name in other and other[name] != value]


@dataclass(frozen=True)
class Header:
    """The header of a feature file.

    Args:
        recipe: Of the features.
        duration: Of the video, seconds.
        queries: The queries; empty if there are none.
    """

    recipe: Recipe
    duration: Annotated[float, Meta(ge=0)]
    queries: list[str]


def parse_header(text: str, source: str) -> Header:
    """Parse the header of a feature file from JSON.

    Raises:
        ValueError: It isn't a header; names the key.
    """
    return _checked(parse_json(text, dict[str, Any], source), source)


def check_header(header: Header, source: str) -> None:
    """Refuse a header whose values are out of bounds.

    Raises:
        ValueError: A value is of the wrong type or out of bounds; names the key.
    """
    _checked(asdict(header), source)


def _checked(plain: dict[str, Any], source: str) -> Header:
    recipe = plain.get("recipe")
    if isinstance(recipe, dict) and "checkpoint" in recipe and "crop" not in recipe:
        raise ValueError(f"{source}: the features are of an earlier version, which left the edges of each picture's "
                         "largest square out: delete the files of this folder, or choose another one, and run "
                         "`egovlpv2 extract` (or `index`) again")
    header = check(plain, Header, source, forbid_unknown=True)
    for name, number in (("fps", header.recipe.fps), ("duration", header.duration)):
        if not isfinite(number):
            raise ValueError(f"{source}: {name} is {number}")
    return header


def check_layout(header: Header, tensors: Mapping[str, tuple[str, list[int]]], source: str) -> None:
    """Refuse a file whose tensors don't match its header.

    Args:
        header: The header.
        tensors: By name, the dtype as `.safetensors` names it, and the shape.
        source: Name of the file in error messages.

    Raises:
        ValueError: A tensor is missing, or of another dtype or shape; names it.
    """
    recipe, queries = header.recipe, len(header.queries)
    if "features" not in tensors:
        raise ValueError(f"{source} holds no tensor `features`: it is not a feature file of ours, or is damaged")
    shape = tensors["features"][1]
    windows = shape[0] if shape else 0
    tokens = shape[1] if len(shape) == 3 else 1
    words = tensors.get("words", ("", [0, 0, 0]))[1]
    length, width = (words[1], words[2]) if len(words) == 3 else (0, 0)
    middle = [queries] if recipe.kind in PER_QUERY else [tokens] if recipe.kind == "trunk" else []
    unfused = ("F16", [windows, recipe.width])
    expected = {"features": ("F16", [windows, *middle, recipe.width]), "unfused": unfused, "unfused_cls": unfused,
                "words": ("F16", [queries, length, width]), "word_mask": ("BOOL", [queries, length])}
    for name, (dtype, shape) in tensors.items():
        if name not in expected:
            raise ValueError(f"{source} holds a tensor {name!r} that no feature file has: it is damaged")
        if (dtype, shape) != expected[name]:
            wanted = f"{expected[name][0]} {tuple(expected[name][1])}"
            raise ValueError(f"{source}: `{name}` is {dtype} {tuple(shape)} and its header (kind {recipe.kind}, width "
                             f"{recipe.width}, {queries} queries) requires {wanted}: it is damaged")
    if ("words" in tensors) != ("word_mask" in tensors):
        raise ValueError(f"{source} holds the words of its queries without their mask, or the mask alone: it is "
                         "damaged")
    if (windows - 1) / recipe.rate > header.duration:
        raise ValueError(f"{source}: {windows} windows, one every {1 / recipe.rate:g} s, don't lie in a "
                         f"video of {header.duration:g} s: its header is damaged")


def check_values(values: Tensor, kind: str, source: str, first: int = 0) -> None:
    """Refuse invalid features.

    Args:
        values: (n, D), (n, Q, D) or (n, S, D), float16.
        kind: Of the recipe; those of kind `unit` have length one.
        source: Name of the file in error messages.
        first: Number of the first window in error messages.

    Raises:
        ValueError: A feature is not finite or, of kind `unit`, doesn't have length one or has the same number
            everywhere; names the window.
    """
    for place, piece in enumerate(values.split(1024)):  # pieces that fit the processor's cache
        lengths = torch.linalg.vector_norm(piece, dim=-1, dtype=torch.float32)  # NaN or infinite if one number is
        wrong = ~lengths.isfinite()
        if kind == "unit":
            wrong |= ((lengths - 1).abs() > _HALF_A_PERCENT) | _same_everywhere(piece)
        flat = wrong.flatten(1).any(1) if wrong.ndim > 1 else wrong
        if flat.any():
            window = int(flat.nonzero()[0])
            said = _in_words(lengths[window][wrong[window]].flatten()[0].item())
            raise ValueError(f"{source}: the feature of window {first + place * 1024 + window} {said}: check that "
                             "the weights are sound, delete the file and extract it anew")


def _same_everywhere(units: Tensor) -> Tensor:
    """Tell if vectors of length one have the same number in each place: (n, D) -> (n,) bool."""
    width = units.shape[1]
    if width < 8:  # may happen by chance
        return torch.zeros(len(units), dtype=torch.bool)
    return (units @ torch.ones(width, dtype=units.dtype)).abs().float() > (1 - 1e-3) * width**0.5


def _in_words(length: float) -> str:
    if length == 0:
        return "is zero"
    if not isfinite(length):
        return "is not finite (NaN, or too large for float16)"
    if abs(length - 1) > _HALF_A_PERCENT:
        return f"has length {length:.3g}, not 1"
    return "has the same number in each place"


def check_words(words: Tensor, source: str) -> None:
    """Refuse token features of queries, (Q, L, D) float16, that are not finite.

    Raises:
        ValueError: A query has such features; gives its number.
    """
    wrong = ~words.flatten(1).isfinite().all(1)
    if wrong.any():
        raise ValueError(f"{source}: the words of query {int(wrong.nonzero()[0])} are not finite: check that the "
                         "weights are sound, delete the file and extract it anew")

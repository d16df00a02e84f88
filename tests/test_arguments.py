"""Arguments of the public functions: wrong types, numbers out of bounds and empty ones are one line that names them."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import egovlpv2
from egovlpv2.arguments import check_call
from egovlpv2.types import Count

VIDEO, WEIGHTS = "film.mp4", "weights.ckpt"  # not there: arguments are checked before files are read


@pytest.mark.parametrize(("name", "arguments", "message"), [
    ("prepare_videos", {"inputs": [VIDEO], "out": "o", "crf": 1.5}, "crf=1.5: give a whole number, .*51 at most"),
    ("prepare_videos", {"inputs": [VIDEO], "out": "o", "fps": "25"}, "fps='25': give a finite number, 0 or more"),
    ("prepare_videos", {"inputs": [], "out": "o"}, "inputs is an empty list: give one or more"),
    ("prepare_videos", {"inputs": [VIDEO], "out": ""}, "out is empty: give a value"),
    ("build_index", {"videos": VIDEO, "weights": WEIGHTS}, "videos='film.mp4': give a list"),
    ("build_index", {"videos": [None], "weights": WEIGHTS}, "videos holds None: give a text for each"),
    ("extract_features", {"videos": [""], "weights": WEIGHTS, "out": "o"}, "videos holds '': give a text for each"),
    ("fuse_features", {"trunks": None, "weights": WEIGHTS, "out": "o", "queries": ["q"]},
     "trunks=None: give a text or a path"),
    ("load_backbone", {"path": WEIGHTS, "num_frames": 0}, "num_frames=0: give a whole number, 1 or more"),
    ("load_backbone", {"path": 3}, "path=3: give a text or a path"),
    ("load_backbone", {"path": WEIGHTS, "img_size": (9, 9, 9)}, r"img_size=\(9, 9, 9\): give .* or 2 of them"),
    ("read_clip", {"path": VIDEO, "num_frames": 1.5}, "num_frames=1.5: give a whole number"),
    ("read_clip", {"path": VIDEO, "size": 0}, "size=0: give a whole number, 1 or more"),
    ("read_clip", {"path": VIDEO, "start": "1"}, "start='1': give a number or None"),
    ("build_backbone", {"config": "conf/toy.yaml"}, "config='conf/toy.yaml': give a mapping"),
    ("convert", {"kind": "vsgn", "state_dict": {1: 2}}, "state_dict={1: 2}: give a dict with texts as keys"),
    ("summarize", {"video": VIDEO, "query": None, "weights": WEIGHTS}, "query=None: give a text"),
    ("summarize", {"video": VIDEO, "query": "q", "weights": WEIGHTS, "fps": 0.001}, "fps=0.001: give .* 1 or more"),
    ("build_index", {"videos": [VIDEO], "weights": WEIGHTS, "image_fps": 1e-300}, "image_fps=1e-300: give .* or more"),
    ("ask", {"video": VIDEO, "question": "q", "weights": WEIGHTS, "device": 3}, "device=3: give a text or None"),
    ("attend", {"video": VIDEO, "text": "t", "weights": WEIGHTS, "words": []}, "words is an empty list"),
    ("attend", {"video": VIDEO, "text": "t", "weights": WEIGHTS, "whole": "no"}, "whole='no': give True or False"),
    ("build_index", {"videos": b"film.mp4", "weights": WEIGHTS}, "videos=.*: give a list"),
    ("Index", {"folder": None}, "folder=None: give a text or a path"),
])
def test_a_wrong_argument_is_named_with_what_is_allowed(name: str, arguments: dict[str, Any], message: str,
                                                        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^{message}"):
        getattr(egovlpv2, name)(**arguments)
    assert not list(tmp_path.iterdir())


def _function(paths: Sequence[str], place: str | Path, count: Count = 1, share: float = 0.0,
              device: str | None = None, whole: bool = False, size: int | tuple[int, int] | None = None) -> None:
    check_call(_function, locals())


@pytest.mark.parametrize("arguments", [
    {"paths": (Path("a"), "b"), "place": Path("c")}, {"count": np.int64(3)}, {"share": np.float32(0.5)}, {"share": 1},
    {"device": None}, {"device": torch.device("cpu")}, {"whole": np.bool_(True)}, {"size": (np.int64(9), np.int32(9))},
])
def test_numbers_of_numpy_paths_and_tuples_are_taken(arguments: dict[str, Any]) -> None:
    _function(**{"paths": ["a"], "place": "b", **arguments})


@pytest.mark.parametrize("count", [np.float64(1.5), np.int64(0), True, None])
def test_numbers_of_numpy_have_the_same_bounds(count: object) -> None:
    check: Callable[..., None] = _function
    with pytest.raises(ValueError, match="^count="):
        check(["a"], "b", count)


@pytest.mark.parametrize(("sizes", "message"), [
    ([4, 0], "sizes holds 0: give a whole number, 1 or more for each"), ([1.5], "sizes holds 1.5: give a whole number"),
    (3, "sizes='3': give a list"), ([np.int64(4)], ""), ((), "sizes is an empty list"),
])
def test_numbers_in_a_list_have_bounds(sizes: Any, message: str) -> None:
    def function(sizes: Sequence[Count]) -> None:
        check_call(function, locals())

    with pytest.raises(ValueError, match=f"^{message}") if message else nullcontext():
        function(sizes)


def test_every_public_function_checks_its_arguments() -> None:
    functions = [getattr(egovlpv2, name) for name in egovlpv2.__all__ if not name.startswith("_")]
    for function in (function for function in functions if not isinstance(function, type)):
        first = function.__code__.co_varnames[0]
        with pytest.raises(ValueError, match=f"^{first}="):
            function(**{first: object()}, **dict.fromkeys(required(function)[1:], "x"))


def required(function: Callable[..., Any]) -> list[str]:
    count = function.__code__.co_argcount - len(function.__defaults__ or ())
    return list(function.__code__.co_varnames[:count])

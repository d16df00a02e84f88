"""An index whose writer is killed at any moment: nothing that was searched is lost, and the check leaves it whole."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from features.test_extract import write

from egovlpv2 import build_index
from egovlpv2.search.maintenance import check_index
from egovlpv2.search.manifest import FILE
from egovlpv2.search.store import open_store

pytestmark = pytest.mark.slow
KILLS = 30


def embed(folder: Path, names: str, **options: Any) -> None:
    build_index([str(folder / "in" / f"{name}.mp4") for name in names], str(folder / "weights.safetensors"),
                folder / "index", every=0.007, num_workers=0, batch_size=64, max_tokens=12, device="cpu", **options)


def begin(folder: Path) -> None:
    embed(folder, "abcd")


def grow(folder: Path) -> None:
    embed(folder, "ef")


def quantise(folder: Path) -> None:
    build_index(out=folder / "index", store="int8")


def state(folder: Path) -> dict[str, Any]:
    """What the index holds, and what of it is in its codes."""
    manifest, store = open_store(folder / "index")
    coded = () if manifest.codes is None else manifest.codes.videos
    assert all(video.sha256 == manifest.embeddings[video.name].sha256 for video in coded)
    return {"names": store.names, "windows": len(store), "coded": sorted(video.name for video in coded)}


def hashes(folder: Path) -> dict[str, str]:
    """The hashes of the embeddings that are searched."""
    path = folder / "index" / FILE
    if not path.exists():
        return {}
    return {name: record["sha256"] for name, record in json.loads(path.read_text())["embeddings"].items()}


def kill_after(seconds: float, work: Callable[[Path], None], folder: Path) -> bool:
    """Kill a process at work; whether it was still at it."""
    process = get_context("forkserver").Process(target=work, args=(folder,))
    process.start()
    process.join(seconds)
    if at_work := process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return at_work


@pytest.fixture
def folders(make_backbone: Callable[..., Any], tokenizer: str, tmp_path: Path) -> dict[str, Path]:
    """A folder as it is before each kind of work, each with the time that the work takes."""
    from egovlpv2.checkpoints.weights import save_backbone

    get_context("forkserver").set_forkserver_preload(["egovlpv2.search.build", "faiss"])
    first = tmp_path / "begin"
    for i, name in enumerate("abcdef"):
        write(first / "in" / f"{name}.mp4", 60 * i, 40)
    save_backbone(make_backbone(tokenizer=tokenizer), first / "weights.safetensors")
    for before, after, work in (("begin", "grow", begin), ("grow", "quantise", grow)):
        shutil.copytree(tmp_path / before, tmp_path / after)
        work(tmp_path / after)
        if after == "grow":
            build_index(out=tmp_path / after / "index", store="pq")
    return {name: tmp_path / name for name in ("begin", "grow", "quantise")}


def test_thirty_kills(folders: dict[str, Path], tmp_path: Path) -> None:
    works = {"begin": begin, "grow": grow, "quantise": quantise}
    expected, seconds, rng = {}, {}, random.Random(0)
    for name, work in works.items():
        shutil.copytree(folders[name], tmp_path / "whole")
        started = time.monotonic()
        assert not kill_after(300.0, work, tmp_path / "whole")
        seconds[name] = time.monotonic() - started
        expected[name] = state(tmp_path / "whole")
        shutil.rmtree(tmp_path / "whole")
    killed = 0
    while killed < KILLS:
        name = list(works)[killed % len(works)]
        folder = tmp_path / "killed"
        shutil.copytree(folders[name], folder)
        before = hashes(folder)
        killed += kill_after(rng.uniform(0.0, seconds[name]), works[name], folder)
        if (folder / "index" / FILE).exists():
            if hashes(folder):
                open_store(folder / "index")  # a reader meanwhile sees the old or the new
            check_index(folder / "index")
            assert before.items() <= hashes(folder).items()
            assert not [path for end in ("damaged", "partial") for path in (folder / "index").glob(f"*.{end}")]
        works[name](folder)
        assert state(folder) == expected[name] and before.items() <= hashes(folder).items()
        assert len(list((folder / "index").glob("codes-*"))) == (name != "begin")
        shutil.rmtree(folder)

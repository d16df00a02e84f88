"""The share of the videos that a process takes under srun and torchrun, or that is given."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from features.test_extract import write

from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.cli import main as cli
from egovlpv2.search.store import open_store
from egovlpv2.video.share import own_share, place_among_processes


def torchrun(rank: int, size: int) -> dict[str, str]:
    return {"TORCHELASTIC_RUN_ID": "none", "RANK": str(rank), "WORLD_SIZE": str(size)}


def srun(rank: int, size: int) -> dict[str, str]:
    return {"SLURM_NTASKS": str(size), "SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": str(size),
            "SLURM_JOB_ID": "1"}


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_")):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("variables, share, expected", [
    ({}, None, (0, 1)), (torchrun(2, 5), None, (2, 5)), (srun(3, 4), None, (3, 4)),
    (srun(0, 1) | torchrun(1, 2), None, (1, 2)), ({}, "3/16", (3, 16)), (torchrun(1, 2), "0/1", (0, 1)),
    # A batch script without srun, and a job of an array, which may well have videos of its own.
    ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}, None, (0, 1)),
    ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}, None, (0, 1)),
])
def test_the_place_of_a_process(variables: dict[str, str], share: str | None, expected: tuple[int, int],
                                monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert place_among_processes(share) == expected


@pytest.mark.parametrize("variables, share, message", [
    ({"SLURM_STEP_NUM_TASKS": "4"}, None, "SLURM_PROCID is ''"),
    (torchrun(0, 2) | {"RANK": "one"}, None, "RANK is 'one', and should be a whole number"),
    *(({}, given, f"--share {given}: give the number of the part and of all, such as 0/16 to 15/16")
      for given in ("16/16", "1", "-1/2", "0/0", "a/b", "1/2/3")),
])
def test_a_share_that_is_none(variables: dict[str, str], share: str | None, message: str,
                              monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        place_among_processes(share)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_all_videos_once_and_about_as_large(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {f"video{i:02}": 1 + (37 * i * i) % 101 for i in range(40)} | {"missing": 0}
    shares = []
    for rank in range(size):
        for name, value in torchrun(rank, size).items():
            monkeypatch.setenv(name, value)
        shares.append(own_share(list(sizes), sizes.__getitem__))
    assert sorted(name for share in shares for name in share) == sorted(sizes)
    assert all(share == [name for name in sizes if name in share] for share in shares)  # their order
    loads = [sum(sizes[name] for name in share) for share in shares]
    assert max(loads) - min(loads) <= max(sizes.values())


def test_more_processes_than_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in torchrun(4, 5).items():
        monkeypatch.setenv(name, value)
    assert own_share(["a", "b"], len) == []


def test_prepare_writes_a_report_for_each_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write(tmp_path / "in" / f"{name}.mp4", 0, 10)
    for rank in range(2):
        for name, value in srun(rank, 2).items():
            monkeypatch.setenv(name, value)
        cli(["prepare", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--num-workers", "1"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix == ".json") == [
        "report-1-of-2.json", "report-2-of-2.json"]
    assert sorted(path.parent.name for path in (tmp_path / "out").glob("*/0.mp4")) == ["a", "b", "c"]


def test_torchrun_itself(tmp_path: Path) -> None:
    """Two processes that it starts write their places."""
    program = tmp_path / "place.py"
    program.write_text("import pathlib, sys\nfrom egovlpv2.video.share import place_among_processes\n"
                       "rank, size = place_among_processes()\n"
                       "pathlib.Path(sys.argv[1], f'{rank} of {size}').touch()\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program),
               str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("* of *")) == ["0 of 2", "1 of 2"]


def test_extract_and_index_write_all_once(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More processes than videos, one of them without a query."""
    for name in "abc":
        write(tmp_path / "in" / f"{name}.mp4", 0, 20 + ord(name))
    (tmp_path / "queries.json").write_text('{"a": ["w5"], "c": ["w6 w7"]}')
    options = ["--weights", str(weights), "--device", "cpu", "--num-workers", "0", "--max-tokens", "12"]
    for rank in range(4):
        for name, value in srun(rank, 4).items():
            monkeypatch.setenv(name, value)
        cli(["extract", str(tmp_path / "in"), *options, "--out", str(tmp_path / "fused"), "--kind", "fused",
             "--queries", str(tmp_path / "queries.json")])
        cli(["index", str(tmp_path / "in"), *options, "--out", str(tmp_path / "index")])
        assert len(list((tmp_path / "index").glob("*.safetensors"))) == min(rank + 1, 3)
    assert sorted(path.stem for path in (tmp_path / "fused").glob("*.safetensors")) == ["a", "c"]
    manifest, store = open_store(tmp_path / "index")
    assert store.names == ["a", "b", "c"] == sorted(manifest.videos) and store.chance is not None


@pytest.fixture
def weights(make_backbone: Callable[..., Any], tokenizer: str, tmp_path: Path) -> Path:
    save_backbone(make_backbone(tokenizer=tokenizer), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"

"""`make gpu-check` in small, on the CPU, and what becomes of parts that fail or have no end."""

import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gpu import check, parts
from helpers import ROOT

from egovlpv2.bench.measure import UTILISATION

CHECK = ROOT / "tests" / "gpu" / "check.py"
SHOWN = {
    "tests": ["passed", "skipped", "failed"],
    "step": ["2 clips a step", "rate, 2 clips", "peak memory, 2 clips", "speed, 2 clips", UTILISATION,
             "rate, 2 clips, all objectives in memory together",
             "peak memory, 2 clips, all objectives in memory together"],
    "model": ["video embeddings, bfloat16 against float32 on the CPU", "indexing, a window each second",
              "extraction of dual features, a window of 4 frames each 16", "indexing 100 hours at this rate"],
    "toy": ["a run of the tiny model on it, from start to EgoMCQ", "EgoMCQ after it, inter-video"],
}


def run_small(out: Path, *parts: str) -> tuple[dict, str]:
    """Run parts of the check; the report and what it printed."""
    command = [sys.executable, str(CHECK), "--small", "--out", str(out), "--parts", *parts]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / "gpu-check.json").read_text()), done.stdout


@pytest.mark.parametrize("chosen", [("tests",), pytest.param(tuple(SHOWN), marks=pytest.mark.slow)])
def test_the_check_runs_on_a_cpu_too(tmp_path: Path, chosen: tuple[str, ...]) -> None:
    report, printed = run_small(tmp_path, *chosen)
    assert tuple(part["name"] for part in report["parts"]) == chosen and list(check.PARTS) == list(SHOWN)
    assert all(part["outcome"] == "ok" and part["seconds"] > 0 for part in report["parts"])
    figures = {(figure["part"], figure["what"]): figure["value"] for figure in report["figures"]}
    assert len(figures) == len(report["figures"])
    assert {(part, what) for part in chosen for what in SHOWN[part]} <= figures.keys()
    assert figures["tests", "passed"] > 20 and figures["tests", "failed"] == 0
    assert report["device"] and report["torch"] and report["date"] and report["size"] == "small"
    for part, what in figures:
        assert re.search(rf"^{part} +{re.escape(what)} ", printed, re.MULTILINE)


@pytest.mark.slow
def test_every_way_of_computing_a_step_is_measured(tmp_path: Path) -> None:
    """One of them is compiled, which takes a CPU long."""
    out = tmp_path / "step.json"
    parts.step(parts.Report("step", out), torch.device("cpu"), parts.SIZES["small"]._replace(ways=tuple(parts.WAYS)))
    figures = {row["what"]: row for row in json.loads(out.read_text())["figures"]}
    for way in parts.SIZES["full"].ways:
        for kind in ("rate", "peak memory", "speed", "share of the device's peak"):
            assert figures[f"{kind}, 2 clips, {parts.WAYS[way]}"]["ratio"] > 0


def test_a_part_that_fails_or_does_not_end_leaves_the_others(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    child = f"import pathlib, time; pathlib.Path({str(begun)!r}).touch(); time.sleep(600)"
    endless = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert check.run([sys.executable, "-c", "1 / 0"], 60, tmp_path / "log") == "failed with exit code 1"
    assert "ZeroDivisionError" in (tmp_path / "log").read_text()
    assert check.run([sys.executable, "-c", endless], 3, tmp_path / "log") == "ended after its limit of 3 s"
    assert check.run([sys.executable, "-c", "print(1)"], 60, tmp_path / "log") == "ok"
    (tmp_path / "part.json").write_text('{"figures": [{"what": "one"}]}')
    assert check.read_figures("part", tmp_path / "part") == [{"what": "one"}]  # of a part that was ended later
    assert check.read_figures("other", tmp_path / "other") == []


def test_the_whole_ends_within_eight_minutes() -> None:
    assert sum(part.limit for part in check.PARTS.values()) <= 8 * 60 - 20  # some seconds are needed to begin


def test_all_tests_that_need_a_gpu_are_in_its_folder() -> None:
    marked = {path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text()}
    assert {path.parent for path in marked - {Path(__file__)}} == {CHECK.parent}


def test_the_package_is_placed_by_links(tmp_path: Path) -> None:
    check.place_package(tmp_path)
    code = "import egovlpv2.conf, egovlpv2.tasks, egovlpv2.data_modules, egovlpv2; print(egovlpv2.__file__)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.stdout.strip() == str(tmp_path / "egovlpv2" / "__init__.py"), done.stderr


def test_without_a_gpu_the_check_says_so_at_once(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(CHECK), "--out", str(tmp_path / "out")], capture_output=True, text=True,
                          env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 1 and "there is no CUDA device here: --small" in done.stderr
    assert not (tmp_path / "out").exists()


def test_wheels_are_gathered_of_all_that_such_a_machine_lacks() -> None:
    """`wheels.sh` lists the direct dependencies that torch, timm, transformers and lightning don't bring."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = {re.match(r"[\w-]+", line)[0] for line in setup["options"]["install_requires"].split()}
    script = (ROOT / "tests" / "gpu" / "wheels.sh").read_text()
    listed = [line.split("=", 1)[1].strip("'\"").split() for line in script.splitlines()
              if line.startswith(("THERE=", "LACKING="))]
    there, lacking = ({re.match(r"[\w-]+", word)[0] for word in words} for words in listed)
    assert needed <= there | lacking and not there & lacking

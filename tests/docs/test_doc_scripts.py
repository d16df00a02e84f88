"""The scripts that draw pictures of the documentation, and the example."""

import runpy
import sys
from pathlib import Path

import pytest
from doc_pages import ROOT
from PIL import Image
from torch.utils.tensorboard import SummaryWriter


def run(script: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(str(ROOT / script), run_name="__main__")


def test_curves_are_drawn_from_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(2):
        with SummaryWriter(tmp_path / f"seed{seed}") as board:
            for step in range(3):
                for tag in ("train/ego_nce", "train/mlm", "train/vtm", "val/egomcq/dual/inter"):
                    board.add_scalar(tag, step + seed, step)
    run("docs/draw_curves.py", monkeypatch, tmp_path / "seed0", tmp_path / "seed1", "--out", tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size == (1200, 680)


def test_the_picture_of_the_gate_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("docs/draw_gate.py", monkeypatch, tmp_path / "gate.png")
    assert Image.open(tmp_path / "gate.png").size == Image.open(ROOT / "docs" / "gate.png").size


def test_the_example_goes_from_a_folder_of_videos_to_a_picture(
        toy: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for folder in sorted((toy / "videos").iterdir())[:2]:
        (videos / folder.name).symlink_to(folder)
    options = ("--weights", weights, "--chunk-seconds", 8, "--index", tmp_path / "index", "--top", 3)
    for _ in range(2):  # the second time the index is there
        run("examples/search_my_videos.py", monkeypatch, videos, "#C C pours water", *options, "--out",
            tmp_path / "found.png")
    assert capsys.readouterr().out.count("cosine") == 6
    picture = Image.open(tmp_path / "found.png").convert("L")
    assert picture.width > 500 and len(picture.getcolors(1 << 20) or []) > 100

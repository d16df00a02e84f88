"""README is short, and its example runs."""

import re
import shutil
from pathlib import Path

import pytest
from doc_pages import ROOT, blocks

from egovlpv2 import __version__

README = ROOT / "README.md"


def test_it_fits_on_a_few_screens() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < 150


def test_it_links_to_the_paper_the_authors_and_the_docs() -> None:
    text = README.read_text(encoding="utf-8")
    for link in ("https://arxiv.org/abs/2307.05463", "https://github.com/facebookresearch/EgoVLPv2", "docs/index.md",
                 "docs/gate.png", "LICENSE", "CITATION.cff"):
        assert f"({link})" in text


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_python_example_finds_moments(page: str, toy: Path, weights: Path, tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [block.text for block in blocks(ROOT / page) if block.language == "python"]
    assert len([line for line in code.splitlines() if line]) <= 6
    trained = '"runs/pretrain-tiny-toy/checkpoints/best.ckpt"'
    assert trained in code
    shutil.copytree(next((toy / "videos").iterdir()), tmp_path / "data/toy/qfvs/videos/P01",
                    ignore=lambda folder, names: set(names) - {"0.mp4"})
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace(trained, repr(str(weights))), page, "exec"), {})
    printed = capsys.readouterr().out
    assert len(re.findall(r"P01  0:00:\d\d", printed)) == 3


def test_citation_and_changelog_name_the_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {__version__} - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

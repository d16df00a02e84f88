"""Features, an index and a search on a GPU are those on the CPU."""

from pathlib import Path

import pytest
import torch
from features.test_extract import write

from egovlpv2 import Index, build_index, extract_features
from egovlpv2.features import read_features
from egovlpv2.types import Precision

pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("precision", ["32", "bf16"])]
QUERIES = ("w17 w203 w41", "w5 w9")


@pytest.fixture
def videos(tmp_path: Path) -> list[str]:
    return [str(write(tmp_path / f"{name}.mp4", first, count)) for name, first, count in (("a", 0, 60), ("b", 99, 45))]


def tolerance(precision: Precision) -> float:
    return 5e-3 if precision == "32" else 0.03


def test_extracted_features_are_those_on_the_cpu(precision: Precision, videos: list[str], weights: Path,
                                                 device: torch.device, tmp_path: Path) -> None:
    for name, where, kind in (("found", device.type, precision), ("expected", "cpu", "32")):
        done = extract_features(videos, str(weights), tmp_path / name, fps=10, window=8, stride=4, device=where,
                                precision=kind, num_workers=0)
        assert done.written == 2
    for path in (tmp_path / "expected").glob("*.safetensors"):
        expected, found = (read_features(tmp_path / name / path.name).values.float() for name in ("expected", "found"))
        assert len(expected) > 5 and expected.std(0).mean() > 0
        assert (found - expected).norm() < tolerance(precision) * expected.norm()


def test_a_search_finds_what_it_finds_on_the_cpu(precision: Precision, videos: list[str], weights: Path,
                                                 device: torch.device, tmp_path: Path) -> None:
    scores = []
    for name, where, kind in (("found", device.type, precision), ("expected", "cpu", "32")):
        build_index(videos, str(weights), tmp_path / name, seconds=1.0, every=1.0, max_tokens=12, device=where,
                    precision=kind, num_workers=0)
        index = Index(tmp_path / name, device=where, precision=kind)
        moments = [moment for query in QUERIES for moment in index.search(query, top=20, rerank=20)]
        scores.append({(i // (len(moments) // 2), m.video, m.start): m for i, m in enumerate(moments)})
    found, expected = scores
    assert found.keys() == expected.keys() and len(expected) == 20  # windows
    for key, moment in expected.items():
        assert found[key].cosine == pytest.approx(moment.cosine, abs=tolerance(precision))
        assert found[key].match == pytest.approx(moment.match, abs=tolerance(precision))

"""The scan over embeddings finds what a plain loop finds, and moments don't overlap."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from egovlpv2.features.files import FeatureWriter
from egovlpv2.features.header import Recipe
from egovlpv2.search.moments import Moment, temporal_nms
from egovlpv2.search.store import EmbeddingStore
from egovlpv2.video.clock import clock

WIDTH = 24


def write_rows(folder: Path, name: str, values: torch.Tensor, duration: float, kind: str = "unit",
               stride: int = 500, frame_rule: str = "centre") -> None:
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.safetensors").open("wb") as file:
        recipe = Recipe(kind, values.shape[1], 1000.0, 2000, stride, 4, 32, "0" * 16, frame_rule=frame_rule)
        writer = FeatureWriter(file, recipe, duration, len(values))
        writer.append(values)
        writer.finish()


@pytest.fixture
def values() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: normalize(torch.randn(count, WIDTH, generator=generator), dim=-1)
            for name, count in (("b", 90), ("a", 41), ("c", 1))}


@pytest.fixture
def folder(values: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    for name, rows in values.items():
        write_rows(tmp_path / "index", name, rows, duration=len(rows) * 0.5 + 1.5)
    return tmp_path / "index"


def test_the_best_are_those_of_a_plain_loop(values: dict[str, torch.Tensor], folder: Path) -> None:
    rows, generator = EmbeddingStore(folder), torch.Generator().manual_seed(1)
    assert len(rows) == 132 and rows.names == ["a", "b", "c"]
    for query in normalize(torch.randn(20, WIDTH, generator=generator), dim=-1):
        every = [(float(row.half().float() @ query), name, place) for name in values
                 for place, row in enumerate(values[name])]
        expected: list[tuple[float, str, int]] = []
        for one in sorted(every, reverse=True):
            if not any(one[1] == other[1] and abs(one[2] - other[2]) < 4 for other in expected):
                expected.append(one)
        found = rows.topk(query, 7)
        assert [(moment.video, moment.window_index) for moment in found] == [
            (name, place) for _, name, place in expected[:7]]
        assert [moment.cosine for moment in found] == pytest.approx([cosine for cosine, *_ in expected[:7]], abs=1e-6)
        assert all(moment.start == moment.window_index * 0.5 for moment in found)


def test_all_moments_are_found_where_fewer_fit(folder: Path) -> None:
    found = EmbeddingStore(folder).topk(normalize(torch.ones(WIDTH), dim=0), 1000)
    for name in "abc":
        starts = sorted(moment.start for moment in found if moment.video == name)
        assert starts and all(b - a >= 2 for a, b in zip(starts[:-1], starts[1:], strict=True))


def test_near_ties_are_told_apart(tmp_path: Path) -> None:
    """Their scores are one number in float16."""
    query = torch.zeros(WIDTH)
    query[0] = 1
    values = torch.zeros(40, WIDTH)
    values[:, 0], values[:, 1] = 0.9, torch.linspace(0.1, 0.2, 40)
    values[:, 2] = (1 - values[:, 0] ** 2 - values[:, 1] ** 2).sqrt()  # of length one
    query[1] = 1e-3
    write_rows(tmp_path, "a", values, 80.0, stride=2000)
    places = [moment.window_index for moment in EmbeddingStore(tmp_path).topk(query, 40)]
    assert places == list(range(39, -1, -1))


def test_a_window_ends_with_its_video(tmp_path: Path) -> None:
    write_rows(tmp_path, "a", normalize(torch.arange(1.0, WIDTH + 1)[None], dim=-1), duration=0.7)
    (moment,) = EmbeddingStore(tmp_path).topk(torch.ones(WIDTH), 3)
    assert (moment.start, moment.end) == (0.0, 0.7)
    assert EmbeddingStore(tmp_path).spans() == [("a", 0.0, 0.7)]


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished videos"):
        EmbeddingStore(tmp_path)
    write_rows(tmp_path, "a", torch.ones(1, WIDTH), 2.0, kind="dual")
    with pytest.raises(ValueError, match="kind dual and no index"):
        EmbeddingStore(tmp_path)
    write_rows(tmp_path, "a", torch.eye(WIDTH)[:2], 2.0, frame_rule="released")
    with pytest.raises(ValueError, match="frame_rule released, and an index has those of centre"):
        EmbeddingStore(tmp_path)


def test_an_index_whose_windows_are_all_alike_is_refused(values: dict[str, torch.Tensor], folder: Path) -> None:
    one = values["a"][:1]
    for name, count in (("b", 90), ("a", 41), ("c", 1)):
        write_rows(folder, name, one.expand(count, -1), duration=60.0)
    with pytest.raises(ValueError, match=r"index: all 132 windows have the same embedding: the weights 0+ are not"):
        EmbeddingStore(folder)
    write_rows(folder, "b", values["b"], duration=60.0)
    assert len(EmbeddingStore(folder)) == 132  # of a video that shows one thing only, they may be


def test_moments_that_touch_both_stay() -> None:
    moments = [Moment(video, start, start + 2, 0.5) for video, start in
               (("a", 4.0), ("a", 5.9), ("a", 6.0), ("b", 5.0), ("a", 2.1), ("a", 2.0))]
    assert [(m.video, m.start) for m in temporal_nms(moments, 2.0, 9)] == [
        ("a", 4.0), ("a", 6.0), ("b", 5.0), ("a", 2.0)]
    assert len(temporal_nms(moments, 2.0, 2)) == 2


def test_times_read_like_a_clock() -> None:
    assert [clock(s) for s in (0, 59.96, 61.25, 3600, 7384.5)] == ["0:00:00", "0:01:00", "0:01:01.2", "1:00:00",
                                                                  "2:03:04.5"]
    assert str(Moment("a", 0, 2, 0.5)) == "a  0:00:00 - 0:00:02  cosine 0.500"
    assert str(Moment("a", 0, 2, 0.5, 0.25)).endswith("match 0.250") and Moment("a", 0, 2, 0.5, 0.25).score == 0.75

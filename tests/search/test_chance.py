"""What chance reaches in an index, and a search that finds nothing better."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from search.searching import QUERY, index, search
from search.test_codes import add_video, draw

from egovlpv2 import Index
from egovlpv2.data_modules.toy_world.evaluate_absent import deviations, draw_questions
from egovlpv2.features.files import read_features
from egovlpv2.search.chance import TEXTS, update_chance
from egovlpv2.search.maintenance import check_index
from egovlpv2.search.manifest import read_manifest
from egovlpv2.search.store import open_store


def embed(texts: list[str]) -> torch.Tensor:
    assert texts == list(TEXTS) and len(set(texts)) == 200
    return draw(11, len(texts))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("abc"):
        add_video(tmp_path / "index", name, seed, 60 + 10 * seed)
    update_chance(tmp_path / "index", embed)
    return tmp_path / "index"


def by_hand(folder: Path, names: str, cosine: float) -> float:
    rows = torch.cat([read_features(folder / f"{name}.safetensors").values.float() for name in names])
    best = (rows @ embed(list(TEXTS)).T).amax(0).half().double().numpy()
    return float((cosine - best.mean()) / best.std())


def test_the_deviation_is_that_of_a_plain_computation(folder: Path) -> None:
    chance = open_store(folder)[1].chance
    assert chance is not None
    for names in ("abc", "b", "ca"):
        for cosine in (0.2, 0.9):
            assert chance.deviation(cosine, list(names)) == pytest.approx(by_hand(folder, names, cosine), rel=1e-3)
    assert chance.deviation(0.5, []) is None
    assert chance.deviation(0.5, ["new"]) is None and chance.deviation(0.5, ["new", "b"]) is None
    add_video(folder, "b", 70, 50)  # embedded anew, and not compared yet
    chance = open_store(folder)[1].chance
    assert chance is not None and chance.deviation(0.5, ["b"]) is None and chance.deviation(0.5, ["a"]) is not None


def test_new_and_changed_videos_are_compared_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = folder.glob("chance-*.npy")
    update_chance(folder, lambda texts: pytest.fail("nothing is new"))
    assert list(folder.glob("chance-*.npy")) == [before]
    add_video(folder, "b", 70, 50)
    add_video(folder, "d", 71, 40)
    read = []
    monkeypatch.setattr("egovlpv2.search.chance.read_features",
                        lambda path, **options: read.append(path.stem) or read_features(path, **options))
    update_chance(folder, embed)
    assert read == ["b", "d"] and len(list(folder.glob("chance-*.npy"))) == 1
    chance = open_store(folder)[1].chance
    assert chance is not None
    assert chance.deviation(0.5, list("abcd")) == pytest.approx(by_hand(folder, "abcd", 0.5), rel=1e-3)


def test_a_damaged_file(folder: Path) -> None:
    (path,) = folder.glob("chance-*.npy")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"chance-.*npy is missing or damaged: `egovlpv2 index --check"):
        open_store(folder)
    assert len(check_index(folder).repaired) == 1 and open_store(folder)[1].chance is None
    update_chance(folder, embed)
    assert open_store(folder)[1].chance is not None


def test_a_search_says_that_nothing_fits(made: Path, capsys: pytest.CaptureFixture[str],
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_manifest(made).chance is not None
    opened = Index(made, device="cpu")
    found = opened.find(QUERY, top=3)
    deviation = found.deviation
    assert deviation is not None and found.moments == opened.search(QUERY, top=3)
    assert opened.find(QUERY, min_score=1.0).deviation is None and opened.find(like="a@0.5").deviation is None
    assert opened.find(QUERY, videos=["a", "b"]).deviation is not None
    reranked = opened.find(QUERY, top=1, rerank=9)  # which may leave the moment of the best cosine out
    assert (reranked.cosine, reranked.deviation) == (found.cosine, deviation)
    line = "nothing fits better than chance would: the best cosine is"
    for least, said in ((deviation + 0.01, True), (deviation - 0.01, False)):
        monkeypatch.setattr("egovlpv2.search.index.LEAST_DEVIATION", least)
        capsys.readouterr()
        search(made, "--top", 3)
        assert (line in capsys.readouterr().out) is said
        assert (line in (made.parent / "page.html").read_text()) is said


def test_an_example_is_not_compared_with_texts(made: Path, capsys: pytest.CaptureFixture[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egovlpv2.search.index.LEAST_DEVIATION", np.inf)
    search(made, "--like", "a@0.5")
    assert "nothing fits" not in capsys.readouterr().out


def test_absent_and_present_objects_are_told_apart() -> None:
    """Deviations are counted of videos without the narration's object, and of as many with its own."""
    told = {"a": ["jar", "cup"], "b": ["leek"], "c": ["cup"], "d": ["leek", "jar"]}
    events = {name: [SimpleNamespace(noun=noun, text=f"#C C takes the {noun}") for noun in nouns]
              for name, nouns in told.items()}
    videos = {name: SimpleNamespace(events=those) for name, those in events.items()}
    questions = draw_questions(videos, 99, seed=0)
    assert len(questions) == 6
    for question in questions:
        noun = question.text.split()[-1]
        assert question.absent == [name for name in told if noun not in told[name]]
        assert noun in told[question.present[0]] and len(set(question.present)) == len(question.absent)
    index = SimpleNamespace(find=lambda text, top, videos: SimpleNamespace(
        deviation=1.0 if videos in [q.absent for q in questions] else 2.0))
    absent, present = deviations(index, questions)
    assert absent == [1.0] * 6 and 2.0 in present
    with pytest.raises(ValueError, match="every object is used in every video"):
        draw_questions({"b": videos["b"], "e": videos["b"]}, 9, seed=0)


def test_new_videos_join(made: Path, videos: Path, weights: Path) -> None:
    from features.test_extract import write

    index(write(videos.parent / "more" / "e.mp4", 9), weights, made)
    record = read_manifest(made).chance
    assert record is not None and {video.name for video in record.videos} == set("abce")

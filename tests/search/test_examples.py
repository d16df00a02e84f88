"""Search by example and by filter: moments like another, a clip or a picture, in some videos, and not like a text."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from features.test_extract import write
from PIL import Image
from search.searching import QUERY, index
from torch.nn.functional import normalize
from video.numbered_videos import picture, write_video

from egovlpv2 import Index
from egovlpv2.cli import main as cli
from egovlpv2.search.examples import read_example
from egovlpv2.search.moments import Moment
from egovlpv2.video.excerpt import write_excerpt
from egovlpv2.video.find import VIDEO_SUFFIXES
from egovlpv2.video.images import read_images
from egovlpv2.video.transforms import EvalTransform


@pytest.fixture
def opened(made: Path) -> Index:
    return Index(made, device="cpu")


def rows(index: Index) -> dict[tuple[str, int], torch.Tensor]:
    """The embedding of each window, by video and number."""
    return {(name, i): row.float() for name, values in zip(index.store.names, index.store.values, strict=True)
            for i, row in enumerate(values)}


def best(index: Index, score: Callable[[torch.Tensor], float], names: str = "abc") -> list[tuple[str, int]]:
    """Windows by score, the best first, without those that overlap a better one."""
    kept: list[tuple[str, int]] = []
    for name, i in sorted((key for key in rows(index) if key[0] in names), key=lambda key: -score(rows(index)[key])):
        if not any(name == other and abs(i - j) < 2 for other, j in kept):
            kept.append((name, i))
    return kept


def places(found: list[Moment]) -> list[tuple[str, int]]:
    return [(moment.video, moment.window_index) for moment in found]


def test_moments_like_another_are_found_without_itself(opened: Index) -> None:
    example = rows(opened)["a", 1]  # 1 to 3 s
    found = opened.search(like="a@2.1", top=100)
    away = [key for key in best(opened, lambda row: float(row @ example) if not torch.equal(row, example) else -9)]
    assert found == opened.search(like="a@0:00:02.1", top=100)
    assert all(moment.video != "a" or not moment.start - 1 <= 2.1 <= moment.end + 1 for moment in found)
    assert {key for key in places(found)} <= set(rows(opened)) and found[0].cosine == pytest.approx(max(
        float(rows(opened)[key] @ normalize(example, dim=0)) for key in places(found)), abs=1e-3)
    assert away and found == sorted(found, key=lambda moment: -moment.cosine)


def test_a_clip_is_embedded_as_a_window_is(opened: Index, videos: Path, tmp_path: Path) -> None:
    source = opened.manifest.videos["a"].source("a")
    write_excerpt(source, 600.0, [(2.0, 4.0)], tmp_path / "clip.mp4", source.rate, 1000)
    with torch.no_grad():
        found = read_example(str(tmp_path / "clip.mp4"), opened.store, opened._embed_clip)
    assert float(found.embedding @ rows(opened)["a", 2]) > 0.98 and found.video == ""  # H.264 changes pixels
    assert opened.search(like=str(tmp_path / "clip.mp4"), top=1)[0].cosine > 0.98


def test_a_picture_is_a_clip_that_stands_still(opened: Index, tmp_path: Path) -> None:
    Image.fromarray(picture(7)).save(tmp_path / "still.png")
    with torch.no_grad():
        found = read_example(str(tmp_path / "still.png"), opened.store, opened._embed_clip)
    frames = read_images([tmp_path / "still.png"], 1.0, [0.0] * 4, EvalTransform(32)).frames
    with torch.no_grad():
        expected = normalize(opened.backbone.embed_video(frames[None])[0], dim=0)
    torch.testing.assert_close(found.embedding, expected)


def test_a_text_and_an_example_count_the_same(opened: Index) -> None:
    text = {moment.window_index: moment.cosine for moment in opened.search(QUERY, top=1, videos=["c"])}
    example = rows(opened)["b", 2]
    (both,) = opened.search(QUERY, like="b@3.0", top=1, videos=["c"])
    row = rows(opened)["c", 0]
    length = float((2 + 2 * cosine_of(opened, example)) ** 0.5)
    assert both.cosine == pytest.approx((text[0] + float(row @ example)) / length, abs=2e-3)


def cosine_of(index: Index, row: torch.Tensor) -> float:
    """Of the query with a window."""
    return float(index._embed(QUERY) @ row)


def test_names_of_videos_may_have_wildcards(opened: Index) -> None:
    assert {moment.video for moment in opened.search(QUERY, top=100, videos=["[ab]"])} == {"a", "b"}
    assert {moment.video for moment in opened.search(QUERY, top=100, videos=["c", "b*"])} == {"b", "c"}
    alone = opened.search(QUERY, top=100, videos=["b"])
    assert alone == [moment for moment in opened.search(QUERY, top=100) if moment.video == "b"]


def test_names_with_brackets(made: Path, videos: Path, weights: Path) -> None:
    """A video's own name is taken as such; what is no pattern is refused."""
    write(videos / "b[1].mp4", 40, 30)
    index(videos, weights, made)
    opened = Index(made, device="cpu")
    assert opened.matching(["b[1]"]) == ["b[1]"] and opened.matching(["b*"]) == ["b", "b[1]"]
    assert {moment.video for moment in opened.search(QUERY, videos=["b[1]"])} == {"b[1]"}
    with pytest.raises(ValueError, match=r"no video of the index is named|can't be read as a name with wildcards"):
        opened.matching(["[z-a]"])


def test_what_fits_another_text_better_is_left_out(opened: Index) -> None:
    unwanted = opened._embed("w5")
    found = opened.search(QUERY, top=100, without="w5")
    worse = {key for key, row in rows(opened).items() if float(row @ unwanted) > cosine_of(opened, row) + 1e-3}
    assert not worse & set(places(found))
    assert opened.search(QUERY, top=100, without=QUERY) == opened.search(QUERY, top=100)
    assert not opened.search("w5", top=100, without=QUERY) or found != opened.search(QUERY, top=100)


def test_moments_below_a_score_are_left_out(opened: Index) -> None:
    every = opened.search(QUERY, top=100)
    least = every[len(every) // 2].cosine
    assert opened.search(QUERY, top=100, min_score=least) == [moment for moment in every if moment.cosine >= least]
    assert opened.search(QUERY, min_score=1.0) == []


def test_the_command_takes_them(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how = ["--index", str(made), "--out", str(tmp_path / "a.html"), "--device", "cpu"]
    cli(["search", "--like", "a@1", "--in", "b", "c", "--not", "w5 w6", *how])
    assert " a " not in capsys.readouterr().out and "like a@1" in (tmp_path / "a.html").read_text()
    cli(["search", QUERY, "--min-score", "1", *how])
    assert capsys.readouterr().out.startswith("nothing was found")


def test_what_cannot_be_searched_for_is_refused(opened: Index, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "two").mkdir()
    for name in ("x", "y"):
        write_video(tmp_path / "two" / f"{name}.mp4", fps=8, pictures=[picture(0)])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for like, message in (("a@99", "a lasts 6.0 s"), ("a@", "a lasts"), ("a@nan", "a lasts"), ("a@-1", "a lasts"),
                          ("d@1", "'d' is not a video of the index"), (str(tmp_path / "none.mp4"), "no such file"),
                          (str(tmp_path / "notes.txt"), "give VIDEO@SECONDS, a clip or a picture"),
                          (str(tmp_path / "two"), "holds 2 videos"), (str(tmp_path / "broken.png"), "broken.png")):
        with pytest.raises(ValueError, match=message):
            opened.search(like=like)
    for arguments, message in (({}, "give a text to search for, an example"), ({"text": " "}, "the query is empty"),
                               ({"text": "w1", "without": ""}, "without is empty"),
                               ({"text": "w1", "videos": ["x*"]}, r"no video of the index is named 'x\*'"),
                               ({"text": "w1", "videos": []}, "videos is an empty list"),
                               ({"like": "a@1", "rerank": 2}, "rerank=2 needs a text")):
        with pytest.raises(ValueError, match=message):
            opened.search(**arguments)
    assert ".mp4" in VIDEO_SUFFIXES and np.isfinite(opened.search(like="a@1", top=1)[0].cosine)

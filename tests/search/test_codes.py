"""Codes of an index: what they find, and how they follow the embeddings."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from search.test_store import write_rows
from torch.nn.functional import normalize

from egovlpv2.search.codes import update_codes
from egovlpv2.search.manifest import FILE, commit
from egovlpv2.search.moments import Moment
from egovlpv2.search.store import EmbeddingStore, open_store

WIDTH, ROWS = 32, 700


def draw(seed: int, count: int = ROWS) -> torch.Tensor:
    """Embeddings around a few centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(99))
    chosen = torch.randint(30, (count,), generator=generator)
    return normalize(centres[chosen] + 0.6 * torch.randn(count, WIDTH, generator=generator), dim=-1)


def add_video(folder: Path, name: str, seed: int, count: int = ROWS) -> None:
    write_rows(folder, name, draw(seed, count), duration=count * 0.5 + 1.5)
    if not (folder / FILE).exists():
        (folder / FILE).write_text('{"weights": "w", "tokenizer": "t", "max_tokens": 9, "videos": {}}')
    manifest = json.loads((folder / FILE).read_text())
    manifest.setdefault("embeddings", {}).pop(name, None)  # as `add` does for a video that has changed
    (folder / FILE).write_text(json.dumps(manifest))
    commit(folder)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of three videos, of which no search is small enough to do without codes."""
    monkeypatch.setattr("egovlpv2.search.store.FEW_ROWS", 0)
    monkeypatch.setattr("egovlpv2.search.store._CANDIDATES", 60)  # of 2,100: few enough for a filter to matter
    monkeypatch.setattr("egovlpv2.search.store._MOST_CANDIDATES", 200)
    for seed, name in enumerate("abc"):
        add_video(tmp_path / "index", name, seed)
    return tmp_path / "index"


def searches(store: EmbeddingStore, **options: Any) -> list[list[Moment]]:
    return [store.topk(query, 5, **options) for query in draw(50, 12)]


def same(found: list[list[Moment]], exact: list[list[Moment]]) -> None:
    assert len(found) == len(exact) and any(exact)
    for some, others in zip(found, exact, strict=True):
        assert [(m.video, m.window_index) for m in some] == [(m.video, m.window_index) for m in others]
        assert [m.cosine for m in some] == pytest.approx([m.cosine for m in others], abs=1e-6)


@pytest.mark.parametrize("kind", ["int8", "pq"])
def test_searches_find_what_exact_ones_find(kind: Any, folder: Path) -> None:
    _, exact = open_store(folder)
    update_codes(folder, kind)
    _, coded = open_store(folder)
    assert exact.codes is None and coded.codes is not None and coded.codes.videos == {0, 1, 2}
    for options in ({}, {"videos": ["b"]}, {"videos": ["c", "a"]}, {"unwanted": draw(51, 1)[0]},
                    {"except_at": ("b", 100.0)}, {"min_cosine": 0.7}):
        same(searches(coded, **options), searches(exact, **options))


@pytest.mark.parametrize("rest", ["filter", "not"])
def test_the_best_windows_may_all_be_left_out(rest: str, folder: Path) -> None:
    """By a filter, since they are another video's, or as they fit another text better."""
    query, other = draw(60, 2)
    noise = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(3))
    near = normalize(query + 0.5 * other + 0.01 * noise, dim=-1)
    write_rows(folder, "near", near, duration=ROWS * 0.5 + 1.5)
    commit(folder)
    options: dict[str, Any] = {"videos": ["a", "b"]} if rest == "filter" else {
        "unwanted": normalize(query + 0.5 * other, dim=0)}
    _, exact = open_store(folder)
    update_codes(folder, "pq")
    _, coded = open_store(folder)
    found = coded.topk(query, 5, **options)
    same([found], [exact.topk(query, 5, **options)])
    assert {moment.video for moment in coded.topk(query, 5)} == {"near"}
    assert len(found) == 5 and "near" not in {moment.video for moment in found}


def test_videos_without_codes_alone(folder: Path) -> None:
    update_codes(folder, "pq")
    add_video(folder, "d", 7, 900)
    _, store = open_store(folder)
    assert {moment.video for moments in searches(store, videos=["d"]) for moment in moments} == {"d"}


def test_very_many_moments_are_found_exactly(folder: Path) -> None:
    """More than the codes give candidates for."""
    update_codes(folder, "pq")
    _, store = open_store(folder)
    query = draw(50, 1)[0]
    found = store.topk(query, 5000)
    store.codes = None
    assert found == store.topk(query, 5000) and len(found) > 400


def test_new_videos_are_added_and_found_before(folder: Path) -> None:
    update_codes(folder, "pq")
    add_video(folder, "d", 7, 900)
    _, before = open_store(folder)
    assert before.codes is not None and before.codes.videos == {0, 1, 2}
    found = searches(before)
    assert "d" in {moment.video for moments in found for moment in moments}
    (old,) = folder.glob("codes-*.faiss")
    update_codes(folder, None)
    (new,) = folder.glob("codes-*.faiss")
    manifest, after = open_store(folder)
    assert old != new and after.codes is not None and after.codes.videos == {0, 1, 2, 3}
    assert manifest.codes is not None and [video.name for video in manifest.codes.videos] == list("abcd")
    same(searches(after), found)
    update_codes(folder, None)
    assert list(folder.glob("codes-*.faiss")) == [new]


def test_a_video_that_is_embedded_anew_is_coded_anew(folder: Path) -> None:
    for name in "defgh":
        add_video(folder, name, ord(name))
    update_codes(folder, "pq")
    add_video(folder, "b", 77, 500)
    _, before = open_store(folder)
    assert before.codes is not None and before.codes.videos == {0, *range(2, 8)}
    found = searches(before)
    update_codes(folder, None)
    manifest, after = open_store(folder)
    assert manifest.codes is not None and [video.name for video in manifest.codes.videos] == [*"abcdefgh", "b"]
    same(searches(after), found)
    for seed, name in enumerate("cd", 90):  # so many that all codes are written anew
        add_video(folder, name, seed)
    update_codes(folder, None)
    manifest, _ = open_store(folder)
    assert manifest.codes is not None and [video.name for video in manifest.codes.videos] == list("abcdefgh")


def test_back_to_the_embeddings(folder: Path) -> None:
    update_codes(folder, "int8")
    update_codes(folder, "float16")
    assert not list(folder.glob("codes-*")) and json.loads((folder / FILE).read_text())["codes"] is None
    assert open_store(folder)[1].codes is None


def test_a_reader_keeps_what_it_has_opened(folder: Path) -> None:
    """Also when the embeddings of a video that it finds in the codes are gone, or of another video."""
    update_codes(folder, "pq")
    _, reader = open_store(folder)
    before = searches(reader)
    update_codes(folder, "int8")
    same(searches(reader), before)
    add_video(folder, "a", 40, 600)
    (folder / "c.safetensors").unlink()
    assert {moment.video for moments in searches(reader) for moment in moments} == {"b"}


def test_a_small_index_needs_none(tmp_path: Path) -> None:
    add_video(tmp_path, "a", 1, 20)
    with pytest.raises(ValueError, match="--store pq: .* has 20 windows, and codes are learned from 1,000"):
        update_codes(tmp_path, "pq")
    assert open_store(tmp_path)[0].codes is None and not list(tmp_path.glob("codes-*"))


def test_damaged_codes_are_refused(folder: Path) -> None:
    update_codes(folder, "pq")
    (path,) = folder.glob("codes-*.faiss")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"codes-.*faiss is missing or damaged: `egovlpv2 index --check --out "):
        open_store(folder)
    path.unlink()
    with pytest.raises(ValueError, match="is missing or damaged"):
        open_store(folder)


def test_without_faiss(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name == "faiss":
            raise ImportError
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"codes of an index need faiss: `pip install 'egovlpv2\[scale\]'`"):
        update_codes(folder, "pq")
    assert len(searches(open_store(folder)[1])) == 12


def test_a_full_disk_leaves_the_codes_as_they_were(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update_codes(folder, "pq")
    manifest, _ = open_store(folder)
    monkeypatch.setattr("egovlpv2.search.codes.sync", lambda path: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        update_codes(folder, "int8")
    assert open_store(folder)[0] == manifest and len(list(folder.glob("codes-*"))) == 1

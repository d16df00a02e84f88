"""Relevancy equals its definition, is stored once for equal labels, and is cached in a file of its labels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from egovlpv2.data_modules.relevancy import cached_relevancy as cached
from egovlpv2.metrics.relevancy import Relevancy

CLIPS = ([0, 1, 0, 3], [[2], [2, 5], [2], [7, 8, 9]])
SENTENCES = ([0, 3, 1], [[2, 5], [9, 8, 7], [4]])
EXPECTED = torch.tensor([[0.75, 0.0, 0.0], [0.5, 0.0, 0.5], [0.75, 0.0, 0.0], [0.0, 1.0, 0.0]])


def test_relevancy_is_half_verb_and_half_nouns() -> None:
    assert torch.equal(Relevancy.of_labels(*CLIPS, *SENTENCES).full(), EXPECTED)


def test_random_labels_against_the_definition() -> None:
    rng = np.random.default_rng(0)
    verbs, other_verbs = rng.integers(0, 4, 30).tolist(), rng.integers(0, 4, 20).tolist()
    nouns, others = ([rng.integers(0, 6, rng.integers(1, 4)).tolist() for _ in range(n)] for n in (30, 20))
    found = Relevancy.of_labels(verbs, nouns, other_verbs, others).full()
    for i in range(30):
        for j in range(20):
            a, b = set(nouns[i]), set(others[j])
            expected = 0.5 * (verbs[i] == other_verbs[j]) + 0.5 * len(a & b) / len(a | b)
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-7)


def test_equal_labels_are_stored_once() -> None:
    compact = Relevancy.of_labels(*CLIPS, *SENTENCES)
    assert compact.shape == (4, 3) and compact.table.shape == (3, 3)  # clips 0 and 2 have the same labels
    assert all(torch.equal(compact[i], EXPECTED[i]) for i in range(4))
    assert torch.equal(compact.of_clips(torch.tensor([3, 0])).full(), EXPECTED[[3, 0]])


def test_the_file_is_written_once_and_belongs_to_its_labels(tmp_path: Path) -> None:
    path = tmp_path / "relevancy.safetensors"
    assert torch.equal(cached(path, *CLIPS, *SENTENCES).full(), EXPECTED)
    written = path.stat().st_mtime_ns
    assert torch.equal(cached(path, *CLIPS, *SENTENCES).full(), EXPECTED) and path.stat().st_mtime_ns == written
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match=r"relevancy.\w+ is for 4 clips and 3 sentences, the annotations have 3 and 3"):
        cached(path, CLIPS[0][:3], CLIPS[1][:3], *SENTENCES)
    with pytest.raises(ValueError, match="relevancy.safetensors was computed from other labels: delete it"):
        cached(path, [0, 1, 0, 2], CLIPS[1], *SENTENCES)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="relevancy.safetensors is not a cached relevancy"):
        cached(path, *CLIPS, *SENTENCES)
    with pytest.raises(ValueError, match="relevancy is kept in a .safetensors file"):
        cached(tmp_path / "relevancy.csv", *CLIPS, *SENTENCES)


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert torch.equal(cached(tmp_path / "file" / "relevancy.safetensors", *CLIPS, *SENTENCES).full(), EXPECTED)
    assert "The relevancy is not kept in" in caplog.text


def test_a_pickled_relevancy_is_left_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="relevancy.pkl: a pickled relevancy is not read: leave it out"):
        cached(tmp_path / "relevancy.pkl", *CLIPS, *SENTENCES)


@pytest.mark.parametrize("parts", [{"table": np.full((2, 2), np.nan, np.float32)}, {"table": np.eye(2)},
                                   {"clip": np.array([0, 2])}, {"clip": np.array([[0, 1]])},
                                   {"text": np.array([0.0, 1])}])
def test_a_damaged_relevancy_is_named(tmp_path: Path, parts: dict[str, np.ndarray]) -> None:
    good = {"table": np.eye(2, dtype=np.float32), "clip": np.arange(2), "text": np.arange(2)}
    save_file(good | parts, tmp_path / "r.safetensors", {"labels": "x"})
    with pytest.raises(ValueError, match="r.safetensors is not a cached relevancy"):
        cached(tmp_path / "r.safetensors", [1, 2], [[1], [2]], [1, 2], [[1], [2]])

"""Relevancy equals its definition, is stored once for equal labels, and comes out of files without running them."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from egovlpv2.data_modules.relevancy import cached, read_pickled_matrix, relevancy
from egovlpv2.metrics.relevancy import Relevancy

CLIPS = ([0, 1, 0, 3], [[2], [2, 5], [2], [7, 8, 9]])
SENTENCES = ([0, 3, 1], [[2, 5], [9, 8, 7], [4]])
EXPECTED = torch.tensor([[0.75, 0.0, 0.0], [0.5, 0.0, 0.5], [0.75, 0.0, 0.0], [0.0, 1.0, 0.0]])


def test_relevancy_is_half_verb_and_half_nouns() -> None:
    assert torch.equal(relevancy(*CLIPS, *SENTENCES), EXPECTED)


def test_random_labels_against_the_definition() -> None:
    rng = np.random.default_rng(0)
    verbs, other_verbs = rng.integers(0, 4, 30).tolist(), rng.integers(0, 4, 20).tolist()
    nouns, others = ([rng.integers(0, 6, rng.integers(1, 4)).tolist() for _ in range(n)] for n in (30, 20))
    found = relevancy(verbs, nouns, other_verbs, others)
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
    with pytest.raises(ValueError, match="relevancy.safetensors is not a relevancy of ours"):
        cached(path, *CLIPS, *SENTENCES)
    with pytest.raises(ValueError, match=r"relevancy is a .safetensors .* or the authors' .pkl"):
        cached(tmp_path / "relevancy.csv", *CLIPS, *SENTENCES)


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert torch.equal(cached(tmp_path / "file" / "relevancy.safetensors", *CLIPS, *SENTENCES).full(), EXPECTED)
    assert "The relevancy is not kept in" in caplog.text


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_matrix(tmp_path: Path, protocol: int, dtype: type) -> None:
    path = tmp_path / "relevancy.pkl"
    path.write_bytes(pickle.dumps(np.asfortranarray(EXPECTED.numpy().astype(dtype)), protocol=protocol))
    assert torch.equal(cached(path, *CLIPS, *SENTENCES).full(), EXPECTED)


class Malicious:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("inside", [False, True])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, inside: bool) -> None:
    path, trace = tmp_path / "relevancy.pkl", tmp_path / "ran"
    payload = Malicious(os.mkdir, str(trace))
    content = pickle.dumps(np.array([[payload]], dtype=object) if inside else payload)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a pickled NumPy matrix: it asks for .*mkdir"):
        read_pickled_matrix(path, (1, 1))
    assert not trace.exists()
    pickle.loads(content)
    assert trace.exists()  # so the payload would have worked


# numpy.ndarray(numpy.ndarray((1,), "O", b"AAAAAAAA")): an array of objects that points where the file says
POINTER = (b"\x80\x02cnumpy\nndarray\ncnumpy\nndarray\nK\x01\x85X\x01\x00\x00\x00Oc_codecs\nencode\n"
           b"X\x08\x00\x00\x00AAAAAAAAX\x06\x00\x00\x00latin1\x86R\x87R\x85R.")


@pytest.mark.parametrize(("content", "message"), [
    (pickle.dumps([[1.0]]), ".* holds no matrix of floats"),
    (pickle.dumps(np.ones(3)), ".* holds no matrix of floats"),
    (pickle.dumps(np.ones((2, 2), dtype=int)), ".* holds no matrix of floats"),
    (pickle.dumps(np.ones((4, 3)) * 2), "has relevancies that are not between 0 and 1"),
    (pickle.dumps(np.full((4, 3), np.nan)), "has relevancies that are not between 0 and 1"),
    (POINTER, "is not a pickled NumPy matrix"),
    (pickle.dumps(np.ones((2, 3))), "is for 2 clips and 3 sentences, the annotations have 4 and 3"),
    (b"garbage", "is not a pickled NumPy matrix"),
    (b"", "is not a pickled NumPy matrix"),
    (pickle.dumps(np.ones((2, 3)))[:-9], "is not a pickled NumPy matrix"),
])  # fmt: skip
def test_other_pickles_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "relevancy.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"relevancy.pkl {message}"):
        read_pickled_matrix(path, (4, 3))


def test_no_pickle(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no file .*gone.pkl"):
        read_pickled_matrix(tmp_path / "gone.pkl", (1, 1))


def test_a_pickle_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "relevancy.pkl").write_bytes(b"\x80\x04N" + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f.")
    with pytest.raises(ValueError, match="relevancy.pkl is not a pickled NumPy matrix: it has too many parts"):
        read_pickled_matrix(tmp_path / "relevancy.pkl", (3, 3))


@pytest.mark.parametrize("parts", [{"table": np.full((2, 2), np.nan, np.float32)}, {"table": np.eye(2)},
                                   {"clip": np.array([0, 2])}, {"clip": np.array([[0, 1]])},
                                   {"text": np.array([0.0, 1])}])
def test_a_damaged_relevancy_is_named(tmp_path: Path, parts: dict[str, np.ndarray]) -> None:
    good = {"table": np.eye(2, dtype=np.float32), "clip": np.arange(2), "text": np.arange(2)}
    save_file(good | parts, tmp_path / "r.safetensors", {"labels": "x"})
    with pytest.raises(ValueError, match="r.safetensors is not a relevancy of ours"):
        cached(tmp_path / "r.safetensors", [1, 2], [[1], [2]], [1, 2], [[1], [2]])

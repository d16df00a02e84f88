"""QFVS's annotations: all spellings and both forms of the files, and what is wrong with them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import REAL_DATA
from qfvs_world import CONCEPTS, LENGTHS, drawn_tags, write_annotations, write_mat
from scipy.io import savemat

from egovlpv2.data_modules.qfvs import QFVSDataModule
from egovlpv2.data_modules.qfvs_files import SummaryQuery, read_dictionary, read_oracles, read_tags
from egovlpv2.metrics.summary import select, semantic_f1

REAL = REAL_DATA / "qfvs"


@pytest.mark.parametrize("place", ["Oracle_Summaries", "Oracle_summaries", "Query-Focused_Summaries/Oracle_Summaries"])
def test_oracles_are_found_in_all_spellings(tmp_path: Path, place: str) -> None:
    write_annotations(tmp_path, place)
    (tmp_path / place / "P02" / "._Baby_Car_oracle.txt").write_bytes(b"\xff of a file system")
    queries = read_oracles(tmp_path, "P02", CONCEPTS, 10)
    assert [(query.concepts, query.oracle.tolist()) for query in queries] == [
        (("Baby", "Tree"), [0, 9]), (("Petsanimal", "Car"), [3, 6])]
    assert isinstance(queries[0], SummaryQuery) and queries[0].key == "P02 Baby Tree"


def test_tags_of_both_forms(root: Path) -> None:
    assert read_dictionary(root) == CONCEPTS
    write_mat(root)
    for video in LENGTHS:
        text = read_tags(root, video, CONCEPTS)
        assert np.array_equal(text, drawn_tags(video)) and text.dtype == np.float32
        (root / "Dense_per_shot_tags" / video / f"{video}.txt").unlink()
        matrix = read_tags(root, video, CONCEPTS)
        assert np.array_equal(matrix, text) and matrix.dtype == np.float32
    assert not all(drawn_tags(video).any(1).all() for video in LENGTHS)  # some shots show nothing
    for video, message in (("P05", "Tags.mat has no tags of P05"), ("Q01", "holds videos named P01, P02")):
        with pytest.raises(ValueError, match=message):
            read_tags(root, video, CONCEPTS)
    with pytest.raises(ValueError, match=r"Tags.mat has 9 shots of P01, of 5 concepts: .* the 4 concepts of Dict"):
        read_tags(root, "P01", CONCEPTS[:4])
    (root / "Tags.mat").write_bytes((root / "Tags.mat").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"Tags.mat is damaged, or .* \(it ends too early\): download it again"):
        read_tags(root, "P01", CONCEPTS)


def test_a_matrix_of_other_numbers_is_named(root: Path) -> None:
    structs = np.zeros((1, 1), dtype=[("Bin_Vecs", object)])
    structs["Bin_Vecs"][0, 0] = cells = np.empty((1, 1), dtype=object)
    cells[0, 0] = np.array([[0, 2, 0, 0, 1]])
    savemat(root / "Tags.mat", {"Tags": structs})
    (root / "Dense_per_shot_tags" / "P01" / "P01.txt").unlink()
    with pytest.raises(ValueError, match="Tags.mat: the tags of P01 should be rows of 0 and 1"):
        read_tags(root, "P01", CONCEPTS)


ORACLE = "Oracle_Summaries/P01/Baby_Car_oracle.txt"


@pytest.mark.parametrize(("file", "content", "message"), [
    (ORACLE, "2\n0\n", "Baby_Car_oracle.txt, line 2: there is no shot 0; the tags are of shots 1 to 9"),
    (ORACLE, "-3\n", "line 1: there is no shot -3"),
    (ORACLE, "9\n\n10\n", "Baby_Car_oracle.txt, line 3: there is no shot 10; the tags are of shots 1 to 9"),
    (ORACLE, "1\nfour\n", "Baby_Car_oracle.txt, line 2: 'four' is not the number of a shot"),
    (ORACLE, "1\n1_0\n", "line 2: '1_0' is not the number"), (ORACLE, "9" * 5000, "line 1: '999.* is not the number"),
    (ORACLE, "1\n2.0\n", "line 2: '2.0' is not the number"),
    (ORACLE, "5\n7\n5\n", "Baby_Car_oracle.txt, line 3: shot 5 is there twice, first in line 1"),
    (ORACLE, "\n\n", "Baby_Car_oracle.txt names no shots"),
    (ORACLE, b"1\n\xff\n", "Baby_Car_oracle.txt, line 2: the file is not UTF-8"),
    ("Oracle_Summaries/P01/Baby_Dog_oracle.txt", "1\n", "Baby_Dog_oracle.txt: 'Dog' is not one of the 5 concepts"),
    ("Oracle_Summaries/P01/Baby_oracle.txt", "1\n", "Baby_oracle.txt: an oracle summary should be named like Car_Tree"),
    ("Oracle_Summaries/P01/Baby_Car.txt", "1\n", "Baby_Car.txt: an oracle summary should be named like Car_Tree"),
    ("Oracle_Summaries/P01/A_B_C_oracle.txt", "1\n", "A_B_C_oracle.txt: an oracle summary should be named"),
    ("Dense_per_shot_tags/P01/P01.txt", "Baby\n\nCar,Dog\n", "P01.txt, line 3: 'Dog' is not one of the 5 concepts"),
    ("Dense_per_shot_tags/P01/P01.txt", "Baby\n".encode("utf-16"), "P01.txt, line 1: the file is UTF-16"),
    ("Dense_per_shot_tags/P01/P01.txt", "Baby,\n", "P01.txt, line 1: '' is not one of the 5 concepts"),
    ("Dense_per_shot_tags/P01/P01.txt", "", "P01.txt has 0 shots of P01"),
    ("Dense_per_shot_tags/P01/P01.txt", None, "There is no file .*P01.txt: set data.init_args.root"),
    ("Dense_per_shot_tags/Dictionary.txt", "", "Dictionary.txt should name each concept once.*0 lines"),
    ("Dense_per_shot_tags/Dictionary.txt", "'Car'\nCar\n", "Dictionary.txt should name each .*2 lines and 1 different"),
    ("Dense_per_shot_tags/Dictionary.txt", None, "There is no file .*Dictionary.txt"),
])
def test_bad_annotations_are_named(root: Path, file: str, content: str | bytes | None, message: str) -> None:
    if content is None:
        (root / file).unlink()
    else:
        (root / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        _ = QFVSDataModule(str(root), "features").queries


def test_missing_oracles_are_named(root: Path) -> None:
    for path in (root / "Oracle_Summaries" / "P02").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="P02 holds no oracle summaries, files named like Car_Tree_oracle.txt"):
        QFVSDataModule(str(root), "features").prompts()
    shutil.rmtree(root / "Oracle_Summaries" / "P01")
    with pytest.raises(ValueError, match="has no folder Oracle_Summaries/P01 .nor Oracle_summaries/P01"):
        QFVSDataModule(str(root), "features").prompts()


# Precision, recall and F1 in % of 2 % of a video's shots, means over its queries: evenly spread, and drawn with seed 0.
CHANCE = {
    "P01": (2783, (56.995642, 41.368219, 46.851421), (58.102304, 42.508447, 48.006077)),
    "P02": (3692, (45.476625, 52.861289, 48.530235), (47.879703, 55.551619, 51.051390)),
    "P03": (2152, (68.101830, 49.987153, 57.354538), (68.090970, 50.046407, 57.391906)),
    "P04": (3588, (26.923981, 54.620327, 35.677424), (25.196503, 51.115535, 33.389324)),
}


@pytest.mark.skipif(not REAL.is_dir(), reason="EGOVLPV2_REAL_DATA has no such files")
@pytest.mark.parametrize("video", CHANCE)
def test_real_annotations(video: str) -> None:
    """The chance level is not far below the paper's 52.08: a score below it is that of an untrained head."""
    shots, uniform, drawn = CHANCE[video]
    dictionary = read_dictionary(REAL)
    tags = read_tags(REAL, video, dictionary)
    queries = read_oracles(REAL, video, dictionary, len(tags))
    assert len(dictionary) == 48 and tags.shape == (shots, 48) and len(queries) == 45
    assert tags.any(1).all()  # so that every shot overlaps itself
    assert all(semantic_f1(tags, query.oracle, query.oracle) == (1.0, 1.0, 1.0) for query in queries)
    count = round(0.02 * shots)
    spread = ((np.arange(count) + 0.5) * shots / count).astype(int)
    for chosen, expected in ((spread, uniform), (select(np.random.default_rng(0).random(shots), 0.02), drawn)):
        assert len(chosen) == count
        scores = np.mean([semantic_f1(tags, chosen, query.oracle) for query in queries], axis=0)
        np.testing.assert_allclose(100 * scores, expected, atol=1e-5)


@pytest.mark.skipif(not REAL.is_dir(), reason="EGOVLPV2_REAL_DATA has no such files")
def test_the_real_matrix(tmp_path: Path) -> None:
    """It tells the same as the texts, but of three videos it lacks one tag of the last shot."""
    (tmp_path / "Dense_per_shot_tags").mkdir()
    for name in ("Tags.mat", "Dense_per_shot_tags/Dictionary.txt"):
        (tmp_path / name).symlink_to(REAL / name)
    dictionary, different = read_dictionary(REAL), {}
    for video in LENGTHS:
        text, matrix = (read_tags(folder, video, dictionary) for folder in (REAL, tmp_path))
        different[video] = [(int(row), dictionary[column], int(matrix[row, column]))
                            for row, column in np.argwhere(text != matrix)]
    assert different == {"P01": [(2782, "Phone", 0)], "P02": [(3691, "Room", 0)], "P03": [(2151, "Desk", 0)], "P04": []}

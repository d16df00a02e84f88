"""QFVS: shots with their tags and oracles lie where their features do, and no test video trains."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import REAL_DATA, only
from scipy.io import loadmat, savemat

from egovlpv2.batch import SummaryBatch
from egovlpv2.data_modules.loaders import PAD_INDEX
from egovlpv2.data_modules.qfvs import QFVSDataModule
from egovlpv2.data_modules.qfvs_files import SummaryQuery, prompts, read_dictionary, read_oracles, read_tags
from egovlpv2.features import FeatureFolder
from egovlpv2.features.files import FeatureWriter
from egovlpv2.features.header import Recipe
from egovlpv2.metrics.summary import SummaryF1, select, semantic_f1

REAL = REAL_DATA / "qfvs"
CONCEPTS = ["Baby", "Car", "Cupglass", "Petsanimal", "Tree"]
LENGTHS = {"P01": [3, 2, 4], "P02": [5, 5], "P03": [1], "P04": [2, 6, 1, 3]}  # shots that look alike, of each video
ORACLES = {"P01": {"Baby_Car": [2, 9], "Cupglass_Tree": [1, 2, 3], "Car_Tree": [5]},
           "P02": {"Baby_Tree": [10, 1], "Petsanimal_Car": [4, 7]},
           "P03": {"Baby_Car": [1]},
           "P04": {"Tree_Car": [12, 3], "Baby_Tree": [6], "Cupglass_Petsanimal": [1]}}
PLAIN, OTHER = ("There is a {}", "There is a {} and a {}"), ("Look: {}", "Look: {}, {}")
WIDTH = 4
RECIPE = Recipe("fused", WIDTH, 1.0, 5, 5, 5, 32, "0" * 16)


def drawn_tags(video: str) -> np.ndarray:
    """(n, C), some shots without any."""
    return (np.random.default_rng(int(video[1:])).random((sum(LENGTHS[video]), len(CONCEPTS))) < 0.3).astype(np.float32)


def write_annotations(root: Path, oracles: str = "Oracle_Summaries") -> None:
    for video, queries in ORACLES.items():
        dense = root / "Dense_per_shot_tags" / video / f"{video}.txt"
        dense.parent.mkdir(parents=True)
        shown = [",".join(CONCEPTS[i] for i in np.flatnonzero(row)) for row in drawn_tags(video)]
        dense.write_text("".join(f"{line}\n" for line in shown))
        (root / oracles / video).mkdir(parents=True)
        for name, shots in queries.items():
            (root / oracles / video / f"{name}_oracle.txt").write_text("\n".join(map(str, shots)) + "\n")
    (root / "Dense_per_shot_tags" / "Dictionary.txt").write_text("\n".join(f"'{concept}'" for concept in CONCEPTS))


def write_mat(root: Path) -> None:
    """The tags of all videos in the form of the official `Tags.mat`."""
    structs = np.zeros((1, len(LENGTHS)), dtype=[("Bin_Vecs", object)])
    for i, video in enumerate(LENGTHS):
        structs["Bin_Vecs"][0, i] = cells = np.empty((sum(LENGTHS[video]), 1), dtype=object)
        for shot, row in enumerate(drawn_tags(video)):
            cells[shot, 0] = row[None].astype(np.uint8)
    savemat(root / "Tags.mat", {"Tags": structs})


def write_features(folder: Path, video: str, asked: list[str], shots: int | None = None, recipe: Recipe = RECIPE,
                   unfused: bool = True, cls: torch.Tensor | None = None) -> Path:
    """Features that tell their window, prompt and video, of windows that look like their segment's others."""
    folder.mkdir(exist_ok=True)
    shots, path = sum(LENGTHS[video]) if shots is None else shots, folder / f"{video}.safetensors"
    window, prompt = torch.meshgrid(torch.arange(shots), torch.arange(len(asked)), indexing="ij")
    values = torch.stack([window, prompt, torch.full_like(window, int(video[1:])), torch.ones_like(window)], -1)
    looks = torch.eye(WIDTH).repeat_interleave(torch.tensor([*LENGTHS[video], *[0] * WIDTH])[:WIDTH], dim=0)
    looks = torch.cat([looks, torch.zeros(max(shots - len(looks), 0), WIDTH)])[:shots] * 3
    with path.open("wb") as file:
        writer = FeatureWriter(file, recipe, 5.0 * shots, shots, asked if recipe.kind == "fused" else (),
                               keeps_unfused=unfused, keeps_cls=cls is not None)
        writer.append(values.float() if recipe.kind == "fused" else values[:, 0].float())
        writer.finish(looks if unfused else None, cls)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of the annotations."""
    write_annotations(tmp_path)
    return tmp_path


@pytest.fixture
def make(root: Path) -> Callable[..., QFVSDataModule]:
    """A function that makes a data module with features of all its prompts."""

    def _make(**options: Any) -> QFVSDataModule:
        options = {"batch_size": 2, "eval_batch_size": 2, "num_workers": 0, "templates": [PLAIN, OTHER]} | options
        data = QFVSDataModule(str(root), str(root / "features"), **options)
        for video, asked in data.prompts().items():
            if not (root / "features" / f"{video}.safetensors").exists():
                write_features(root / "features", video, asked)
        return data

    return _make


def batches(data: QFVSDataModule, split: str) -> list[SummaryBatch]:
    return list(getattr(data, f"{split}_dataloader")())


def keys(found: list[SummaryBatch]) -> list[str]:
    return [key for batch in found for key in batch["key"]]


def check_shots(data: QFVSDataModule, batch: SummaryBatch, i: int, asked: list[str]) -> None:
    """The values at the mask's places are those of the video's shots, in order; all others are zero."""
    video, *concepts = batch["key"][i].split()
    shots, mask = sum(LENGTHS[video]), batch["mask"][i]  # n, (G, n)
    assert mask.sum(1).tolist() == LENGTHS[video] + [0] * (len(mask) - len(LENGTHS[video]))
    assert not (~mask[:, :-1] & mask[:, 1:]).any()  # real shots come first
    columns = [data.prompts()[video].index(prompt) for prompt in asked]
    expected = torch.tensor([[[shot, column, int(video[1:]), 1] for shot in range(shots)] for column in columns])
    assert torch.equal(batch["features"][i][:, mask], expected.float())
    tags = drawn_tags(video)
    assert np.array_equal(batch["concepts"][i][:, mask], tags[:, [CONCEPTS.index(concept) for concept in concepts]].T)
    assert (batch["summary"][i][mask].nonzero()[:, 0] + 1).tolist() == sorted(ORACLES[video]["_".join(concepts)])
    assert np.array_equal(batch["tags"][i], tags)
    assert not any(batch[name][i][..., ~mask].any() for name in ("concepts", "summary"))
    assert not batch["features"][i][:, ~mask].any()


@pytest.mark.parametrize("split", ["val", "test", "predict"])
def test_evaluation_asks_for_both_concepts_by_all_templates(make: Callable[..., QFVSDataModule], split: str) -> None:
    data = make(test_video="P04")  # P01 validates
    first, second = batches(data, split)
    video = "P01" if split == "val" else "P04"
    assert keys([first, second]) == [f"{video} {name.replace('_', ' ')}" for name in sorted(ORACLES[video])]
    assert set(first) == set(SummaryBatch.__annotations__) and second["index"].tolist() == [2]
    longest = (3, 4) if split == "val" else (4, 6)
    assert first["features"].shape == (2, 2, *longest, WIDTH) and first["features"].dtype == torch.float32
    assert first["concepts"].shape == (2, 2, *longest) and first["mask"].dtype == torch.bool
    for batch in (first, second):
        for i, key in enumerate(batch["key"]):
            concepts = tuple(key.split()[1:])
            check_shots(data, batch, i, [prompts(concepts, template)[2] for template in (PLAIN, OTHER)])
    assert data.counts["queries"] == 3


def test_training_asks_for_each_concept_and_both(make: Callable[..., QFVSDataModule]) -> None:
    data = make(test_video="P01", batch_size=3, templates=[PLAIN])  # P02 validates
    (batch,) = batches(data, "train")
    assert batch["features"].shape == (3, 3, 4, 6, WIDTH)
    assert {key.split()[0] for key in batch["key"]} == {"P03", "P04"}  # of one shot, and of four segments
    for i, key in enumerate(batch["key"]):
        check_shots(data, batch, i, list(prompts(tuple(key.split()[1:]), PLAIN)))


def test_a_batch_is_as_large_as_its_own_videos(make: Callable[..., QFVSDataModule]) -> None:
    data = make(test_video="P02", batch_size=1)  # P03 validates
    shapes = {batch["key"][0].split()[0]: tuple(batch["mask"].shape) for batch in batches(data, "train")}
    assert shapes == {"P01": (1, 3, 4), "P04": (1, 4, 6)}
    assert [tuple(batch["mask"].shape) for batch in batches(data, "val")] == [(1, 1, 1)]


def test_a_template_is_drawn_for_each_seed_epoch_and_row(make: Callable[..., QFVSDataModule]) -> None:
    templates = [(f"{i} {{}}", f"{i} {{}} {{}}") for i in range(8)]

    def drawn(data: QFVSDataModule, epoch: int) -> list[int]:
        dataset, found = data.train_dataloader().dataset, []
        for row in range(len(dataset)):
            sample = dataset[epoch, row]
            asked = [data.prompts()[sample.query.video][column] for column in sample.features[:, 0, 1].int().tolist()]
            which = int(asked[0][0])
            assert asked == list(prompts(sample.query.concepts, templates[which]))
            found.append(which)
        return found

    data = make(templates=templates, seed=3)
    seen = {epoch: drawn(data, epoch) for epoch in range(12)}
    assert len(set(sum(seen.values(), []))) == 8 and len(set(map(tuple, seen.values()))) == 12
    assert len(set(seen[0])) > 1
    again, other = make(templates=templates, seed=3), make(templates=templates, seed=4)
    assert [drawn(again, epoch) for epoch in (5, 0)] == [seen[5], seen[0]]
    assert [drawn(other, epoch) for epoch in range(12)] != list(seen.values())


@pytest.mark.parametrize(("test_video", "val", "train"), [
    ("P01", "P02", ["P03", "P04"]), ("P02", "P03", ["P01", "P04"]), ("P04", "P01", ["P02", "P03"])])
def test_another_video_validates(make: Callable[..., QFVSDataModule], test_video: str, val: str, train: list[str]
                                 ) -> None:
    data = make(test_video=test_video, batch_size=1)
    found = {split: {key.split()[0] for key in keys(batches(data, split))} for split in ("train", "val", "test")}
    assert found == {"train": set(train), "val": {val}, "test": {test_video}} and data.has_test_data
    assert data.counts["train_rows"] == sum(len(ORACLES[video]) for video in train)
    assert len(keys(batches(data, "train"))) == data.counts["train_rows"]  # each query once
    assert data.protocol["selection"] == "on another video"


def test_the_authors_validate_on_the_test_video(make: Callable[..., QFVSDataModule]) -> None:
    data = make(test_video="P02", validate_on="test", batch_size=1)
    found = {split: {key.split()[0] for key in keys(batches(data, split))} for split in ("train", "val", "test")}
    assert found == {"train": {"P01", "P03", "P04"}, "val": {"P02"}, "test": {"P02"}} and not data.has_test_data
    assert data.protocol["selection"] == "on the test video (the authors' way)"


def test_what_the_protocol_tells(make: Callable[..., QFVSDataModule], root: Path) -> None:
    make()  # writes features
    path = write_features(root / "features", "P03", make().prompts()["P03"], shots=4)  # of a video longer than its tags
    data = make(test_video="P02")
    data.setup("fit")
    protocol = data.protocol
    assert protocol | {"features": str(path.parent), "kind": "fused", "features_checkpoint": "0" * 16, "frames": 5,
                       "train_videos": ["P01", "P04"], "val_videos": ["P03"], "test_videos": ["P02"],
                       "templates": [PLAIN, OTHER], "segments": {v: len(part) for v, part in LENGTHS.items()}
                       } == protocol
    assert json.loads(json.dumps(protocol)) | {"templates": 0} == protocol | {"templates": 0}
    beyond = {f"{video}_windows_beyond_the_tags": 3 * (video == "P03") for video in LENGTHS}
    assert protocol["counts"] == beyond
    assert only(data)["features"].shape == (1, 2, 1, 1, WIDTH)


def test_two_processes_share_the_queries(make: Callable[..., QFVSDataModule], monkeypatch: pytest.MonkeyPatch) -> None:
    data, shares = make(test_video="P04"), []
    for rank in (0, 1):
        monkeypatch.setattr(data, "_processes", lambda rank=rank: (2, rank))
        shares.append(batches(data, "test"))
    assert [[batch["index"].tolist() for batch in share] for share in shares] == [[[0, 2]], [[1]]]
    data.eval_batch_size = 1
    real, filler = batches(data, "test")
    assert real["index"].tolist() == [1] and filler["key"] == filler["tags"] == []
    assert data.test_dataloader().dataset[PAD_INDEX] is None
    for name, value in filler.items():
        if isinstance(value, torch.Tensor):
            assert len(value) == 0 and value.dtype == real[name].dtype and value.ndim == real[name].ndim, name
    assert filler["features"].shape[1::3] == real["features"].shape[1::3] == (2, WIDTH)
    assert filler["features"].shape[2:4] == filler["mask"].shape[1:] == filler["summary"].shape[1:] == (1, 1)
    assert filler["concepts"].shape == (0, 2, 1, 1)
    train = []
    for rank in (0, 1):
        monkeypatch.setattr(data, "_processes", lambda rank=rank: (2, rank))
        data.batch_size = 1
        train.append(keys(batches(data, "train")))
    assert len(train[0]) == len(train[1]) == 1 and set(train[0]) != set(train[1])  # 3 queries, one is left out


def test_each_prompt_is_read_once_and_each_video_cut_once(make: Callable[..., QFVSDataModule],
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    data, read, cut = make(test_video="P01", batch_size=1), [], []
    plain, segments = FeatureFolder.read, data.shots.cut
    monkeypatch.setattr(FeatureFolder, "read", lambda self, *args: (read.append(args), plain(self, *args))[1])
    monkeypatch.setattr(data.shots, "cut", lambda *args: (cut.append(args[0]), segments(*args))[1])
    data.setup("fit")
    assert sorted(cut) == list(LENGTHS) and len(read) == 4
    loader = data.train_dataloader()
    for epoch in range(12):
        loader.sampler.set_epoch(epoch)
        list(loader)
    for _ in range(3):
        batches(data, "val")
    asked = [(video, prompt) for video, (prompt,) in read[4:]]
    assert len(cut) == 4 and len(asked) == len(set(asked))
    assert len([pair for pair in asked if pair[0] == "P04"]) == len(data.prompts()["P04"])


def test_prompts(make: Callable[..., QFVSDataModule]) -> None:
    assert prompts(("Cupglass", "Petsanimal"), PLAIN) == (
        "There is a Glass", "There is a Animal", "There is a Glass and a Animal")
    assert prompts(("Tree", "Musicalinstrument"), OTHER) == ("Look: Tree", "Look: Instrument", "Look: Tree, Instrument")
    found = make(templates=[PLAIN]).prompts()
    assert list(found) == list(LENGTHS) and all(len(set(texts)) == len(texts) for texts in found.values())
    assert set(found["P04"]) == {f"There is a {name}" for name in (
        "Tree", "Car", "Baby", "Glass", "Animal", "Tree and a Car", "Baby and a Tree", "Glass and a Animal")}


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


@pytest.mark.parametrize(("options", "message"), [
    ({"test_video": "P05"}, "data.init_args.test_video=P05 is not one of data.init_args.videos: P01, P02, P03, P04"),
    ({"videos": ["P01", "P02"]}, "give 3 videos or more, each once, to test on one and validate on another"),
    ({"videos": ["P01"], "validate_on": "test"}, "give 2 videos or more, each once, .* validate on the same"),
    ({"videos": ["P01", "P02", "P03", "P02"]}, "videos=.*give 3 videos or more, each once"),
    ({"templates": []}, "data.init_args.templates is empty"),
    ({"templates": [PLAIN, ("There is", "{} and {}")]}, r"\['There is', '{} and {}'\] should be a text with one {}"),
    ({"templates": [("{}", "{} alone")]}, "should be a text with one {} and a text with two"),
    ({"templates": [("{} {}", "{} and {}")]}, "should be a text with one {} and a text with two"),
    ({"templates": [("{} {0}", "{} and {}")]}, "without other braces"),
    ({"templates": [("{} ", "{} and {}")]}, "or spaces at their ends"),
    ({"max_segments": 0}, "data.init_args.max_segments=0: give 1 or more"),
    ({"max_segment_shots": 0}, "data.init_args.max_segment_shots=0: give 1 or more"),
])
def test_bad_options_are_named(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QFVSDataModule(str(root), "features", **options)


def test_two_videos_are_enough_for_the_authors_way(make: Callable[..., QFVSDataModule]) -> None:
    data = make(videos=["P04", "P01"], test_video="P01", validate_on="test", batch_size=1)
    assert {key.split()[0] for key in keys(batches(data, "train"))} == {"P04"}
    assert list(data.prompts()) == ["P01", "P04"]


@pytest.mark.parametrize(("limits", "fits"), [((1, 12), True), ((1, 11), False), ((3, 4), True), ((3, 3), False)])
def test_a_video_too_long_for_the_limits_is_named(make: Callable[..., QFVSDataModule], limits: tuple[int, int],
                                                  fits: bool) -> None:
    data = make(test_video="P04", max_segments=limits[0], max_segment_shots=limits[1])
    if fits:
        mask = batches(data, "test")[0]["mask"]
        assert mask.shape[1] <= limits[0] and mask.shape[2] <= limits[1] and mask[0].sum() == 12
        return
    with pytest.raises(ValueError, match=r"P04.safetensors, data.init_args.max_segments and max_segment_shots: 12 sho"):
        data.test_dataloader()


RIGHT = "Give another data.init_args.features than .*, with data.init_args.video_folder and weights"


@pytest.mark.parametrize(("recipe", "message"), [
    (replace(RECIPE, window=16, stride=16, fps=30.0), "of windows of 0.533333 s every 0.533333 s"),
    (replace(RECIPE, stride=4), "of windows of 5 s every 4 s"),
    (replace(RECIPE, window=6), "of windows of 6 s every 5 s"),
    (replace(RECIPE, kind="projected"), "features of kind projected, of windows of 5 s every 5 s")])
def test_features_of_other_windows_are_refused(root: Path, recipe: Recipe, message: str) -> None:
    data = QFVSDataModule(str(root), str(root / "features"))
    for video, asked in data.prompts().items():
        write_features(root / "features", video, asked, recipe=recipe)
    with pytest.raises(ValueError, match=f"{message}.*{RIGHT}"):
        data.setup("fit")


def test_other_frame_rates_can_give_the_same_windows(root: Path) -> None:
    data = QFVSDataModule(str(root), str(root / "features"))
    for video, asked in data.prompts().items():
        write_features(root / "features", video, asked, recipe=replace(RECIPE, fps=30.0, window=150, stride=150))
    data.setup("fit")
    assert len(data.protocol["segments"]) == 4


def test_a_last_shot_cut_short_looks_like_the_one_before_it(make: Callable[..., QFVSDataModule], root: Path) -> None:
    asked = make().prompts()["P01"]
    shots = sum(LENGTHS["P01"])
    write_features(root / "features", "P01", asked, shots=shots - 1)
    data = make()
    batch = batches(data, "test")[0]
    last = batch["features"][0][:, batch["mask"][0]][:, -2:]  # (P, 2, D)
    assert torch.equal(last[:, 0], last[:, 1]) and (last[:, :, 0] == shots - 2).all()
    assert int(batch["mask"][0].sum()) == shots and data.counts["P01_windows_beyond_the_tags"] == -1


def test_videos_may_be_cut_by_their_cls_states(make: Callable[..., QFVSDataModule], root: Path) -> None:
    """Whose lengths count: a shot that is three times as bright is another segment."""
    asked = make().prompts()
    for video, shots in asked.items():
        count = sum(LENGTHS[video])
        cls = torch.eye(WIDTH)[:1].repeat(count, 1) * torch.where(torch.arange(count) < 2, 1.0, 30.0)[:, None]
        write_features(root / "features", video, shots, cls=cls)
    data = make(cut_by="cls")
    data.setup("fit")
    assert data.protocol["cut_by"] == "cls"
    assert data.shots.bounds == {name: sorted({0, min(2, sum(LENGTHS[name])), sum(LENGTHS[name])}) for name in asked}
    write_features(root / "features", "P04", asked["P04"])
    with pytest.raises(ValueError, match=r"P04.safetensors has no CLS states of its windows "
                                         rf"\(data.init_args.cut_by=cls needs them\): delete it. {RIGHT}"):
        make(cut_by="cls").setup("fit")


def test_features_that_lack_something_are_named(make: Callable[..., QFVSDataModule], root: Path) -> None:
    folder, asked = root / "features", make().prompts()
    for split, video in (("train", "P03"), ("val", "P02"), ("test", "P01")):
        shots = sum(LENGTHS[video])
        windows = max(shots - 2, 0)
        path = write_features(folder, video, asked[video], shots=windows)
        pattern = f"{video}.safetensors has {windows} windows of 5 s and .*{video}.txt {shots}"
        for look in (getattr(make(), f"{split}_dataloader"), lambda: make().setup("fit")):
            with pytest.raises(ValueError, match=f"{pattern} shots, a video shorter than its tags: extract the whole"):
                look()
        path.unlink()
        make()
    path = write_features(folder, "P04", asked["P04"][:-1])
    last = asked["P04"][-1]
    with pytest.raises(ValueError, match=f"P04.safetensors has no features of 1 of the 16 prompts .*{last!r} for one: "
                                         f"delete it. {RIGHT}"):
        make().train_dataloader()
    write_features(folder, "P04", asked["P04"], unfused=False)
    with pytest.raises(ValueError, match="P04.safetensors has no features of its windows without a query"):
        make().train_dataloader()
    data = make()
    path.unlink()
    with pytest.raises(ValueError, match="There is no file .*P04.safetensors with the features of P04: give a data"):
        data.train_dataloader()
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match=r"There is no file .*features/P03.safetensors .*video_folder that holds P03, "
                                         r"and data.init_args.weights, .* or leave it out of data.init_args.videos$"):
        QFVSDataModule(str(root), str(folder)).setup("fit")


def test_a_missing_video_is_named_before_the_others_are_extracted(root: Path) -> None:
    (root / "videos").mkdir()
    for video in ("P01", "P04"):
        (root / "videos" / f"{video}.mp4").write_bytes(b"never opened")
    data = QFVSDataModule(str(root), str(root / "features"), video_folder=str(root / "videos"), weights="any.ckpt")
    with pytest.raises(ValueError, match=r"videos has no video P02 nor P03, .* \(such as .*videos/P02.mp4\), "
                                         "set data.init_args.video_folder to the folder that has it, or leave it out"):
        data.prepare_data()


def test_the_toy_world(toy: Path, tmp_path: Path) -> None:
    data = QFVSDataModule(str(toy / "qfvs"), str(tmp_path), num_workers=0, test_video="P02")
    matrices = loadmat(toy / "qfvs" / "Tags.mat")["Tags"]["Bin_Vecs"][0]
    for cells, (video, asked) in zip(matrices, data.prompts().items(), strict=True):
        tags, recipe = data.tags[video], replace(RECIPE, width=3)
        assert np.array_equal(tags, np.concatenate(cells.ravel())) and 0 < len(tags) < 50
        with (tmp_path / f"{video}.safetensors").open("wb") as file:
            writer = FeatureWriter(file, recipe, 5.0 * len(tags), len(tags), asked, keeps_unfused=True)
            writer.append(torch.ones(len(tags), len(asked), 3))
            writer.finish(torch.randn(len(tags), 3))
    metric = SummaryF1()
    for batch in data.test_dataloader():
        wanted = [row[mask].nonzero()[:, 0] for row, mask in zip(batch["summary"], batch["mask"], strict=True)]
        metric.update(batch["index"], wanted, wanted, batch["tags"])
    assert metric.compute() == pytest.approx({"precision": 100, "recall": 100, "f1": 100})


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

"""QFVS: shots with their tags and oracles lie where their features do, and no test video trains."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import only
from qfvs_world import (
    CONCEPTS,
    LENGTHS,
    ORACLES,
    OTHER,
    PLAIN,
    RECIPE,
    WIDTH,
    batches,
    drawn_tags,
    keys,
    write_features,
)
from scipy.io import loadmat

from egovlpv2.batch import SummaryBatch
from egovlpv2.data_modules.loaders import PAD_INDEX
from egovlpv2.data_modules.qfvs import QFVSDataModule
from egovlpv2.data_modules.qfvs_files import prompts
from egovlpv2.features import FeatureFolder
from egovlpv2.features.files import FeatureWriter
from egovlpv2.metrics.summary import SummaryF1


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

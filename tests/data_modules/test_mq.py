"""MQ: clips of features with what happens in them, in both official forms; what can't be used is counted or named."""

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import REAL_DATA, only
from mq_files import STEPS, WIDTH, clip, entry, make_module, row, write_features, write_official
from torch import Tensor

from egovlpv2.batch import MomentBatch
from egovlpv2.data_modules.loaders import PAD_INDEX
from egovlpv2.data_modules.moments import read_moments
from egovlpv2.data_modules.mq import MQClips, MQDataModule

REAL = REAL_DATA / "mq"


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., MQDataModule]:
    """A function that makes a data module of clips that are all in all splits."""
    return partial(make_module, tmp_path)


def test_a_batch(make: Callable[..., MQDataModule], tmp_path: Path) -> None:
    write_features(tmp_path / "features", "a", 10.0)
    write_features(tmp_path / "features", "film", 60.0)
    data = make(clip("a", [row("wash", 1, 2.25), row("cut", 3, 4, primary=False)], [row("cut", 0, 10)]),
                clip("b", [row("cut", 2, 4)], start=15.0, end=18.5))
    batch = only(data)
    assert set(batch) == set(MomentBatch.__annotations__)
    assert batch["key"] == ["a", "b"] and batch["index"].tolist() == [0, 1]
    assert batch["features"].shape == (2, WIDTH, STEPS) and batch["features"].dtype == torch.float32
    assert batch["num_frames"].tolist() == [20, 7] and batch["duration"].tolist() == [10.0, 3.5]
    assert batch["features"][0, 0].tolist() == [*range(1, 21), *[0] * 28]
    assert batch["features"][1, 3].tolist() == [*range(31, 38), *[0] * 41]  # its part of the video
    assert batch["classes"].tolist() == [[2, 1], [1, 0]] and batch["classes"].dtype == torch.int64
    assert batch["segments"].tolist() == [[[2, 4.5], [0, 20]], [[4, 8], [0, 0]]]
    assert batch["labels"] == ["", "cut", "wash", "\"read_(a_book)\""] == data.labels
    assert data.counts == {"val_without_moments": 0, "val_without_features": 0, "val_moments_beyond_the_end": 1,
                           "clips": 2}
    assert data.protocol | {"num_steps": STEPS, "kind": "projected", "features_per_second": 2.0} == data.protocol


def test_long_clips_are_interpolated(make: Callable[..., MQDataModule], tmp_path: Path) -> None:
    write_features(tmp_path / "features", "a", 48.0)  # twice as many features as steps
    batch = only(make(clip("a", [row("wash", 12, 24)], end=48.0)))
    assert batch["num_frames"].tolist() == [STEPS] and batch["segments"].tolist() == [[[12, 24]]]
    assert batch["features"][0, 0].tolist() == pytest.approx([2 * i + 1.5 for i in range(STEPS)])
    write_features(tmp_path / "features", "a", 24.0)  # just as many
    batch = only(make(clip("a", [row("wash", 12, 24)], end=24.0)))
    assert batch["features"][0, 0].tolist() == list(range(1, STEPS + 1))


def test_training_takes_fifty_instances_cut_at_the_end(make: Callable[..., MQDataModule], tmp_path: Path) -> None:
    """The official score knows all instances, as they are told."""
    write_features(tmp_path / "features", "a", 10.0)
    rows = [row("wash", 9, 12), row("cut", -0.5, 1), *(row("cut", i / 10, i / 10 + 1) for i in range(60))]
    data = make(clip("a", rows, end=10.0), batch_size=1)
    (batch,) = data.train_dataloader()
    assert batch["classes"].shape == (1, 50) and batch["segments"][0, :2].tolist() == [[18, 20], [0, 2]]
    assert data.counts["train_moments_beyond_the_end"] == 1 and data.counts["train_rows"] == 1
    batch = only(data)
    assert batch["classes"].shape == (1, 62)
    torch.testing.assert_close(batch["segments"][0, :2], torch.tensor([[18.0, 24], [-1, 2]]))


def test_what_is_counted(make: Callable[..., MQDataModule], tmp_path: Path) -> None:
    write_features(tmp_path / "features", "a", 10.0)
    silent = clip("silent")
    del silent["annotations"]
    clips = [clip("a", [row("wash", 1, 2)]), silent, clip("none", [row("wash", 1, 2, primary=False)]),
             clip("unseen", [row("cut", 1, 2)])]
    data = make(*clips)
    assert [span.clip for span in data.spans("val")] == ["a"]
    assert data.counts == {"val_without_moments": 2, "val_without_features": 1, "val_moments_beyond_the_end": 0}


def test_what_has_no_answers_is_predicted_and_not_tested_on(make: Callable[..., MQDataModule], tmp_path: Path) -> None:
    write_features(tmp_path / "features", "a", 10.0)
    silent = clip("a")
    del silent["annotations"]
    write_official(tmp_path / "moments_test_unannotated.json", silent, split="test")
    data = make(clip("a", [row("wash", 1, 2)]), test="moments_test_unannotated.json")
    (batch,) = data.predict_dataloader()
    assert batch["key"] == ["a"] and batch["classes"].shape == (1, 0) and batch["segments"].shape == (1, 0, 2)
    assert not data.has_test_data
    write_official(tmp_path / "moments_test_unannotated.json", clip("a", [row("cut", 1, 2)]), split="val")
    assert data.has_test_data  # an official file is of one split, whatever it is used for
    (batch,) = data.test_dataloader()
    assert batch["classes"].tolist() == [[1]]
    data = make(clip("a", [row("wash", 1, 2)]))
    (batch,) = data.predict_dataloader()
    assert batch["classes"].tolist() == [[2]] and not data.has_test_data
    with pytest.raises(ValueError, match="no annotations to test on: set data.init_args.test"):
        data.test_dataloader()


def test_one_file_of_all_splits(make: Callable[..., MQDataModule], tmp_path: Path) -> None:
    write_features(tmp_path / "features", "film", 60.0)
    file = "clip_annotations.json"
    (tmp_path / file).write_text(json.dumps({
        "a": entry("train", ("wash", 1, 2)), "b": entry("val", ("cut", 1.5, 2)), "c": entry("test"),
        "d": entry("train", ("cut", 0, 20)), "e": entry("val")}))
    data = make(train=file, val=file, test=file, batch_size=1)
    assert {split: [span.clip for span in data.spans(split)] for split in ("train", "val", "test")} == {
        "train": ["a", "d"], "val": ["b"], "test": ["c"]}
    assert data.counts["val_without_moments"] == 1 and data.counts["test_without_moments"] == 0
    batch = only(data)
    assert batch["features"][0, 0, :2].tolist() == [21, 22] and batch["num_frames"].tolist() == [40]
    assert batch["segments"].tolist() == [[[3, 4]]] and not data.has_test_data


def test_shuffled_features(make: Callable[..., MQDataModule], tmp_path: Path) -> None:
    write_features(tmp_path / "features", "a", 20.0)
    told = clip("a", [row("wash", 1, 2)])
    first, again, other = (only(make(told, shuffled=True, seed=seed))["features"][0, 0].tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert sorted(first[:40]) == list(range(1, 41)) != first[:40] and first[40:] == [0] * 8


def test_epoch_keys_and_filler(make: Callable[..., MQDataModule], tmp_path: Path,
                               monkeypatch: pytest.MonkeyPatch) -> None:
    write_features(tmp_path / "features", "film", 60.0)
    data = make(*(clip(f"c{i}", [row("wash", i, i + 1)], start=float(i), end=i + 9.0) for i in range(5)))
    loader = data.train_dataloader()
    loader.sampler.set_epoch(2)
    keys = list(loader.sampler)
    assert sorted(keys) == [(2, i) for i in range(5)] != keys
    assert [i for batch in loader for i in batch["index"].tolist()] == [key[1] for key in keys][:4]
    clips: MQClips = loader.dataset
    assert torch.equal(clips[2, 1].features, clips[1].features) and clips[2, 1].clip == "c1"
    assert clips[PAD_INDEX] is None
    monkeypatch.setattr(data, "_processes", lambda: (2, 1))
    first, second = data.val_dataloader()  # rows 1 and 3, then a filler alone
    assert first["index"].tolist() == [1, 3] and second["key"] == []
    assert second["features"].shape == (0, WIDTH, STEPS) and second["segments"].shape == (0, 0, 2)
    for name, value in first.items():
        assert not isinstance(value, Tensor) or (value.dtype == second[name].dtype and not len(second[name])), name
    data.eval_batch_size = 3
    assert only(data)["index"].tolist() == [1, 3]


@pytest.mark.parametrize("classes", [{"wash": 1}, {"Background": 0, "wash": 2}, {"Background": 0, "wash": "1"},
                                     {"Background": 0, "wash": 0}, {"Background": 0, "wash": [1]}, ["wash"]])
def test_a_bad_list_of_classes_is_named(make: Callable[..., MQDataModule], classes: Any) -> None:
    with pytest.raises(ValueError, match=r"moment_classes_idx.json should number the labels from 0 \(nothing\) on"):
        _ = make(classes=classes).classes


def test_an_unknown_label_is_named(make: Callable[..., MQDataModule], tmp_path: Path) -> None:
    write_features(tmp_path / "features", "a", 10.0)
    data = make(clip("a", [row("dance", 1, 2)]))
    for loader in (data.train_dataloader, data.val_dataloader):
        with pytest.raises(ValueError, match="clip a: 'dance' is not one of the 3 labels of .*moment_classes_idx.json"):
            loader()
    assert len(make(clip("a", [row("wash", 1, 2), row("dance", 1, 2, primary=False)])).clips("val")) == 1


def test_bad_files_are_named(make: Callable[..., MQDataModule], tmp_path: Path) -> None:
    folder = tmp_path / "features"
    data = make(clip("a", [row("wash", 1, 2)]))
    with pytest.raises(ValueError, match="holds no feature files"):
        data.val_dataloader()
    write_features(folder, "other", 10.0)
    with pytest.raises(ValueError, match="has features of none of the 1 val clips of .*moments_val.json: extract them"):
        make(clip("a", [row("wash", 1, 2)])).val_dataloader()
    path = write_features(folder, "a", 10.0)
    loader = make(clip("a", [row("wash", 1, 2)])).val_dataloader()
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="a.safetensors is cut short"):
        list(loader)
    write_features(folder, "a", 10.0, checkpoint="1" * 16)
    with pytest.raises(ValueError, match="don't go together .checkpoint"):
        make(clip("a", [row("wash", 1, 2)])).val_dataloader()
    (folder / "a.safetensors").unlink(), (tmp_path / "moments_val.json").unlink()
    with pytest.raises(ValueError, match="There is no file .*moments_val.json: set data.init_args.root"):
        data.val_dataloader()


@pytest.mark.parametrize("kind", ["fused", "transformed"])
def test_features_of_queries_are_refused(make: Callable[..., MQDataModule], tmp_path: Path, kind: str) -> None:
    write_features(tmp_path / "features", "a", 10.0, kind)
    with pytest.raises(ValueError, match=rf"features: features of kind {kind}, and MQDataModule .*--kind projected"):
        make(clip("a", [row("wash", 1, 2)])).val_dataloader()


def test_the_toy_world(toy: Path, tmp_path: Path) -> None:
    told = {}
    for split in ("train", "val", "test"):
        for video in json.loads((toy / "mq" / f"moments_{split}.json").read_text())["videos"]:
            (part,) = video["clips"]
            told[part["clip_uid"]] = part["annotations"][0]["labels"]
            write_features(tmp_path / "features", video["video_uid"], part["video_end_sec"])
    data = MQDataModule(str(toy / "mq"), str(tmp_path / "features"), test="moments_test.json", num_workers=0,
                        batch_size=1, videos=str(toy / "long" / "videos"), chunk_seconds=8.0)
    assert data.has_test_data
    for batch in (*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()):
        for i, uid in enumerate(batch["key"]):
            rows, real = told.pop(uid), batch["classes"][i] > 0
            assert [batch["labels"][n] for n in batch["classes"][i][real]] == [entry["label"] for entry in rows]
            seconds = batch["segments"][i][real] * batch["duration"][i] / batch["num_frames"][i]
            assert seconds.flatten().tolist() == pytest.approx(
                [entry[name] for entry in rows for name in ("start_time", "end_time")], abs=1e-3)
    assert not told
    assert data.preview_frames("test", 0, 2).shape == (2, 3, 128, 128)


@pytest.mark.skipif(not REAL.is_dir(), reason="EGOVLPV2_REAL_DATA has no such files")
def test_real_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MQDataModule, "has_features", lambda *_: True)
    file = "ego4d_clip_annotations.json"
    clips = list(read_moments(REAL / file))
    assert len(clips) == 2495 and sum(len(clip.instances) for clip in clips) == 17855
    assert Counter(clip.split for clip in clips) == {"train": 1486, "val": 521, "test": 488}
    assert max(clip.span.duration for clip in clips) < 481
    data = MQDataModule(str(REAL), str(tmp_path), train=file, val=file, test=file)
    assert len(data.classes) == 110 and len(data.labels) == 111
    assert {label for clip in clips for label, *_ in clip.instances} <= set(data.classes)
    assert [len(data.clips(split)) for split in ("train", "val", "test")] == [1486, 521, 488]
    beyond = [data.counts[f"{split}_moments_beyond_the_end"] for split in ("train", "val", "test")]
    assert sum(beyond) == 1325 and data.counts["val_without_moments"] == 0

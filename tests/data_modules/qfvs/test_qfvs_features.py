"""QFVS's features: what is missing or of another kind is named, and videos are cut by them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from qfvs_world import LENGTHS, RECIPE, WIDTH, batches, write_features

from egovlpv2.data_modules.qfvs import QFVSDataModule
from egovlpv2.features.header import Recipe


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
    with pytest.raises(ValueError, match="P04.safetensors with the features of P04 is missing: give a data"):
        data.train_dataloader()
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match=r"features/P03.safetensors .* is missing: .*video_folder that holds P03, "
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

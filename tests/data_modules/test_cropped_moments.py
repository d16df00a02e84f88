"""Clips of MQ in all their features: times of windows, random windows in training, whole clips in evaluation."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import only
from mq_files import WIDTH, clip, make_module, row, write_features

from egovlpv2.data_modules.cropped_moments import MQSample, crop
from egovlpv2.data_modules.mq import MQDataModule

HALF = 2.0  # of a window of 2 s at 2 features a second, in steps


@pytest.fixture
def cropped(tmp_path: Path) -> Callable[..., MQDataModule]:
    """A function that makes a data module of clips in all their features."""
    return partial(make_module, tmp_path, clips_as="cropped")


def test_steps_are_the_middles_of_windows(cropped: Callable[..., MQDataModule], tmp_path: Path) -> None:
    write_features(tmp_path / "features", "a", 10.0)
    batch = only(cropped(clip("a", [row("wash", 1, 2.25), row("cut", 0.0, 10.0)])))
    assert batch["step_seconds"].tolist() == [0.5] and batch["first_seconds"].tolist() == [1.0]
    assert batch["segments"].tolist() == [[[0.0, 2.5], [-2.0, 18.0]]]  # small negative values stay
    seconds = batch["segments"] * batch["step_seconds"] + batch["first_seconds"]
    assert seconds.tolist() == [[[1.0, 2.25], [0.0, 10.0]]]


@pytest.mark.parametrize("start", [15.0, 15.1, 15.24, 15.26, 15.4])
def test_a_clip_within_a_video_keeps_its_times_between_features(cropped: Callable[..., MQDataModule], tmp_path: Path,
                                                               start: float) -> None:
    write_features(tmp_path / "features", "film", 60.0)
    batch = only(cropped(clip("b", [row("cut", 2, 4)], start=start, end=30.0)))
    first = int(batch["features"][0, 0, 0]) - 1  # feature of the video
    in_video = batch["segments"][0, 0] * 0.5 + 1.0 + first * 0.5
    torch.testing.assert_close(in_video, torch.tensor([start + 2, start + 4]), atol=1e-5, rtol=0)
    seconds = batch["segments"][0, 0] * batch["step_seconds"] + batch["first_seconds"]
    torch.testing.assert_close(seconds, torch.tensor([2.0, 4.0]), atol=1e-5, rtol=0)


def test_evaluation_keeps_all_features_and_pads_to_the_longest(cropped: Callable[..., MQDataModule], tmp_path: Path
                                                               ) -> None:
    write_features(tmp_path / "features", "a", 40.0)
    write_features(tmp_path / "features", "b", 10.0)
    batch = only(cropped(clip("a", [row("wash", 1, 2)], end=40.0), clip("b", [row("cut", 1, 2)], end=10.0)))
    assert batch["features"].shape == (2, WIDTH, 80) and batch["num_frames"].tolist() == [80, 20]
    assert batch["features"][0, 0].tolist() == list(range(1, 81))


def test_training_takes_windows_of_an_epoch(cropped: Callable[..., MQDataModule], tmp_path: Path) -> None:
    write_features(tmp_path / "features", "a", 40.0)
    data = cropped(clip("a", [row("wash", i, i + 1) for i in range(40)], end=40.0), batch_size=1, num_steps=16, seed=3)
    loader = data.train_dataloader()
    windows = [loader.dataset[epoch, 0] for epoch in range(5)]
    again = [loader.dataset[epoch, 0] for epoch in range(5)]
    firsts = [int(window.features[0, 0]) - 1 for window in windows]
    assert firsts == [int(window.features[0, 0]) - 1 for window in again] and len(set(firsts)) > 2
    for window, first in zip(windows, firsts, strict=True):
        assert window.features.shape == (WIDTH, 16)
        seconds = window.segments * window.step_seconds + window.first_seconds
        assert window.first_seconds == pytest.approx(1.0 + first * 0.5)
        assert (seconds[:, 1] - seconds[:, 0]).max() == pytest.approx(1.0)
    (batch,) = loader
    assert batch["features"].shape == (1, WIDTH, 16)


def test_moments_that_are_too_short_to_train_on_are_counted(cropped: Callable[..., MQDataModule], tmp_path: Path
                                                            ) -> None:
    write_features(tmp_path / "features", "a", 10.0)
    told = clip("a", [row("wash", 1, 1.2), row("cut", 3, 5), row("cut", 4, 4.25)], end=10.0)
    data = cropped(told, batch_size=1, min_seconds=0.25)
    assert data.train_dataloader().dataset.sample(0).classes.tolist() == [1, 1]
    assert data.counts["train_moments_too_short"] == 1 and data.protocol["min_seconds"] == 0.25
    assert only(data)["classes"].tolist() == [[2, 1, 1]]  # the score knows all


def sample(length: int, *segments: tuple[float, float]) -> MQSample:
    return MQSample(0, "a", torch.arange(float(length)).expand(3, -1), torch.tensor(segments).reshape(-1, 2),
                    torch.arange(len(segments)) + 1, 0.5, 1.0, length / 2)


@pytest.mark.parametrize("length", [1, 2, 5, 20, 32])
def test_a_window_of_a_short_clip_has_nine_tenths_of_it_or_more(length: int) -> None:
    rng = np.random.default_rng(0)
    found = {crop(sample(length, (0.0, 40.0)), 32, HALF, rng).features.shape[1] for _ in range(300)}
    assert found == set(range(max(round(0.9 * length), 1), length + 1))


def test_moments_are_cut_at_a_window_or_left_out() -> None:
    whole = sample(100, (10.0, 30.0), (50.0, 90.0), (32.0, 34.0))
    for seed in range(40):
        window = crop(whole, 20, HALF, np.random.default_rng(seed))
        first = int(window.features[0, 0])
        assert window.features[0].tolist() == list(range(first, first + 20)) and len(window.classes)
        kept = dict(zip(window.classes.tolist(), (window.segments + first).tolist(), strict=True))
        for label, (start, end) in enumerate(whole.segments.tolist(), 1):
            cut = [max(start, first - HALF), min(end, first + 20 + HALF)]
            assert (label in kept) == (cut[1] - cut[0] >= 0.3 * (end - start))
            assert label not in kept or kept[label] == pytest.approx(cut)


def test_a_window_without_a_moment_is_taken_after_many_draws() -> None:
    """And a moment of no length never counts as one."""
    for whole in (sample(100), sample(100, (5.0, 5.0)), sample(100, (-400.0, -300.0))):
        window = crop(whole, 20, HALF, np.random.default_rng(0))
        assert window.features.shape[1] == 20 and window.segments.shape == (0, 2) and not len(window.classes)

"""Clips of an evaluation in other orders than that of time."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor

from egovlpv2.data_modules.clips import ClipReader
from egovlpv2.data_modules.egomcq import EgoMCQDataModule
from egovlpv2.data_modules.frame_order import arrange
from egovlpv2.types import FrameOrder

FRAMES = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 2, 2)


def order_of(frames: Tensor) -> list[int]:
    return frames[:, 0, 0, 0].tolist()


def test_frames_are_as_their_order_says() -> None:
    assert order_of(arrange(FRAMES, "forward", "a")) == [0, 1, 2, 3, 4, 5]
    assert order_of(arrange(FRAMES, "backward", "a")) == [5, 4, 3, 2, 1, 0]
    assert order_of(arrange(FRAMES, "frozen", "a")) == [3] * 6
    assert sorted(order_of(arrange(FRAMES, "shuffled", "a"))) == [0, 1, 2, 3, 4, 5]


def test_shuffled_frames_repeat_themselves_and_differ_between_clips() -> None:
    orders = [order_of(arrange(FRAMES, "shuffled", f"clip {i}")) for i in range(20)]
    assert orders == [order_of(arrange(FRAMES, "shuffled", f"clip {i}")) for i in range(20)]
    assert len({tuple(order) for order in orders}) > 15


@pytest.mark.parametrize("count", [2, 3])
def test_shuffled_frames_are_never_in_the_order_of_time(count: int) -> None:
    drawn = [order_of(arrange(FRAMES[:count], "shuffled", f"clip {i}")) for i in range(50)]
    assert list(range(count)) not in drawn


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled", "frozen"])
def test_one_frame_has_one_order(order: FrameOrder) -> None:
    assert order_of(arrange(FRAMES[:1], order, "a")) == [0]


def test_evaluations_show_the_frames_of_forward_in_another_order(world: Path) -> None:
    clips = {order: ClipReader(world / "videos", 4, 16, 4.0, order=order).evaluate("short", 0.0, 3.0).frames
             for order in ("forward", "backward", "shuffled", "frozen")}
    light = {order: frames.float().mean((1, 2, 3)).tolist() for order, frames in clips.items()}
    assert light["forward"] == sorted(light["forward"]) == light["backward"][::-1] == sorted(light["shuffled"])
    assert light["shuffled"] != light["forward"] and light["frozen"] == [light["forward"][2]] * 4


def test_the_seed_draws_other_orders(world: Path) -> None:
    clips = [ClipReader(world / "videos", 8, 16, 4.0, order="shuffled", seed=seed).evaluate("short", 0.0, 3.0).frames
             for seed in (0, 0, 1)]
    assert torch.equal(clips[0], clips[1]) and not torch.equal(clips[0], clips[2])


def test_the_protocol_names_the_order(world: Path, options: dict[str, Any]) -> None:
    data = EgoMCQDataModule(str(world), mcq_test="egomcq.json", frame_order="shuffled", **options)
    assert data.protocol["frame_order"] == "shuffled"
    assert EgoMCQDataModule(str(world), mcq_test="egomcq.json", **options).protocol["frame_order"] == "forward"


def test_training_in_another_order_is_refused(world: Path, options: dict[str, Any]) -> None:
    data = EgoMCQDataModule(str(world), mcq_val="egomcq.json", frame_order="frozen", **options)
    data.trainer = Trainer(accelerator="cpu", logger=False)
    with pytest.raises(ValueError, match="frame_order=frozen is for `egovlpv2 test` and `validate`: a fit takes forw"):
        data.setup("fit")
    data.setup("test")

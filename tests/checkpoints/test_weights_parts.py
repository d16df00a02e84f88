"""Weights of other sizes, lists of differences, and the command that converts weights."""

import re
from pathlib import Path

import pytest
import torch

from egovlpv2.checkpoints.torch_files import check_tensors
from egovlpv2.checkpoints.weights import load_backbone, load_strictly, num_frames_of, resize_frames, save_backbone
from egovlpv2.cli import main as cli
from egovlpv2.heads.answers import AnswerHead
from egovlpv2.model.backbone import Backbone


@pytest.fixture
def saved(make_backbone, tmp_path: Path) -> Path:
    save_backbone(make_backbone(frames=3), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


@pytest.mark.parametrize("given, size", [(48, (48, 48)), ((32, 64), (32, 64))])
def test_weights_are_loaded_for_frames_of_another_size(make_backbone, saved: Path, given: int | tuple[int, int],
                                                      size: tuple[int, int]) -> None:
    expected = make_backbone(frames=3)
    resize_frames(expected, size)
    loaded = load_backbone(saved, 3, given)
    video = torch.randn(1, 3, 3, *size)
    torch.testing.assert_close(loaded.embed_video(video), expected.embed_video(video))
    assert not loaded.training
    assert load_backbone(saved).video_tower.temporal_embed.shape[1] == 4  # the default


def test_the_number_of_frames_of_a_file(saved: Path) -> None:
    assert num_frames_of(saved) == 3
    with pytest.raises(ValueError, match="no.safetensors"):
        num_frames_of(saved.with_name("no.safetensors"))


def problems_of(backbone: Backbone, state: dict[str, torch.Tensor]) -> tuple[list[str], str]:
    """The listed differences, and the count of further ones."""
    with pytest.raises(ValueError, match="some.file does not fit the model") as error:
        load_strictly(backbone, state, "some.file")
    listed = str(error.value).partition("trained with? ")[2].split("; ")
    return (listed[:-1], listed[-1]) if listed[-1].startswith("and ") else (listed, "")


def test_what_does_not_fit_is_listed_and_the_rest_counted(make_backbone) -> None:
    backbone = make_backbone()
    own = backbone.state_dict()
    wrong = [name for name in own if name.endswith("fusion.alpha")]  # four of them
    shapes = {name: torch.zeros(2) for name in wrong}
    assert problems_of(backbone, own | shapes) == (
        [f"{name} is (2,) in the file and (1,) in the model" for name in wrong], "")
    others = {name: torch.zeros(7) for name in list(own)[:3]}
    listed, more = problems_of(backbone, own | shapes | others)
    assert len(listed) == 4 and more == ""  # of shapes four are enough
    unknown = {f"extra{i}": torch.zeros(1) for i in range(5)}
    listed, more = problems_of(backbone, own | shapes | unknown)
    assert listed[4:] == ["unknown extra0 (1,)", "unknown extra1 (1,)"] and more == "and 3 more"
    lacking = {name: tensor for name, tensor in own.items() if name not in wrong}
    assert problems_of(backbone, lacking) == ([f"missing {name} (1,)" for name in wrong], "")
    six = lacking | {"a": torch.zeros(1), "b": torch.zeros(2, 1)}
    assert problems_of(backbone, six) == (
        [*(f"missing {name} (1,)" for name in wrong), "unknown a (1,)", "unknown b (2, 1)"], "")
    assert problems_of(backbone, six | {"c": torch.zeros(1)})[1] == "and 1 more"
    integers = own | {wrong[0]: torch.zeros(1, dtype=torch.int64)}
    assert problems_of(backbone, integers) == ([f"{wrong[0]} is of torch.int64 in the file"], "")


@pytest.mark.parametrize("times", [3, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_a_tensor_that_repeats_its_numbers_is_refused(times: int, dtype: torch.dtype) -> None:
    whole = torch.zeros(2, times, dtype=dtype)
    assert check_tensors({"a": whole, "b": whole[1:], "c": whole[:, :0]}, "file").keys() == {"a", "b", "c"}
    with pytest.raises(ValueError, match="file: a is not a plain tensor with all its numbers in the file"):
        check_tensors({"a": torch.zeros(1, dtype=dtype).expand(times)}, "file")


def test_convert_takes_one_frame_and_more(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.safetensors"
    for options, frames in (([], 3), (["--num-frames", "1"], 1), (["--num-frames", "5"], 5)):
        cli(["convert", str(saved), str(target), *options])
        said = capsys.readouterr().out
        assert f"{frames} frames; no key of {saved} left over" in said and "EgoTaskQA" not in said
        millions = sum(p.numel() for p in load_backbone(target, frames).parameters()) / 1e6
        assert f"{target}: {millions:.1f} M parameters" in said and num_frames_of(target) == frames
    with pytest.raises(SystemExit, match="--num-frames 0: give a whole number, 1 or more"):
        cli(["convert", str(saved), str(target), "--num-frames", "0"])


def test_convert_tells_of_a_head_that_is_left_behind(make_backbone, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    backbone = make_backbone()
    parts = {"backbone.": backbone, "answer_head.": AnswerHead(24, 3)}
    state = {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.state_dict().items()}
    torch.save({"state_dict": state, "egovlpv2": {"backbone": backbone.config.to_dict()}}, tmp_path / "taskqa.ckpt")
    cli(["convert", str(tmp_path / "taskqa.ckpt"), str(tmp_path / "out.safetensors")])
    said = capsys.readouterr().out
    assert f"but for its head of EgoTaskQA: to ask questions, give {tmp_path / 'taskqa.ckpt'}" in said


def test_convert_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli(["convert", "--help"])
    assert end.value.code in (0, None)
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert said.startswith("usage: egovlpv2 convert ")
    assert "Convert any checkpoint to a .safetensors of this project." in said
    for text in ("a released .pth, an own .ckpt or .safetensors", "the .safetensors to write",
                 "interpolate the temporal embedding to so many frames; as in the file if not given"):
        assert f" {text}" in said

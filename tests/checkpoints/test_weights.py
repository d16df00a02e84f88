"""Weights go in and out strictly, and no code of a file runs."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from helpers import make_clips
from safetensors import safe_open
from safetensors.torch import save_file

from egovlpv2 import load_backbone
from egovlpv2.checkpoints.weights import load_strictly, num_frames_of, save_backbone
from egovlpv2.cli import main as cli
from egovlpv2.tasks.egomcq import EgoMCQ


@pytest.fixture
def saved(make_backbone, tmp_path: Path) -> Path:
    save_backbone(make_backbone(), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def test_safetensors_round_trip(make_backbone, saved: Path) -> None:
    video = make_clips(2)["video"]
    torch.testing.assert_close(load_backbone(saved).embed_video(video), make_backbone().embed_video(video))
    assert not list(saved.parent.glob("*.partial")) and not list(saved.parent.glob("*.tmp"))


def test_own_checkpoint_round_trip(make_backbone, tmp_path: Path) -> None:
    task = EgoMCQ(make_backbone().config)
    file = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(file)
    torch.save(file, tmp_path / "task.ckpt")
    loaded, video = load_backbone(tmp_path / "task.ckpt"), make_clips(2)["video"]
    torch.testing.assert_close(loaded.embed_video(video), task.eval().backbone.embed_video(video))


def test_weights_into_a_task_with_other_frames(make_backbone, small_config, saved: Path) -> None:
    task = EgoMCQ(small_config(frames=8), weights=str(saved))
    assert task.backbone.video_tower.temporal_embed.shape[1] == 8
    first, last = task.backbone.video_tower.temporal_embed[0, [0, -1]]
    four = make_backbone().video_tower.temporal_embed[0]
    torch.testing.assert_close(first, four[0])
    torch.testing.assert_close(last, four[-1])


def test_a_checkpoint_of_another_size_is_an_error_that_lists_the_keys(make_backbone, saved: Path, small_config) -> None:
    with pytest.raises(ValueError, match=r"(?s)small.safetensors does not fit.*missing video_tower.blocks.3"):
        EgoMCQ(small_config(depth=4), weights=str(saved))
    state = make_backbone().state_dict()
    state["extra"] = torch.zeros(3)
    state["video_tower.norm.bias"] = torch.zeros(5)
    with pytest.raises(ValueError, match=r"(?s)norm.bias is \(5,\) in the file and \(24,\).*unknown extra \(3,\)"):
        load_strictly(make_backbone(), state, "some file")


@pytest.mark.parametrize("name, content, message", [
    ("none.pth", None, "is missing: give a weights file"),
    ("weights.bin", b"x", "weights are read from .safetensors, .ckpt, .pth, .pt files"),
    ("broken.safetensors", b"not tensors", "not a readable weights file"),
    ("empty.ckpt", b"", "is an empty file"),
    ("broken.pth", b"garbage", "not a readable weights file"),
])
def test_unreadable_files_are_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        load_backbone(tmp_path / name)


def test_other_peoples_checkpoints_are_named(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "a.pth")
    torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="a.pth holds no EgoVLPv2 weights .*not a released EgoVLPv2 checkpoint"):
        load_backbone(tmp_path / "a.pth")
    with pytest.raises(ValueError, match="a.ckpt holds no EgoVLPv2 weights .*not a checkpoint of an egovlpv2 task"):
        load_backbone(tmp_path / "a.ckpt")


class Malicious:
    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("suffix", [".pth", ".ckpt"])
@pytest.mark.parametrize("function", ["system", "touch", "eval"])
def test_a_malicious_pickle_does_not_run(tmp_path: Path, suffix: str, function: str) -> None:
    import os

    trace = tmp_path / "ran"
    call = {"system": Malicious(os.system, f"touch {trace}"), "touch": Malicious(Path.touch, trace),
            "eval": Malicious(eval, f"open({str(trace)!r}, 'w')")}[function]
    torch.save({"state_dict": {}, "config": call}, tmp_path / f"bad{suffix}")
    with pytest.raises(ValueError):
        load_backbone(tmp_path / f"bad{suffix}")
    assert not trace.exists()
    pickle.loads(pickle.dumps(Malicious(Path.touch, trace)))
    assert trace.exists()  # so the payload would have worked


@pytest.mark.parametrize(("part", "key", "value"), [
    ("text", "init", "somebody/model"), ("video", "init", "timm"), ("video", "init", "other.safetensors"),
    ("video", "name", "hf-hub:somebody/vit"), ("video", "name", "local-dir:/somewhere")])
def test_a_weights_file_cant_have_anything_fetched_or_opened(saved: Path, part: str, key: str, value: str) -> None:
    with safe_open(saved, "pt") as file:
        plain, state = json.loads(file.metadata()["egovlpv2"]), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
    plain[part][key] = value
    save_file(state, saved, {"egovlpv2": json.dumps(plain)})
    for read in (load_backbone, num_frames_of):
        with pytest.raises(ValueError, match=rf"small.safetensors: {part}.{key}: expected .*, got '{value}'"):
            read(saved)


def test_convert_command(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli(["convert", str(saved), str(tmp_path / "out.safetensors"), "--num-frames", "16"])
    assert "16 frames" in capsys.readouterr().out
    assert load_backbone(tmp_path / "out.safetensors", 16).video_tower.temporal_embed.shape[1] == 16
    with pytest.raises(SystemExit, match="must end in .safetensors"):
        cli(["convert", str(saved), str(tmp_path / "out.bin")])


def test_names_in_our_checkpoints_stay(make_backbone) -> None:
    block = "blocks.2.fusion."
    expected = {
        "video_tower.cls_token", "video_tower.pos_embed", "video_tower.temporal_embed",
        "video_tower.patch_embed.proj.weight", "video_tower.blocks.0.time_attn.qkv.weight",
        "video_tower.blocks.0.norm_time.weight", "video_tower.blocks.0.attn.proj.bias", "video_tower.norm.weight",
        *(f"video_tower.{block}{part}" for part in ("alpha", "norm.weight", "query.weight", "key_value.weight")),
        *(f"text_tower.{block}{part}" for part in ("alpha", "query.weight", "key_value.weight", "out.bias")),
        "text_tower.embeddings.word_embeddings.weight", "text_tower.blocks.0.query.weight",
        "text_tower.blocks.0.norm1.weight", "text_tower.blocks.0.fc2.weight",
        "video_projector.0.weight", "text_projector.4.bias", "fused_video_transform.weight",
        "fused_text_transform.bias", "match_head.video_pooler.weight", "match_head.classifier.weight",
        "masked_word_head.transform.weight", "masked_word_head.norm.bias", "masked_word_head.decoder.bias",
        "fused_cls_token", "fused_norm.weight",
    }
    assert expected <= make_backbone(fusion_cls="own").state_dict().keys()

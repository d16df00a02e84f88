"""`egovlpv2 extract`: features equal the model's, and what doesn't fit is refused before work begins."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import REAL_DATA
from video.numbered_videos import write_video

from egovlpv2.batch import Text
from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.cli import main as cli
from egovlpv2.device import pick_device
from egovlpv2.features import FeatureFolder, read_features
from egovlpv2.features.extract import extract_features
from egovlpv2.model.backbone import Backbone
from egovlpv2.tokenization import load_tokenizer, tokenize
from egovlpv2.video.decode import read_frames
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import EvalTransform

REAL = REAL_DATA / "real_egoclip" / "videos"
WINDOWS = ("--fps", "10", "--window", "8", "--stride", "4", "--batch-size", "3")


def write(path: Path, first: int = 0, count: int = 30, faststart: bool = False) -> Path:
    """Ten frames a second of colours that change from frame to frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:48, 0:64]
    pictures = [np.stack([(x * 3 + 9 * i) % 256, (y * 5 - 7 * i) % 256, (x + y + 40 * i) % 256], -1).astype(np.uint8)
                for i in range(first, first + count)]
    return write_video(path, fps=10, pictures=pictures, options={"movflags": "faststart"} if faststart else {})


def options(weights: Path, out: Path, *more: object) -> list[str]:
    return ["--weights", str(weights), "--out", str(out), "--device", "cpu", "--num-workers", "0", *WINDOWS,
            *map(str, more)]


@pytest.mark.parametrize("device", ["cpux", "cuda:99"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(ValueError, match=f"^--device {device}: "):
        pick_device(device)


def test_numbers_of_numpy_and_a_device_are_written_as_python_s(weights: Path, tmp_path: Path) -> None:
    video, cpu = write(tmp_path / "in" / "a.mp4"), torch.device("cpu")
    for name, numbers in (("python", (10, 8, 4, 4, 3, 0)), ("numpy", tuple(map(np.int64, (10, 8, 4, 4, 3, 0))))):
        names = ("fps", "window", "stride", "num_frames", "batch_size", "num_workers")
        given: dict[str, Any] = dict(zip(names, numbers, strict=True)) | {"device": cpu}
        report = extract_features((str(video),), str(weights), tmp_path / name, **given)
        assert report.written == 1 and not report.failures
    assert contents(tmp_path / "python") == contents(tmp_path / "numpy")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def clips(path: Path, count: int, frames: int = 4) -> torch.Tensor:
    """Read the frames of the first windows of 0.8 s each 0.4 s, (count, frames, 3, 32, 32)."""
    return torch.stack([read_frames(path, uniform_times(0.4 * k, 0.4 * k + 0.8, frames), EvalTransform(32)).frames
                        for k in range(count)])


def same(features: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.std(0).min() > 1e-3  # windows differ
    torch.testing.assert_close(features.float(), expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("workers", [0, 1])
def test_dual_features_are_the_models(backbone: Backbone, weights: Path, tmp_path: Path, workers: int,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    paths = [write(tmp_path / "in" / "a.mp4"), write(tmp_path / "in" / "b.mp4", 50, 20)]
    cli(["extract", str(tmp_path / "in"), *options(weights, tmp_path / "out", "--num-workers", workers)])
    assert "2 of 2 videos written" in capsys.readouterr().out
    folder = FeatureFolder(tmp_path / "out")
    recipe = folder.recipe
    assert (recipe.kind, recipe.width, recipe.fps, recipe.window, recipe.stride, recipe.frames, recipe.size) == (
        "dual", 24, 10.0, 8, 4, 4, 32)
    assert len(recipe.checkpoint) == 16 and recipe.rate == 2.5 and folder.names == {"a", "b"}
    for path, duration, count in zip(paths, (3.0, 2.0), (6, 4), strict=True):
        features = folder.read(path.stem)
        assert features.duration == pytest.approx(duration) and features.values.shape == (count, 24)
        with torch.no_grad():
            same(features.values, backbone.video_features(clips(path, count)))


def test_numbers_of_numpy_are_written(weights: Path, tmp_path: Path) -> None:
    numbers: dict[str, Any] = {"fps": np.float32(10), "window": np.int64(8), "stride": np.int64(4),
                               "num_frames": np.int64(2)}
    report = extract_features([str(write(tmp_path / "a.mp4"))], str(weights), tmp_path / "out", num_workers=0,
                              device="cpu", **numbers)
    assert report.written == 1 and FeatureFolder(tmp_path / "out").recipe.fps == 10


def test_projected_features_are_the_models(backbone: Backbone, weights: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4")
    cli(["extract", str(path), *options(weights, tmp_path / "out", "--kind", "projected")])
    features = read_features(tmp_path / "out" / "a.safetensors")
    assert features.recipe.kind == "projected" and features.recipe.width == 8
    with torch.no_grad():
        same(features.values, backbone.embed_video(clips(path, 6)))


def test_other_numbers_of_frames_interpolate_time(weights: Path, tmp_path: Path) -> None:
    from egovlpv2.checkpoints.weights import load_backbone

    path = write(tmp_path / "a.mp4")
    cli(["extract", str(path), *options(weights, tmp_path / "out", "--num-frames", 2)])
    with torch.no_grad():
        same(read_features(tmp_path / "out" / "a.safetensors").values,
             load_backbone(weights, 2).video_features(clips(path, 6, frames=2)))


@pytest.mark.parametrize("fusion_cls", ["shared", "own"])
def test_fused_features_are_the_models(make_backbone: Callable[..., Backbone], tokenizer: str, tmp_path: Path,
                                       fusion_cls: str, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = make_backbone(tokenizer=tokenizer, fusion_cls=fusion_cls)
    save_backbone(backbone, tmp_path / "weights.safetensors")
    texts = ["w1 w2 w3", "w7", "w1 w9 w9 w4 w8"]
    path = write(tmp_path / "a.mp4")
    write(tmp_path / "unasked.mp4")
    queries = tmp_path / "queries.json"
    queries.write_text(json.dumps({"a": texts}))
    command = [str(tmp_path), *options(tmp_path / "weights.safetensors", tmp_path / "out", "--kind", "fused",
                                       "--queries", queries, "--max-tokens", 9)]
    cli(["extract", *command])
    assert "1 of 2 videos skipped" in capsys.readouterr().out
    assert os.listdir(tmp_path / "out") == ["a.safetensors"]
    features = read_features(tmp_path / "out" / "a.safetensors")
    assert features.values.shape == (6, 3, 24) and features.queries == texts
    text = tokenize(load_tokenizer(tokenizer), texts, 9)
    with torch.no_grad():
        for i in range(3):
            asked = Text(**{name: ids[i:i + 1].expand(6, -1) for name, ids in text.items()})
            same(features.values[:, i], backbone.fused_features(clips(path, 6), asked))
        torch.testing.assert_close(features.words.float(), backbone.text_features(text), atol=2e-3, rtol=2e-3)
    assert torch.equal(features.word_mask, text["attention_mask"].bool())
    # Started again, it keeps the file; with more queries it can't.
    cli(["extract", *command])
    queries.write_text(json.dumps({"a": [*texts, "w5"]}))
    with pytest.raises(SystemExit, match="a.safetensors lacks 1 queries of its video, 'w5' for one"):
        cli(["extract", *command])


def test_words_go_with_dual_features_too(make_backbone: Callable[..., Backbone], tokenizer: str,
                                         tmp_path: Path) -> None:
    backbone = make_backbone(tokenizer=tokenizer)
    save_backbone(backbone, tmp_path / "weights.safetensors")
    (tmp_path / "nlq_val.json").write_text(json.dumps({"videos": [{"video_uid": "a", "clips": [
        {"clip_uid": "b", "annotations": [{"language_queries": [{"query": "w3 w4"}, {"query": None}]}]}]}]}))
    for name in "ab":
        write(tmp_path / f"{name}.mp4")
    cli(["extract", str(tmp_path), *options(tmp_path / "weights.safetensors", tmp_path / "out", "--queries",
                                  tmp_path / "nlq_val.json")])
    for name in "ab":  # by video, and by clip
        features = read_features(tmp_path / "out" / f"{name}.safetensors")
        assert features.queries == ["w3 w4"] and features.words.shape == (1, 30, 32) and features.values.ndim == 2


def test_mixed_precision_is_near(weights: Path, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.mp4")
    for precision in ("32", "bf16"):
        cli(["extract", str(tmp_path / "in"), *options(weights, tmp_path / precision, "--precision", precision)])
    exact, near = (read_features(tmp_path / name / "a.safetensors").values.float() for name in ("32", "bf16"))
    assert not torch.equal(exact, near) and (exact - near).abs().mean() < 0.05 * exact.abs().mean()


def test_chunks_give_the_features_of_the_whole(weights: Path, tmp_path: Path) -> None:
    write(tmp_path / "in" / "whole.mp4", count=50)
    for i in range(3):
        write(tmp_path / "in" / "parts" / f"{i}.mp4", 20 * i, min(20, 50 - 20 * i))
    cli(["extract", str(tmp_path / "in"), *options(weights, tmp_path / "out", "--chunk-seconds", 2)])
    whole, parts = (read_features(tmp_path / "out" / f"{name}.safetensors") for name in ("whole", "parts"))
    assert parts.duration == pytest.approx(whole.duration) and len(whole.values) == 11
    # Encoded apart, pictures differ a little where one has a keyframe.
    assert (whole.values - parts.values).abs().max() < 0.1 * whole.values.abs().mean()


def test_a_video_shorter_than_a_window_has_one_feature(weights: Path, tmp_path: Path) -> None:
    cli(["extract", str(write(tmp_path / "a.mp4", count=3)), *options(weights, tmp_path / "out")])
    features = read_features(tmp_path / "out" / "a.safetensors")
    assert features.values.shape == (1, 24) and features.duration == pytest.approx(0.3)


def refused(command: list[str], match: str) -> None:
    with pytest.raises(SystemExit, match=match) as end:
        cli(["extract", *command])
    assert str(end.value).startswith("egovlpv2 extract: error: ")


def test_another_recipe_is_refused_before_work_begins(make_backbone: Callable[..., Backbone], weights: Path,
                                                      tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "a.mp4")
    cli(["extract", str(path), *options(weights, tmp_path / "out")])
    before = contents(tmp_path / "out")
    write(tmp_path / "in" / "b.mp4")
    backbone = make_backbone()
    backbone.video_tower.cls_token.data += 1
    save_backbone(backbone, tmp_path / "other.safetensors")
    refused([str(tmp_path / "in"), *options(weights, tmp_path / "out", "--stride", 8, "--fps", 5)],
            r"another recipe \(there and here: fps 10.0 and 5.0; stride 4 and 8\)")
    refused([str(tmp_path / "in"), *options(tmp_path / "other.safetensors", tmp_path / "out")],
            r"another recipe \(there and here: checkpoint \w{16} and \w{16}\)")
    (tmp_path / "out" / "a.safetensors").write_bytes(before["a.safetensors"][:-1])
    refused([str(tmp_path / "in"), *options(weights, tmp_path / "out")], "a.safetensors is cut short")
    assert os.listdir(tmp_path / "out") == ["a.safetensors"]


def test_what_a_user_gets_wrong_is_one_line(weights: Path, tmp_path: Path) -> None:
    video = str(write(tmp_path / "a.mp4"))
    (tmp_path / "file").write_text("")
    (tmp_path / "empty.json").write_text('{"a": ["  "]}')
    (tmp_path / "other.json").write_text('{"b": ["Where?"]}')
    out = tmp_path / "out"
    refused([video, *options(tmp_path / "none.safetensors", out)], "none.safetensors is missing: give a weights file")
    refused([str(tmp_path / "none"), *options(weights, out)], "there is no such file or folder")
    refused([video, *options(weights, tmp_path / "file")], "the folder .*file can't be made")
    refused([video, *options(weights, tmp_path / "file" / "out")], "the folder .*out can't be made")
    refused([video, *options(weights, out, "--kind", "fused")], "--kind fused needs --queries")
    refused([video, *options(weights, out, "--queries", tmp_path / "empty.json")],
            "a list of texts for each video; those of 'a': .*not blank")
    refused([video, *options(weights, out, "--frame-rule", "released")], "leave --fps, --window and --stride out")
    refused([video, *options(weights, out, "--queries", tmp_path / "other.json")],
            "no query is of any of the 1 videos")
    for name in ("fps", "window", "stride", "num-frames", "batch-size", "max-tokens", "chunk-seconds"):
        refused([video, *options(weights, out, f"--{name}", 0)], f"--{name} 0.*: give a (whole|finite) number")
    assert not out.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cant_be_written_to_is_named(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    refused([str(write(tmp_path / "a.mp4")), *options(weights, tmp_path / "out")], "can't be written to")


@pytest.mark.skipif(not REAL.is_dir(), reason="EGOVLPV2_REAL_DATA has no such files")
def test_real_videos(backbone: Backbone, weights: Path, tmp_path: Path) -> None:
    cli(["extract", str(REAL), *options(weights, tmp_path / "out", "--fps", 4, "--stride", 8, "--num-workers", 1)])
    folder = FeatureFolder(tmp_path / "out")
    assert folder.names == {path.name for path in REAL.iterdir()} and folder.recipe.rate == 0.5
    for name in folder.names:
        features = folder.read(name)
        assert len(features.values) == max(int(features.duration / 2), 1)
        assert features.values.isfinite().all()
    frames = read_frames(REAL / "bristol" / "0.mp4", uniform_times(4.0, 6.0, 4), EvalTransform(32)).frames
    with torch.no_grad():
        torch.testing.assert_close(folder.read("bristol").values[2:3].float(), backbone.video_features(frames[None]),
                                   atol=2e-3, rtol=2e-3)

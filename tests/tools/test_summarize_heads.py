"""`egovlpv2 summarize` with a trained head: its shots are taken, and one that does not fit is named."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import draw_parameters
from tools.test_summarize import (
    FPS,
    MAX_WORDS,
    QUERY,
    SHOT,
    best,
    command,
    matches,
    played,
    refused,
    shots,
    shown,
    table,
    write,
)

from egovlpv2.checkpoints.inference import fingerprint
from egovlpv2.checkpoints.weights import load_backbone, save_backbone
from egovlpv2.cli import main as cli
from egovlpv2.features.header import Recipe
from egovlpv2.heads.kts import segments
from egovlpv2.heads.summary import positions
from egovlpv2.model.backbone import Backbone
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.qfvs import QFVS
from egovlpv2.tokenization import load_tokenizer, tokenize


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Twelve shots and three seconds."""
    return write(tmp_path / "film.mp4", 63 * FPS)


def trained_head(path: Path, weights: Path, kind: str, design: str = "paper") -> QFVS:
    """A checkpoint as a training leaves it."""
    torch.manual_seed(3)
    task = QFVS(OptimizerConfig(), dim=24, num_heads=4, design=design)
    draw_parameters(task.head)
    recipe = Recipe(kind, 24, 1.0, 5, 5, 5, 32, fingerprint(str(weights)))
    shots = SimpleNamespace(settings={"cut_by": "cls" if design == "released" else "patches", "max_segments": 4,
                                      "max_segment_shots": 5, "vmax": 1.0})
    trainer = SimpleNamespace(datamodule=SimpleNamespace(folder=SimpleNamespace(recipe=recipe), shots=shots))
    checkpoint: dict[str, Any] = {"state_dict": task.state_dict(), "epoch": 3, "global_step": 9}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QFVS, "trainer", trainer)
        task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return task


@pytest.mark.parametrize("kind, design", [("fused", "paper"), ("transformed", "paper"), ("transformed", "released")])
def test_the_shots_that_a_trained_head_takes(weights: Path, video: Path, tmp_path: Path, kind: str, design: str,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    head = trained_head(tmp_path / "best.ckpt", weights, kind, design).head.eval()
    backbone = load_backbone(weights, 5)
    text = tokenize(load_tokenizer(backbone.config.text.tokenizer), [QUERY] * 12, MAX_WORDS)
    with torch.no_grad():
        frames = shots(video, 12)
        features = backbone.fused_features(frames, text)
        features = backbone.fused_video_transform(features) if kind == "transformed" else features
        trunk, by_patches = backbone.trunk_video(frames, gate=True), design == "paper"
        bounds = segments((trunk[:, 1:].mean(1) if by_patches else trunk[:, 0]).numpy(), 4, 5, directions=by_patches)
        assert 4 <= len(bounds) <= 5
        mask = torch.ones(12, 12, dtype=torch.bool)  # which shots see each other
        for a, b in zip(bounds[:-1], bounds[1:], strict=True):
            mask[a:b, a:b] = False
        if design == "released":  # a segment's places begin at 0
            places = [positions(b - a, features.shape[1]) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
            features = features + torch.cat(places)
        states = head.encoder(features[None], mask=mask)[0]
        last = head.score if design == "released" else head.summary
        scores = last(states)[:, 0].sigmoid().numpy()
    chosen = best(scores, 0.25)
    assert chosen != best(matches(weights, video), 0.25) and np.diff(np.sort(scores))[-3] > 2e-6  # no tie
    out = tmp_path / "best.mp4"
    cli(command(video, weights, "--out", out, "--share", 0.25, "--fps", FPS, "--head", tmp_path / "best.ckpt"))
    found, duration, _ = played(out)
    assert found == shown(chosen) and duration == pytest.approx(SHOT * 3, abs=0.01)
    head_line, rows = table(printed := capsys.readouterr().out)
    assert "zero-shot" not in printed and head_line.endswith(f"15 of 63 s, out of {len(bounds) - 1} segments:")
    for start, end, score in rows:
        assert score == pytest.approx(max(scores[round(start / SHOT):round(end / SHOT)]), abs=2e-3)


def test_a_head_of_unknown_features_is_taken_with_a_note(weights: Path, video: Path, tmp_path: Path,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    trained_head(tmp_path / "old.ckpt", weights, "fused")
    content = torch.load(tmp_path / "old.ckpt", weights_only=True)
    del content["egovlpv2"]["features"]
    torch.save(content, tmp_path / "old.ckpt")
    cli(command(video, weights, "--out", tmp_path / "a.mp4", "--head", tmp_path / "old.ckpt"))
    assert "old.ckpt doesn't contain the recipe of the features" in capsys.readouterr().out


def test_heads_that_do_not_fit_are_named(weights: Path, video: Path, tmp_path: Path,
                                         make_backbone: Callable[..., Backbone]) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    save_backbone(make_backbone(fusion_cls="own"), tmp_path / "other.safetensors")
    trained_head(tmp_path / "theirs.ckpt", tmp_path / "other.safetensors", "fused")
    trained_head(tmp_path / "frames.ckpt", weights, "fused")
    content = torch.load(tmp_path / "frames.ckpt", weights_only=True)
    content["egovlpv2"]["features"]["frames"] = 4
    torch.save(content, tmp_path / "frames.ckpt")
    torch.save({"state_dict": {"head.encoder.weight": torch.zeros(1)}}, tmp_path / "nlq.ckpt")
    torch.save({"state_dict": {}, "egovlpv2": {"backbone": {}, "taskqa": {"answers": []}}}, tmp_path / "taskqa.ckpt")
    (tmp_path / "broken.ckpt").write_bytes(b"no weights")
    for name, problem in (("theirs", r"theirs.ckpt was trained on features of the weights \w{16}, and .*weights.safe"),
                          ("frames", r"frames.ckpt was trained on other features .*\(frames 4 and 5\)"),
                          ("nlq", "nlq.ckpt is not a checkpoint of QFVS .*: `make finetune-qfvs` leaves some"),
                          ("taskqa", "taskqa.ckpt is not a checkpoint of QFVS"),
                          ("broken", "broken.ckpt: not a readable weights file"),
                          ("none", "none.ckpt is missing: give a weights file")):
        refused(command(video, weights, "--out", folder / "a.mp4", "--head", tmp_path / f"{name}.ckpt"), problem,
                folder)

"""The second stage: which weights it trains, its objectives, its scores, and a fit from files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_tasks import small_task

from egovlpv2.checkpoints.weights import load_backbone
from egovlpv2.cli import main as cli
from egovlpv2.losses import ego_nce, ego_nce_plus_plus

ROOT = Path(__file__).parents[2]


def embeds_of(task: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    backbone = task.backbone
    return (backbone.embed_text(batch["text"]), backbone.embed_video(batch["video"]),
            backbone.embed_text(batch["hard_text"]))


def test_the_loss_is_that_of_the_embeddings() -> None:
    task, batch = small_task("egohoi")
    text, video, hard = embeds_of(task, batch)
    loss, parts = task.losses(batch)
    torch.testing.assert_close(loss, ego_nce_plus_plus(text, video, hard, batch["nouns"], 0.05,
                                                       batch["hard_mask"].flatten(1)))
    torch.testing.assert_close(loss, sum(parts.values()))
    task.objective, task.positives = "ego_nce", "verb"
    loss, parts = task.losses(batch)
    similarity = F.normalize(text, dim=-1) @ F.normalize(video, dim=-1).T
    torch.testing.assert_close(loss, ego_nce(similarity, batch["verbs"], batch["nouns"], 0.05, "verb"))
    assert parts == {} and task.protocol["positives"] == "verb"


def test_the_video_tower_alone_is_trained() -> None:
    task, batch = small_task("egohoi")
    task.train()
    assert task.backbone.video_tower.training and not task.backbone.text_tower.training
    task.training_step(batch, 0).backward()
    trained = {name for name, parameter in task.named_parameters() if parameter.requires_grad}
    assert trained and all(name.startswith("backbone.video_tower.") and ".fusion." not in name for name in trained)
    for name, parameter in task.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == (name in trained), name


@torch.inference_mode()
def test_scores_are_cosines_with_each_sentence() -> None:
    task, batch = small_task("egohoi")
    text, video, hard = (F.normalize(x, dim=-1) for x in embeds_of(task, batch))
    rows = task.predict_step(batch, 0)
    assert [row["line"] for row in rows] == batch["key"]
    for i, row in enumerate(rows):
        assert row["own"] == pytest.approx(float(video[i] @ text[i]), abs=1e-5)
        for part, name in enumerate(("verbs", "nouns")):
            expected = (hard[6 * i + 3 * part : 6 * i + 3 * part + 3] @ video[i])[batch["hard_mask"][i, part]]
            torch.testing.assert_close(torch.tensor(row[name]), expected, atol=1e-5, rtol=0)
    task.test_step(batch, 0)
    right = [all(row["own"] > score for score in row["verbs"]) for row in rows]
    assert float(task.metric("test").compute()["verb"]) == pytest.approx(100 * sum(right) / len(rows))


def arguments(toy: Path, runs: Path, command: str, name: str, *more: str) -> list[str]:
    files = ("egohoi", "model/tiny", "trainer/cpu", "toy/egohoi")
    shrink = {"video.overrides": "{img_size: 32, patch_size: 16, embed_dim: 48, depth: 2, num_heads: 3}",
              "num_fused_layers": "1", "projector": "[32]", "text.tokenizer": str(toy / "tokenizer")}
    return [command, *(f"--config={ROOT / 'conf' / f'{file}.yaml'}" for file in files),
            *(f"--model.init_args.backbone.{key}={value}" for key, value in shrink.items()),
            f"--data.init_args.root={toy}", "--data.init_args.chunk_seconds=8", "--data.init_args.size=32",
            "--data.init_args.batch_size=4", "--data.init_args.num_workers=0", "--precision=32",
            f"--trainer.logger.init_args.save_dir={runs}", f"--trainer.logger.init_args.name={name}", *more]


FIT = ("--trainer.limit_train_batches=3", "--trainer.max_epochs=1", "--trainer.log_every_n_steps=1",
       "--trainer.enable_progress_bar=false")


def test_fit_from_files_to_accuracy(toy: Path, tmp_path: Path) -> None:
    cli(arguments(toy, tmp_path, "fit", "run", *FIT))
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for split in ("val", "test"):
        values = {f"{split}/egohoi/{part}" for part in ("verb", "noun", "action", "chance_verb")}
        assert values <= report["metrics"].keys()
    assert report["metrics"]["train/verb_negatives"] > 1 and report["metrics"]["train/noun_negatives"] > 1
    assert report["metrics"]["val/score"] == report["metrics"]["val/egohoi/action"]
    assert report["metrics"]["test/egohoi/chance_verb"] == pytest.approx(100 / 11)
    protocol = report["protocol"]
    assert protocol["objective"] == "ego_nce_plus_plus" and protocol["hard_negatives"] == "by rule"
    assert protocol["test"].endswith("egohoi_test.csv") and protocol["scores"] == "dual"
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    assert load_backbone(best).config.num_fused_layers == 1
    weights = f"--model.init_args.weights={best}"
    cli(arguments(toy, tmp_path, "test", "again", weights))
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())["metrics"]
    assert all(again[name] == report["metrics"][name] for name in again if name.startswith("test/egohoi"))
    cli(arguments(toy, tmp_path, "predict", "predicted", weights))
    rows = json.loads((tmp_path / "predicted" / "predictions.json").read_text())
    right = [all(row["own"] > score for score in row["verbs"]) for row in rows]
    assert 100 * sum(right) / len(right) == pytest.approx(again["test/egohoi/verb"])


def test_files_of_hard_negatives_are_read(toy: Path, tmp_path: Path) -> None:
    """The questions to validate with, in the same format, serve as training rows."""
    cli(arguments(toy, tmp_path, "fit", "run", *FIT, "--data.init_args.train=egohoi_val.csv",
                  "--data.init_args.hard_negatives=egohoi_val.csv", "--data.init_args.test=null",
                  "--data.init_args.val=null"))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]
    assert metrics["train/verb_negatives"] == metrics["train/noun_negatives"] == 10

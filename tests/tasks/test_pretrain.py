"""The objectives, and a run from video files to EgoMCQ accuracy."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import KINDS, ROOT, draw_parameters, make_clips
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from egovlpv2.checkpoints.weights import load_backbone
from egovlpv2.cli import main as cli
from egovlpv2.losses import sample_vtm_pairs
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.bench_step import UnsharedPretrain
from egovlpv2.tasks.matching import draw_pairs
from egovlpv2.tasks.pretrain import Pretrain


@pytest.mark.parametrize("pairs", [1, 3])
@pytest.mark.parametrize("changes", [*KINDS, {"num_fused_layers": 1, "text_attends_to": "previous"}])
def test_sharing_changes_no_objective(small_config, tokenizer: str, changes: dict[str, Any], pairs: int) -> None:
    config, losses, gradients = small_config(tokenizer, **changes), [], []
    for kind in (Pretrain, UnsharedPretrain):
        torch.manual_seed(0)
        task = kind(config, OptimizerConfig(), masked_share=0.4, pairs_per_clip=pairs).eval()
        draw_parameters(task)
        torch.manual_seed(1)
        total, found = task.objectives(make_clips(8), torch.Generator().manual_seed(2))
        total.backward()
        losses.append(found)
        gradients.append({name: p.grad for name, p in task.named_parameters() if p.grad is not None})
    assert losses[0].keys() == losses[1].keys() == {"ego_nce", "vtm", "mlm"}
    for name in losses[0]:
        torch.testing.assert_close(losses[0][name], losses[1][name])
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-5, msg=name)


def test_a_batch_can_be_learned(small_config, tokenizer: str, fusion: str) -> None:
    torch.manual_seed(0)
    config, batch = small_config(tokenizer, fusion=fusion), make_clips(8)
    task = Pretrain(config, OptimizerConfig(), positives="none").eval()
    optimizer, first = torch.optim.AdamW(task.parameters(), lr=3e-3), None
    for _ in range(100):
        total, losses = task.objectives(batch, torch.Generator().manual_seed(0))
        first = first or {k: v.item() for k, v in losses.items()}
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert all(losses[k] < 0.5 * first[k] for k in losses), (first, losses)


def test_objectives_without_weight_train_nothing(small_config, tokenizer: str) -> None:
    config, batch = small_config(tokenizer), make_clips(8)
    alone = Pretrain(config, OptimizerConfig(), mlm_weight=0.0, vtm_weight=0.0).eval()
    total, losses = alone.objectives(batch, torch.Generator().manual_seed(0))
    assert set(losses) == {"ego_nce"} and alone.scores == ("dual",)
    total.backward()
    assert all(p.grad is not None for p in alone.parameters() if p.requires_grad)  # DDP would wait for them
    words = Pretrain(config, OptimizerConfig(), mlm_weight=0.25, vtm_weight=0.0)
    assert words.scores == ("dual",) and words.backbone.masked_word_head.decoder.weight.requires_grad
    matching = Pretrain(config, OptimizerConfig(), mlm_weight=0.0, vtm_weight=0.5)
    assert matching.scores == ("dual", "fusion", "ensemble")


@pytest.mark.parametrize("clips", [1, 2, 3])
def test_a_small_last_batch_gives_finite_gradients(small_config, tokenizer: str, clips: int) -> None:
    torch.manual_seed(0)
    task, batch = Pretrain(small_config(tokenizer), OptimizerConfig(), masked_share=0.0).eval(), make_clips(3)
    batch = {name: {key: ids[:clips] for key, ids in value.items()} if name == "text" else value[:clips]
             for name, value in batch.items()}
    total, losses = task.objectives(batch, torch.Generator().manual_seed(0))
    total.backward()
    assert all(loss.isfinite() for loss in losses.values()) and losses["mlm"] == 0
    assert clips > 1 or losses["ego_nce"] == 0
    assert all(p.grad.isfinite().all() for p in task.parameters() if p.grad is not None)


def test_negatives_are_drawn_as_asked(small_config, tokenizer: str) -> None:
    losses = {}
    for by in ("own", "swapped"):
        torch.manual_seed(0)
        task = Pretrain(small_config(tokenizer), OptimizerConfig(), negatives_by=by).eval()
        draw_parameters(task)
        torch.manual_seed(1)
        losses[by] = task.objectives(make_clips(12), torch.Generator().manual_seed(2)).losses
    assert losses["own"]["vtm"] != losses["swapped"]["vtm"]
    assert all(losses["own"][name] == losses["swapped"][name] for name in ("ego_nce", "mlm"))


def test_negatives_become_harder_by_steps(small_config, tokenizer: str) -> None:
    task = Pretrain(small_config(tokenizer), OptimizerConfig(), negative_temperature=0.3, end_negative_temperature=0.1)
    found = []
    assert task.sampling_temperature == 0.3 and task.protocol["negative_temperature"] == "0.3 to 0.1"
    task.trainer = trainer = SimpleNamespace(estimated_stepping_batches=100, current_epoch=0, accumulate_grad_batches=1)
    for trainer.global_step in (0, 25, 50, 100):
        task.on_train_batch_start(make_clips(2), 0)
        found.append(task.sampling_temperature)
    assert found == pytest.approx([0.3, 0.25, 0.2, 0.1])
    for first, last in ((0.3, 0.4), (0.3, 0.0), (float("inf"), 0.1)):
        with pytest.raises(ValueError, match=f"end_negative_temperature={last} must be above 0 and at most"):
            Pretrain(small_config(tokenizer), OptimizerConfig(), negative_temperature=first,
                     end_negative_temperature=last)


def test_centred_embeddings_stay_centred_when_each_is_computed_alone(small_config, tokenizer: str) -> None:
    torch.manual_seed(0)
    config, batch = small_config(tokenizer), make_clips(8)
    task = Pretrain(config, OptimizerConfig(), center_embeddings=True).eval()
    for projector in (task.backbone.video_projector, task.backbone.text_projector):
        torch.nn.init.normal_(projector[-1].bias, std=10)  # all embeddings point in one direction
    first = task.objectives(batch, torch.Generator().manual_seed(0))
    first.total.backward()
    for projector in (task.backbone.video_projector, task.backbone.text_projector):
        assert projector[-1].bias.grad.abs().max() < 1e-5 < projector[-1].weight.grad.abs().max()
    for _ in range(150):
        last = task.objectives(batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(first.losses["ego_nce"], last.losses["ego_nce"], atol=1e-4, rtol=0)
    for embeds in (task.backbone.embed_video(batch["video"]), task.backbone.embed_text(batch["text"])):
        assert embeds.mean(0).abs().max() < 1e-2 * embeds.abs().max()
    config = small_config(tokenizer, projector=[16], linear_projector=True)
    with pytest.raises(ValueError, match="center_embeddings needs projectors with a bias"):
        Pretrain(config, OptimizerConfig(), center_embeddings=True)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("clips", [1, 2, 3, 8])
def test_embeddings_that_are_all_the_same_have_no_direction_to_learn(small_config, tokenizer: str, clips: int,
                                                                     bf16: bool) -> None:
    """Rounding errors are all that centring leaves of them, and would be scaled to length one."""
    task = Pretrain(small_config(tokenizer), OptimizerConfig(), positives="none", center_embeddings=True).eval()
    draw_parameters(task)
    batch = make_clips(clips)
    batch["text"] = {name: ids[:1].expand(clips, -1).contiguous() for name, ids in batch["text"].items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        task.objectives(batch, torch.Generator().manual_seed(0)).total.backward()
    assert all(p.grad.abs().max() < (50 if bf16 else 1) for p in task.parameters() if p.grad is not None)


def test_each_clip_may_be_matched_in_several_pairs(small_config, tokenizer: str) -> None:
    pairs = draw_pairs(torch.randn(8, 8), torch.eye(8, dtype=torch.bool), 0.3, torch.Generator().manual_seed(0),
                       per_clip=3)
    assert pairs.is_match.tolist() == (pairs.video == pairs.text).tolist() and len(pairs.is_match) == 24
    assert pairs.is_match.view(3, 8).sum(1).tolist() == [4, 4, 4] and len(pairs.is_match.view(3, 8).unique(dim=0)) > 1
    with pytest.raises(ValueError, match="pairs_per_clip=0 must be at least 1"):
        Pretrain(small_config(tokenizer), OptimizerConfig(), pairs_per_clip=0)


def test_an_infinite_temperature_draws_any_negative() -> None:
    similarity, positives = torch.randn(64, 64), torch.eye(64, dtype=torch.bool)
    best, drawn = similarity.fill_diagonal_(-9).argmax(1), []
    for seed in range(40):
        pairs = sample_vtm_pairs(similarity, positives, float("inf"), torch.Generator().manual_seed(seed))
        drawn += [(video, text) for video, text in zip(pairs.video.tolist(), pairs.text.tolist(), strict=True)
                  if video != text]
    assert len(drawn) == 40 * 32 and len(set(drawn)) > 1000
    assert sum(video == best[text] for video, text in drawn) < 60


def test_a_tokenizer_with_too_many_words_is_named(small_config, tokenizer: str) -> None:
    config = small_config(tokenizer)
    config.text.arch["vocab_size"] = 500
    with pytest.raises(ValueError, match="has 600 tokens and they have 500"):
        Pretrain(config, OptimizerConfig())


def arguments(toy: Path, runs: Path, name: str, *more: str) -> list[str]:
    files = ("pretrain", "model/tiny", "data/toy", "trainer/cpu")
    shrink = {"video.overrides": "{img_size: 32, patch_size: 16, embed_dim: 48, depth: 2, num_heads: 3}",
              "num_fused_layers": "1", "projector": "[32]", "text.tokenizer": str(toy / "tokenizer")}
    return [
        "fit", *(f"--config={ROOT / 'conf' / f'{file}.yaml'}" for file in files),
        *(f"--model.init_args.backbone.{key}={value}" for key, value in shrink.items()),
        f"--data.init_args.root={toy}", "--data.init_args.chunk_seconds=8", "--data.init_args.size=32",
        "--data.init_args.batch_size=4", "--data.init_args.num_workers=0",
        "--trainer.limit_train_batches=4", "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false", "--precision=32", f"--trainer.logger.init_args.save_dir={runs}",
        f"--trainer.logger.init_args.name={name}", *more,
    ]


def scalars(run: Path, tag: str) -> dict[int, float]:
    events = EventAccumulator(str(run))
    events.Reload()
    return {e.step: e.value for e in events.Scalars(tag)}


@pytest.mark.parametrize("changes, scores", [
    (["--model.init_args.backbone.fusion=stacked"], {"dual", "fusion", "ensemble"}),
    (["--model.init_args.mlm_weight=0", "--model.init_args.vtm_weight=0"], {"dual"}),
])
def test_ablations_fit_and_evaluate(toy: Path, tmp_path: Path, changes: list[str], scores: set[str]) -> None:
    cli(arguments(toy, tmp_path, "run", "--trainer.max_epochs=1", *changes))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]
    assert {name.split("/")[2] for name in metrics if name.startswith("test/egomcq")} == scores
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    assert load_backbone(best).config.fusion == read_protocol(tmp_path / "run")["fusion"]
    own = [a for a in arguments(toy, tmp_path, "again") if "batches" not in a and "trainer.max" not in a][1:]
    cli(["test", *own, *changes, f"--model.init_args.weights={best}"])
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())["metrics"]
    assert all(again[name] == metrics[name] for name in again if name.startswith("test/egomcq"))


def test_fit_from_files_to_accuracy(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli(arguments(toy, tmp_path, "run"))
    run = tmp_path / "run"
    report = json.loads((run / "metrics.json").read_text())  # {"metrics": ..., "protocol": ...}
    for split in ("val", "test"):
        for score in ("dual", "fusion", "ensemble"):
            assert {f"{split}/egomcq/{score}/{kind}" for kind in ("inter", "intra")} <= report["metrics"].keys()
    protocol = read_protocol(run)
    assert protocol["checkpoint"].endswith("best.ckpt") and protocol["seed"] == 0 and protocol["eval_num_frames"] == 4
    assert protocol["size"] == 32 and protocol["test"].endswith("egomcq_test.json")
    printed = capsys.readouterr().out
    for once in ("test/egomcq/ensemble/intra ", "train/loss ", "Protocol:"):
        assert printed.count(once) == 1
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (run / "config.yaml").is_file()
    for tag in ("train/loss", "train/ego_nce", "train/mlm", "train/vtm", "alpha/video/1", "alpha/text/3",
                "val/egomcq/fusion/intra", "lr-AdamW/new layers"):
        assert scalars(run, tag), tag
    # Evaluating with more frames than it was trained with: what the checkpoint holds must not override that.
    evaluate = [a for a in arguments(toy, tmp_path, "more") if "last_checkpoint" not in a][1:]
    cli(["test", *evaluate, f"--ckpt_path={run / 'checkpoints' / 'best.ckpt'}", "--data.init_args.eval_num_frames=8"])
    assert read_protocol(tmp_path / "more")["eval_num_frames"] == 8
    cli(["predict", *evaluate, f"--ckpt_path={run / 'checkpoints' / 'best.ckpt'}"])
    rows = json.loads((tmp_path / "more" / "predictions.json").read_text())
    assert [row["question"] for row in rows] == [str(i) for i in range(12)]
    assert all(len(row["ensemble"]) == 5 for row in rows)
    right = [max(range(5), key=row["dual"].__getitem__) == row["answer"] for row in rows if row["types"] == 1]
    assert 100 * sum(right) / len(right) == pytest.approx(report["metrics"]["test/egomcq/dual/inter"])
    assert read_protocol(tmp_path / "more.1")["eval_num_frames"] == 8  # an evaluation does not write over another
    cli(arguments(toy, tmp_path, "run", "--trainer.max_epochs=1"))
    assert (tmp_path / "run.1" / "metrics.json").is_file()  # nor a run over an earlier one


def test_evaluation_of_weights_gives_the_numbers_of_the_run(toy: Path, tmp_path: Path) -> None:
    cli(arguments(toy, tmp_path, "run", "--trainer.max_epochs=1"))
    own = [a for a in arguments(toy, tmp_path, "evaluated") if "batches" not in a and "trainer.max" not in a][1:]
    own[0] = f"--config={ROOT / 'conf' / 'egomcq.yaml'}"
    weights = f"--model.init_args.weights={tmp_path / 'run' / 'checkpoints' / 'best.ckpt'}"
    cli(["test", *own, weights])
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text())["metrics"] for name in ("run", "evaluated")]
    names = [name for name in metrics[1] if name.startswith("test/")]
    assert len(names) == 7 + 2 * 5 and all(metrics[0][name] == metrics[1][name] for name in names)
    with pytest.raises(SystemExit, match="text_attends_to: previous in the file, current in your config"):
        cli(["test", *own, weights, "--model.init_args.backbone.text_attends_to=current"])


def test_a_run_without_a_checkpoint_does_not_resume(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no .*last.ckpt to go on from"):
        cli(arguments(toy, tmp_path, "new", "--ckpt_path=last"))


def test_two_processes_evaluate_every_question_once(toy: Path, tmp_path: Path) -> None:
    questions = json.loads((toy / "egomcq_test.json").read_text())
    (toy / "egomcq_odd.json").write_text(json.dumps(dict(list(questions.items())[:-1])))  # 11: a process has one less
    more = ("--trainer.max_epochs=1", "--data.init_args.mcq_test=egomcq_odd.json", "--data.init_args.eval_batch_size=2")
    assert start(arguments(toy, tmp_path, "two", *more, "--trainer.devices=2", "--trainer.strategy=ddp",
                           "--data.init_args.batch_size=2")).wait() == 0
    weights = tmp_path / "two" / "checkpoints" / "best.ckpt"
    one = [a for a in arguments(toy, tmp_path, "one", *more) if "last_checkpoint" not in a][1:]
    cli(["test", *one, f"--ckpt_path={weights}"])
    two, alone = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("two", "one"))
    assert two["protocol"]["devices"] == 2 and two["protocol"]["counts"]["train_clips"] == 4 * 2 * 4
    for name in (name for name in alone["metrics"] if name.startswith("test/")):
        assert two["metrics"][name] == pytest.approx(alone["metrics"][name]), name


def read_protocol(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())["protocol"]


def start(args: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "egovlpv2.cli", *args], env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_killed_and_resumed_run_repeats_the_uninterrupted_one(toy: Path, tmp_path: Path) -> None:
    every_third = "--last_checkpoint.every_n_train_steps=3"  # in mid-epoch
    assert start(arguments(toy, tmp_path, "whole", every_third)).wait() == 0
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    process = start(arguments(toy, tmp_path, "killed", every_third))
    while not last.exists():
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = torch.load(last, weights_only=True)["global_step"]
    assert done in (3, 6, 9)  # in mid-epoch: an epoch has 4 steps
    assert start(arguments(toy, tmp_path, "killed", every_third, "--ckpt_path=last")).wait() == 0
    for tag in ("train/loss", "train/ego_nce", "train/mlm", "train/vtm"):
        whole, resumed = (scalars(tmp_path / name, tag) for name in ("whole", "killed"))
        later = [step for step in whole if step >= done]
        assert len(whole) == 12 and len(later) >= 3
        assert [resumed[step] for step in later] == pytest.approx([whole[step] for step in later], abs=1e-6)

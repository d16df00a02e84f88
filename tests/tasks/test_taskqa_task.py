"""EgoTaskQA on the toy world: fine-tuned, head-tuned, tested again, on one process and on two."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import KINDS, ROOT, draw_parameters, run_on_two_processes
from small_tasks import answer_batch

from egovlpv2.checkpoints.head_weights import read_answer_head
from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.cli import main as cli
from egovlpv2.metrics.answers import AnswerAccuracy
from egovlpv2.model.backbone import Backbone
from egovlpv2.model.config import BackboneConfig
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.taskqa import TaskQA

FILES = ("taskqa", "model/tiny", "trainer/cpu", "toy/taskqa")
VIDEO = "--model.init_args.backbone.video."
SMALL = (f"{VIDEO}overrides={{img_size: 32, patch_size: 16, embed_dim: 24, depth: 2, num_heads: 2}}",
         "--model.init_args.backbone.text.arch.num_hidden_layers=2", "--data.init_args.size=32",
         "--data.init_args.num_frames=2", "--data.init_args.batch_size=2", "--data.init_args.eval_batch_size=2",
         "--data.init_args.num_workers=0")


def answers(toy: Path) -> list[str]:
    return (toy / "taskqa" / "qa" / "direct" / "answer_set.txt").read_text().split("\n")[:-1]


def arguments(command: str, toy: Path, runs: Path, name: str, *more: str) -> list[str]:
    train = ["--trainer.max_epochs=1", "--model.init_args.optimizer.warmup_epochs=0.2"] if command == "fit" else []
    return [
        command, *(f"--config={ROOT / 'conf' / f'{file}.yaml'}" for file in FILES), *SMALL,
        f"--model.init_args.num_answers={len(answers(toy))}", f"--trainer.logger.init_args.save_dir={runs}",
        f"--trainer.logger.init_args.name={name}", "--trainer.enable_progress_bar=false",
        "--precision=32", *train, *more,
    ]


def report(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


@pytest.fixture(autouse=True)
def toy_root(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGO_TOY", str(toy))


def test_fine_tuned_tested_again_and_asked(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli(arguments("fit", toy, tmp_path, "tuned"))
    tuned, best = report(tmp_path / "tuned"), tmp_path / "tuned" / "checkpoints" / "best.ckpt"
    assert tuned["protocol"]["tune"] == "all" and tuned["protocol"]["split"] == "direct"
    assert {"test/taskqa/all", "test/taskqa/open", "test/taskqa/binary", "test/taskqa/descriptive",
            "test/taskqa/indirect", "test/taskqa/most_frequent"} < tuned["metrics"].keys()

    weights = f"--model.init_args.weights={best}"
    cli(arguments("test", toy, tmp_path, "again", weights))
    again = report(tmp_path / "again")["metrics"]
    numbers = {name: value for name, value in again.items() if name.startswith("test/taskqa/")}
    assert numbers == {name: tuned["metrics"][name] for name in numbers}

    cli(arguments("predict", toy, tmp_path, "answers", weights))
    rows = json.loads((tmp_path / "answers" / "predictions.json").read_text())
    truth = {str(row["question_id"]): row for row in json.loads(
        (toy / "taskqa" / "qa" / "direct" / "formatted_test_qas_encode.json").read_text())}
    right = [truth[row["question_id"]]["answer"] == row["answers"][0] for row in rows]
    assert len(rows) == len(truth)
    assert 100 * sum(right) / len(right) == pytest.approx(again["test/taskqa/all"], abs=1e-3)

    row = rows[0]
    video = toy / "taskqa" / "qa_videos" / f"{truth[row['question_id']]['interval']}.mp4"
    capsys.readouterr()
    cli(["ask", str(video), "--question", truth[row["question_id"]]["question"], "--weights", str(best), "--device",
         "cpu"])
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [answer for _, answer in lines] == row["answers"]
    assert [float(value) for value, _ in lines] == pytest.approx(row["probabilities"], abs=2e-3)


def test_a_frozen_backbone_stays_as_it_is(toy: Path, tmp_path: Path) -> None:
    cli(arguments("fit", toy, tmp_path, "first", "--trainer.limit_train_batches=1"))
    best = tmp_path / "first" / "checkpoints" / "best.ckpt"
    cli(arguments("fit", toy, tmp_path, "head", f"--model.init_args.weights={best}", "--model.init_args.tune=head"))
    before, after = (torch.load(tmp_path / run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
                     for run in ("first", "head"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("answer_head.") for name in changed)
    head, facts = read_answer_head(best)
    assert facts["answers"] == answers(toy) and head.out.out_features == len(facts["answers"])


def test_weights_without_a_head_are_trained_not_tested(toy: Path, tmp_path: Path) -> None:
    cli(arguments("fit", toy, tmp_path, "run", "--trainer.limit_train_batches=1"))
    save_backbone(_task_of(tmp_path / "run" / "checkpoints" / "best.ckpt"), tmp_path / "plain.safetensors")
    weights = f"--model.init_args.weights={tmp_path / 'plain.safetensors'}"
    with pytest.raises(SystemExit, match="has no answer head: `make finetune-taskqa` trains one"):
        cli(arguments("test", toy, tmp_path, "test", weights))
    with pytest.raises(SystemExit, match="The answer set has .* answers, and the head 7: set model.init_args.num_answ"):
        cli(arguments("fit", toy, tmp_path, "wrong", weights, "--model.init_args.num_answers=7"))


def test_another_answer_set_is_refused(toy: Path, tmp_path: Path) -> None:
    cli(arguments("fit", toy, tmp_path, "run", "--trainer.limit_train_batches=1"))
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    file = torch.load(best, weights_only=True)
    there = file["egovlpv2"]["taskqa"]["answers"]
    there[1], there[2] = there[2], there[1]
    torch.save(file, best)
    problem = f"another answer set \\(line 2 was '{there[1]}' and is '{there[2]}'\\)"
    with pytest.raises(SystemExit, match=problem):
        cli(arguments("test", toy, tmp_path, "test", f"--model.init_args.weights={best}"))


def _task_of(path: Path) -> Backbone:
    from egovlpv2.checkpoints.weights import load_backbone

    return load_backbone(path, num_frames=2)


def test_two_processes_give_the_numbers_of_one(toy: Path, tmp_path: Path) -> None:
    cli(arguments("fit", toy, tmp_path, "run", "--trainer.limit_train_batches=2"))
    weights = f"--model.init_args.weights={tmp_path / 'run' / 'checkpoints' / 'best.ckpt'}"
    cli(arguments("test", toy, tmp_path, "one", weights))
    run_on_two_processes(arguments("test", toy, tmp_path, "two", weights))
    one, two = report(tmp_path / "one"), report(tmp_path / "two")
    assert two["protocol"]["devices"] == 2 and one["metrics"].keys() == two["metrics"].keys()
    for name, value in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(value, abs=1e-3), name


def make_task(config: BackboneConfig, **options: Any) -> TaskQA:
    torch.manual_seed(0)
    task = TaskQA(config, OptimizerConfig(), num_answers=5, **options)
    draw_parameters(task)
    return task


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize("fused", [1, 2, 3])
def test_questions_that_share_a_trunk_get_the_answers_of_each_alone(
        small_config: Callable[..., BackboneConfig], changes: dict[str, str], fused: int) -> None:
    task, batch = make_task(small_config(num_fused_layers=fused, **changes)).eval(), answer_batch()
    with torch.no_grad():
        together = task(batch)
        for i, video in enumerate(batch["of_video"].tolist()):
            words = {name: ids[i : i + 1] for name, ids in batch["text"].items()}
            frames = batch["video"][video : video + 1]
            top = task.backbone.top(task.backbone.trunk(frames, words, gate=True), frames.shape[1], True)  # all of it
            torch.testing.assert_close(together[i], task.answer_head(top.video[:, 0])[0], atol=1e-5, rtol=1e-4)
    assert together.std(0).min() > 1e-4


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize("fused", [1, 2])
def test_all_that_is_trainable_gets_a_gradient(small_config: Callable[..., BackboneConfig], changes: dict[str, str],
                                               fused: int) -> None:
    task = make_task(small_config(num_fused_layers=fused, **changes)).train()
    task(answer_batch()).square().sum().backward()
    trainable = {name for name, parameter in task.named_parameters() if parameter.requires_grad}
    without = {name for name, parameter in task.named_parameters() if parameter.requires_grad
               and parameter.grad is None}
    assert not without  # DDP would wait for them
    inside = "stack.video.0.cross.query.weight" if "fusion" in changes else "video_tower.blocks.2.fusion.alpha"
    assert {f"backbone.{inside}", "answer_head.out.weight"} < trainable


def test_a_frozen_backbone_has_no_dropout_and_no_gradient(small_config: Callable[..., BackboneConfig]) -> None:
    config = small_config()
    config.text.arch["hidden_dropout_prob"] = 0.5
    task = make_task(config, tune="head", dropout=0.0).train()
    first, second = task(answer_batch()), task(answer_batch())
    assert torch.equal(first, second) and task.answer_head.training
    first.sum().backward()
    assert all(parameter.grad is None for parameter in task.backbone.parameters())


def test_accuracy_by_kind() -> None:
    metric = AnswerAccuracy()
    right = torch.tensor([[1, 0], [0, 1], [1, 0]]).bool()
    kinds = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 0]]).bool()
    names = ["all", "open", "binary", "absent"]
    metric.update(torch.arange(2), right[:2], kinds[:2], names)
    metric.update(torch.arange(0), right[:0], kinds[:0], names)
    metric.update(torch.arange(2, 3), right[2:], kinds[2:], names)
    assert metric.compute() == pytest.approx({"all": 200 / 3, "open": 100, "binary": 50, "most_frequent": 100 / 3})

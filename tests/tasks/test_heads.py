"""NLQ and MQ from feature files to metrics, submissions and pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden.fill_state import fill_layout
from helpers import ROOT, run_on_two_processes
from lightning import LightningModule
from PIL import Image
from small_tasks import head_batch, small_head

from egovlpv2.cli import main as cli
from egovlpv2.features.files import FeatureWriter, read_features
from egovlpv2.features.header import Recipe
from egovlpv2.heads.moments import detections, retrievals
from egovlpv2.heads.vslnet import best_spans
from egovlpv2.metrics.temporal import moment_map, nlq_recall
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.mq import MQ
from egovlpv2.tasks.nlq import NLQ

GOLDEN = ROOT / "tests" / "golden"
WIDTH = 12
SMALL = {"nlq": ["--model.init_args.video_dim=12", "--model.init_args.query_dim=12", "--model.init_args.dim=16"],
         "mq": ["--model.init_args.in_dim=12", "--model.init_args.dim=32", "--data.init_args.num_steps=96"],
         "mq_actionformer": ["--model.init_args.in_dim=12", "--model.init_args.dim=32", "--data.init_args.num_steps=96",
                             "--model.init_args.num_levels=4"]}

OTHER_SETTINGS = {"nlq": {"num_heads=2": 4}, "mq": {"num_neighbours=3": 12},  # which no weights show, and those before
                  "mq_actionformer": {"window=3": 9, "num_heads=2": 4, "variant=opentad": "authors"}}


@pytest.fixture(scope="module")
def features(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Features of the toy world's long takes that tell of each noun when it is in use."""
    folders = {task: tmp_path_factory.mktemp(task) for task in ("nlq", "mq")}
    noise = torch.Generator().manual_seed(0)
    for split in ("train", "val", "test"):
        moments = json.loads((toy / "mq" / f"moments_{split}.json").read_text())["videos"]
        queries = json.loads((toy / "nlq" / f"nlq_{split}.json").read_text())["videos"]
        for video, asked in zip(moments, queries, strict=True):
            clip = video["clips"][0]
            count = int(clip["video_end_sec"] * 2)
            values = 0.1 * torch.randn(count, WIDTH, generator=noise)
            for row in clip["annotations"][0]["labels"]:
                span = slice(int(row["start_time"] * 2), int(row["end_time"] * 2) + 1)
                values[span, hash_of(row["label"])] += 1
            texts = [row["query"].lower() for row in asked["clips"][0]["annotations"][0]["language_queries"]]
            write(folders["mq"] / f"{video['video_uid']}.safetensors", "projected", values, clip["video_end_sec"], [])
            fused = values[:, None].repeat(1, len(texts), 1)
            write(folders["nlq"] / f"{video['video_uid']}.safetensors", "fused", fused, clip["video_end_sec"], texts)
    return folders


def hash_of(label: str) -> int:
    return sum(map(ord, label)) % WIDTH


def write(path: Path, kind: str, values: torch.Tensor, duration: float, queries: list[str], frames: int = 4) -> None:
    path.parent.mkdir(exist_ok=True)
    recipe = Recipe(kind, WIDTH, 10.0, 20, 5, frames, 32, "0" * 16)
    words = torch.randn(len(queries), 3, WIDTH) if queries else None
    mask = torch.ones(len(queries), 3, dtype=torch.bool) if queries else None
    with path.open("wb") as file:
        writer = FeatureWriter(file, recipe, duration, len(values), queries, words, mask)
        writer.append(values)
        writer.finish()


def arguments(command: str, task: str, toy: Path, features: Path, runs: Path, name: str, *more: str) -> list[str]:
    train, data = ["--trainer.max_epochs=2"] if command == "fit" else [], benchmark(task)
    return [
        command, *(f"--config={ROOT / 'conf' / f'{file}.yaml'}" for file in (task, "trainer/cpu", f"toy/{task}")),
        f"--data.init_args.root={toy / data}", f"--data.init_args.features={features}", *SMALL[task],
        f"--data.init_args.videos={toy / 'long' / 'videos'}", "--data.init_args.chunk_seconds=8",
        "--data.init_args.batch_size=2", "--data.init_args.eval_batch_size=3", "--precision=32",
        "--data.init_args.weights=null", "--trainer.enable_progress_bar=false",
        f"--trainer.logger.init_args.save_dir={runs}", f"--trainer.logger.init_args.name={name}", *train, *more,
    ]


def benchmark(task: str) -> str:
    """The benchmark of a configuration."""
    return task.partition("_")[0]


def report(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.parametrize("task", SMALL)
def test_a_head_is_trained_tested_shown_and_submitted(task: str, toy: Path, features: dict[str, Path], tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    cli(arguments("fit", task, toy, features[benchmark(task)], tmp_path, "tuned"))
    tuned, best = report(tmp_path / "tuned"), tmp_path / "tuned" / "checkpoints" / "best.ckpt"
    assert tuned["protocol"]["features_checkpoint"] == "0" * 16 and not tuned["protocol"]["shuffled"]
    images = b"".join(file.read_bytes() for file in (tmp_path / "tuned").glob("events*"))
    assert b"val/0" in images and b"PNG" in images  # TensorBoard has the pictures

    weights = f"--model.init_args.weights={best}"
    cli(arguments("test", task, toy, features[benchmark(task)], tmp_path, "again", weights))
    again = report(tmp_path / "again")["metrics"]
    numbers = {name: value for name, value in again.items() if name.startswith(f"test/{benchmark(task)}/")}
    assert numbers and numbers == {name: tuned["metrics"][name] for name in numbers}

    for path in features[benchmark(task)].iterdir():
        same = read_features(path)
        write(tmp_path / "other" / path.name, same.recipe.kind, same.values, same.duration, same.queries, frames=16)
    with pytest.raises(SystemExit, match=r"best.ckpt was trained on other features than .*other \(frames 4 and 16\)"):
        cli(arguments("test", task, toy, tmp_path / "other", tmp_path, "refused", weights,
                      "--data.init_args.recipe.frames=16"))

    with pytest.raises(SystemExit, match="the head was trained on other features than .*stride 5 and 10"):
        cli(arguments("test", task, toy, tmp_path / "never", tmp_path, "refused", weights,
                      "--data.init_args.recipe.stride=10", f"--data.init_args.weights={best}"))
    assert not (tmp_path / "never").exists()  # nothing was extracted for it
    for setting, trained in OTHER_SETTINGS[task].items():
        name = setting.partition("=")[0]
        with pytest.raises(SystemExit, match=f"best.ckpt was trained with {name}={trained}, and it is"):
            cli(arguments("test", task, toy, features[benchmark(task)], tmp_path, "refused", weights,
                          f"--model.init_args.{setting}"))

    cli(arguments("predict", task, toy, features[benchmark(task)], tmp_path, "answers", weights))
    submission = json.loads((tmp_path / "answers" / "predictions.json").read_text())
    assert submission["version"] == "1.0"
    check = {"nlq": check_nlq, "mq": check_mq}[benchmark(task)]
    check(submission, json.loads(next((toy / benchmark(task)).glob("*_test.json")).read_text()), again)

    capsys.readouterr()
    cli([f"show-{benchmark(task)}", str(tmp_path / "tuned"), "--row", "1", "--out", str(tmp_path / "one.png")])
    assert "written" in capsys.readouterr().out
    with Image.open(tmp_path / "one.png") as picture:
        colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
        assert picture.size[0] > 1000 and len(colours) > 500  # frames, not curves alone
    with pytest.raises(SystemExit, match="--row 999: the val split has rows 0 to"):
        cli([f"show-{benchmark(task)}", str(tmp_path / "tuned"), "--row", "999", "--out", str(tmp_path / "two.png")])
    assert not (tmp_path / "two.png").exists()


def check_nlq(submission: dict[str, Any], truth: dict[str, Any], metrics: dict[str, float]) -> None:
    assert submission["challenge"] == "ego4d_nlq_challenge"
    assert all(len(row["predicted_times"]) == 5 for row in submission["results"])
    recall, mean_iou = nlq_recall(submission["results"], truth, [0.3, 0.5], [1, 3, 5])
    for i, threshold in enumerate((0.3, 0.5)):
        for j, k in enumerate((1, 3, 5)):
            assert metrics[f"test/nlq/r{k}_iou{threshold}"] == pytest.approx(100 * recall[i][j], abs=1e-4)
    assert metrics["test/nlq/mean_iou"] == pytest.approx(100 * mean_iou, abs=1e-4)


def check_mq(submission: dict[str, Any], truth: dict[str, Any], metrics: dict[str, float]) -> None:
    assert submission["challenge"] == "ego4d_moment_queries"
    told = {clip["clip_uid"]: {"annotations": clip["annotations"][0]["labels"]}
            for video in truth["videos"] for clip in video["clips"]}
    assert set(submission["detect_results"]) == set(submission["retrieve_results"]) == set(told)
    for clip, rows in submission["retrieve_results"].items():
        assert {row["label"] for row in rows} == {row["label"] for row in told[clip]["annotations"]}
    tious = [0.1, 0.2, 0.3, 0.4, 0.5]
    for tiou, value in zip(tious, moment_map(submission["detect_results"], told, tious), strict=True):
        assert metrics[f"test/mq/map_{tiou}"] == pytest.approx(100 * value, abs=0.02)  # float32 times


@pytest.mark.parametrize("task", SMALL)
def test_two_processes_give_the_numbers_of_one(task: str, toy: Path, features: dict[str, Path], tmp_path: Path) -> None:
    cli(arguments("test", task, toy, features[benchmark(task)], tmp_path, "one"))
    run_on_two_processes(arguments("test", task, toy, features[benchmark(task)], tmp_path, "two"))
    one, two = report(tmp_path / "one"), report(tmp_path / "two")
    assert two["protocol"]["devices"] == 2 and one["metrics"].keys() == two["metrics"].keys()
    for name, value in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(value, abs=1e-3), name


def test_the_small_head_learns_too(toy: Path, features: dict[str, Path], tmp_path: Path) -> None:
    cli(arguments("fit", "nlq", toy, features["nlq"], tmp_path, "small", "--model.init_args.variant=small",
                  "--trainer.limit_train_batches=2"))
    assert report(tmp_path / "small")["protocol"]["variant"] == "small"


def test_the_released_recipe_picks_by_the_loss(toy: Path, features: dict[str, Path], tmp_path: Path) -> None:
    """And trains with Adam and a decay by steps."""
    cli(arguments("fit", "mq", toy, features["mq"], tmp_path, "theirs", f"--config={ROOT / 'conf/released/mq.yaml'}",
                  "--data.init_args.recipe.frame_rule=centre",
                  f"--data.init_args.root={toy / 'mq'}", "--trainer.max_epochs=2", "--trainer.limit_train_batches=2"))
    found = report(tmp_path / "theirs")
    assert found["protocol"]["picked_by"] == "loss"
    assert found["metrics"]["val/score"] == pytest.approx(-found["metrics"]["val/loss"])
    assert found["metrics"]["test/score"] == found["metrics"]["test/mq/map_avg"]


@pytest.mark.parametrize(("task", "option"), [("nlq", "video_dim"), ("mq", "in_dim")])
def test_features_of_another_width_are_named(task: str, option: str, toy: Path, features: dict[str, Path],
                                             tmp_path: Path) -> None:
    problem = f"features are 12 wide and the head takes 40: set model.init_args.{option}=12"
    with pytest.raises(SystemExit, match=problem):
        cli(arguments("fit", task, toy, features[task], tmp_path, "wrong", f"--model.init_args.{option}=40"))


def test_too_few_classes_are_named(toy: Path, features: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="list of classes has 25 labels, background included, and the head 2: set"):
        cli(arguments("fit", "mq", toy, features["mq"], tmp_path, "few", "--model.init_args.num_classes=2"))


def test_released_heads_are_taken(tmp_path: Path) -> None:
    for task, name, make in ((NLQ, "vslnet", lambda w: NLQ(OptimizerConfig(), weights=w)),
                             (MQ, "vsgn", lambda w: MQ(OptimizerConfig(), in_dim=64, weights=w))):
        state = fill_layout(json.loads((GOLDEN / f"{name}_state_layout.json").read_text()))
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / f"{name}.pth")
        assert isinstance(make(str(tmp_path / f"{name}.pth")), task)
    with pytest.raises(ValueError, match="vslnet.pth does not fit the head"):
        MQ(OptimizerConfig(), in_dim=64, weights=str(tmp_path / "vslnet.pth"))
    (tmp_path / "broken.ckpt").write_bytes(b"no weights")
    for name, problem in (("broken.ckpt", "not a readable weights file"), ("none.ckpt", "missing: give a weights")):
        with pytest.raises(ValueError, match=problem):
            NLQ(OptimizerConfig(), weights=str(tmp_path / name))


def test_answers_do_not_depend_on_the_batch(toy: Path, features: dict[str, Path], tmp_path: Path) -> None:
    for size in (1, 3):
        option = f"--data.init_args.eval_batch_size={size}"
        cli(arguments("test", "nlq", toy, features["nlq"], tmp_path, str(size), option))
    assert report(tmp_path / "1")["metrics"] == pytest.approx(report(tmp_path / "3")["metrics"], abs=1e-4)


def test_detections_in_bfloat16_and_of_a_class_with_one_candidate() -> None:
    segments = torch.tensor([[0.0, 4], [6, 9], [4, 6]])
    scores = torch.tensor([[0.5, 0.0], [0.25, 0.0], [0.0, 0.125]], dtype=torch.bfloat16)
    found = detections(segments.bfloat16(), scores)
    assert found.classes.tolist() == [1, 1, 2] and found.scores.tolist() == [0.5, 0.25, 0.125]
    assert found.segments.tolist() == [[0, 4], [6, 9], [4, 6]]  # nothing that stands apart is lost
    assert len(detections(segments, torch.zeros(3, 2)).scores) == 0
    assert retrievals(segments, scores, torch.tensor([2])).segments.tolist() == [[4, 6]]


@pytest.mark.parametrize("task, variant", [("mq", ""), ("nlq", "vslnet"), ("nlq", "small")])
def test_heads_learn_in_float32_whatever_the_trainers_precision(task: str, variant: str,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LightningModule, "log", lambda *_, **__: None)
    monkeypatch.setattr(LightningModule, "log_dict", lambda *_, **__: None)
    batch, found = head_batch(task), []
    for mixed in (False, True):
        head = small_head(task, **({"variant": variant} if variant else {}))
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):  # as Lightning's bf16-mixed
            loss = head.training_step(batch, 0)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in head.parameters() if p.grad is not None)])
    assert found[0][0].dtype == torch.float32 and len(found[0]) > 10
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@torch.no_grad()
def test_the_loss_of_moments_is_a_weighted_sum_and_validation_logs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, Any] = {}
    monkeypatch.setattr(LightningModule, "log", lambda _, name, value, **__: logged.update({name: value}))
    monkeypatch.setattr(LightningModule, "log_dict", lambda _, values, **__: logged.update(values))
    batch, curves = head_batch("mq"), ("actionness", "startness", "endness")
    for options, weights in (({}, (1, 1, 1, 0.2)),
                             ({"class_weight": 2.0, "segment_weight": 3.0, "boundary_weight": 0.0, "curve_weight": 1.0},
                              (2, 3, 0, 1))):
        head = small_head("mq", **options)
        head.training_step(batch, 0)
        parts = [logged[f"train/{name}"] for name in ("class", "segment", "boundary")]
        parts.append(sum(logged[f"train/{name}"] for name in curves))
        total = sum(weight * part for weight, part in zip(weights, parts, strict=True))
        torch.testing.assert_close(logged["train/loss"], total)
        head.eval().validation_step(batch, 0)
        head.on_validation_epoch_end()
        torch.testing.assert_close(logged["val/loss"], total)
        assert logged["val/score"] == logged["val/mq/map_avg"]


@torch.no_grad()
def test_the_loss_of_a_validation_is_the_mean_over_clips_and_may_pick(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, Any] = {}
    monkeypatch.setattr(LightningModule, "log", lambda _, name, value, **__: logged.update({name: value}))
    monkeypatch.setattr(LightningModule, "log_dict", lambda *_, **__: None)
    head, both = small_head("mq", picked_by="loss").eval(), head_batch("mq")
    one = {name: value[:1] if name != "labels" else value for name, value in both.items()}
    for batch in (both, one | {"index": torch.tensor([2])}, both | {"key": []}):
        head.validation_step(batch, 0)
    head.on_validation_epoch_end()
    parts = [head.losses(head(batch), batch)["loss"] for batch in (both, one)]
    torch.testing.assert_close(logged["val/loss"], (2 * parts[0] + parts[1]) / 3)
    assert logged["val/score"] == -logged["val/loss"]


@torch.no_grad()
def test_labels_end_in_a_clips_last_step() -> None:
    head, batch = small_head("mq"), head_batch("mq")
    later = batch | {"segments": batch["segments"] + torch.tensor([[[0.0, 0], [0, 5]], [[0, 0], [0, 0]]])}
    ended = batch | {"segments": batch["segments"].clamp(max=31)}
    losses = [head.losses(head(one), one)["loss"] for one in (batch, later, ended)]
    assert losses[0] == losses[1] == losses[2]


def test_short_clips_have_five_windows_too() -> None:
    logits = torch.tensor([[1.0, 2.0, -3e38]])
    first, last = best_spans(logits, logits)
    assert list(zip(first[0].tolist(), last[0].tolist(), strict=True)) == [(1, 1), (0, 1), (0, 0), (1, 1), (1, 1)]
    assert best_spans(logits[:, :1], logits[:, :1])[0].shape == (1, 5)


def test_metrics_of_perfect_moments() -> None:
    from egovlpv2.metrics.moments import MomentDetection, WindowRecall

    moments = MomentDetection()
    rows = torch.tensor([[0.0, 1, 2, 9, 1.0], [0, 2, 5, 6, 1.0], [1, 1, 0, 4, 1.0]])
    moments.update(rows[:2], rows[:2], rows[:2])
    moments.update(rows[2:], rows[2:], rows[2:])
    assert set(moments.compute().values()) == {100.0}
    recall = WindowRecall()
    window = torch.tensor([[1.0, 3], [4, 4]])
    recall.update(torch.arange(2), window[:, None].repeat(1, 5, 1), window)
    scores = recall.compute()
    assert scores["r1_iou0.3"] == scores["mean_iou"] == 50  # a window without length is never hit
    assert not np.isnan(list(scores.values())).any()

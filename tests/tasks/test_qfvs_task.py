"""QFVS on the toy world's annotations: from trunks to summaries, on one process and on two."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT, run_on_two_processes

from egovlpv2.checkpoints.head_weights import read_summary_head
from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.cli import main as cli
from egovlpv2.data_modules.qfvs import QFVSDataModule
from egovlpv2.features.files import FeatureWriter
from egovlpv2.features.header import Recipe
from egovlpv2.metrics.summary import semantic_f1
from egovlpv2.model.backbone import Backbone
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.qfvs import QFVS

WIDTH, NAMES = 26, ("P01", "P02", "P03", "P04")
NEXT = {"P01": "P02", "P02": "P03", "P03": "P04", "P04": "P01"}


def tags_of(toy: Path, video: str) -> np.ndarray:
    folder = toy / "qfvs" / "Dense_per_shot_tags"
    words = [line.strip("'") for line in (folder / "Dictionary.txt").read_text().splitlines()]
    shots = (folder / video / f"{video}.txt").read_text().splitlines()
    return np.array([[word in shot.split(",") for word in words] for shot in shots], dtype=float)


@pytest.fixture(scope="module")
def features(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features that tell of each shot whether it shows what the prompt names."""
    folder = tmp_path_factory.mktemp("qfvs")
    data = QFVSDataModule(str(toy / "qfvs"), str(folder), templates=[("#C C {}", "#C C {} and {}")])
    words = (toy / "qfvs" / "Dense_per_shot_tags" / "Dictionary.txt").read_text().replace("'", "").splitlines()
    noise = torch.Generator().manual_seed(0)
    for video, prompts in data.prompts().items():
        tags = torch.from_numpy(tags_of(toy, video)).float()
        values = 0.1 * torch.randn(len(tags), len(prompts), WIDTH, generator=noise)
        for i, prompt in enumerate(prompts):
            named = [words.index(word) for word in prompt.split() if word in words]
            values[:, i, 0] += tags[:, named].sum(1)
        recipe = Recipe("transformed", WIDTH, 1.0, 5, 5, 5, 32, "0" * 16)
        with (folder / f"{video}.safetensors").open("wb") as file:
            writer = FeatureWriter(file, recipe, 5.0 * len(tags), len(tags), prompts, torch.zeros(len(prompts), 2, 4),
                                   torch.ones(len(prompts), 2, dtype=torch.bool), keeps_unfused=True, keeps_cls=True)
            writer.append(values)
            writer.finish(*torch.randn(2, len(tags), WIDTH, generator=noise))
    return folder


def arguments(command: str, toy: Path, features: Path, runs: Path, name: str, *more: str) -> list[str]:
    return [
        command, *(f"--config={ROOT / 'conf' / f'{file}.yaml'}" for file in ("qfvs", "trainer/cpu", "toy/qfvs")),
        f"--data.init_args.root={toy / 'qfvs'}", f"--data.init_args.features={features}",
        "--data.init_args.weights=null",
        f"--model.init_args.dim={WIDTH}", "--model.init_args.share=0.25", "--data.init_args.batch_size=1",
        f"--trainer.logger.init_args.save_dir={runs}", f"--trainer.logger.init_args.name={name}",
        "--trainer.enable_progress_bar=false", "--precision=32",
        *(["--trainer.max_epochs=6", "--model.init_args.optimizer.lr=0.01"] if command == "fit" else []), *more,
    ]


def report(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def test_four_heads_are_trained_and_collected(toy: Path, features: Path, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for video in NAMES:
        cli(arguments("fit", toy, features, tmp_path, video, f"--data.init_args.test_video={video}"))
        protocol = report(tmp_path / video)["protocol"]
        assert protocol["test_videos"] == [video] and protocol["val_videos"] == [NEXT[video]]
        assert sorted(protocol["train_videos"]) == sorted(set(NAMES) - {video, NEXT[video]})
        assert protocol["selection"] == "on another video"
        found.append(report(tmp_path / video)["metrics"])
    capsys.readouterr()
    cli(["collect", *(str(tmp_path / video) for video in NAMES), "--metrics", "/qfvs/", "--out",
         str(tmp_path / "all.json")])
    assert "mean" in capsys.readouterr().out
    mean = json.loads((tmp_path / "all.json").read_text())["mean"]
    for name in ("test/qfvs/f1", "test/qfvs/random_f1"):
        assert mean[name] == pytest.approx(np.mean([metrics[name] for metrics in found]))
    assert mean["test/qfvs/f1"] > 1.3 * mean["test/qfvs/random_f1"]


def test_tested_again_and_predicted(toy: Path, features: Path, tmp_path: Path) -> None:
    cli(arguments("fit", toy, features, tmp_path, "tuned"))
    best = tmp_path / "tuned" / "checkpoints" / "best.ckpt"
    weights = f"--model.init_args.weights={best}"
    cli(arguments("test", toy, features, tmp_path, "again", weights))
    tuned, again = (report(tmp_path / run)["metrics"] for run in ("tuned", "again"))
    numbers = {name: value for name, value in again.items() if name.startswith("test/qfvs/")}
    assert numbers and numbers == {name: tuned[name] for name in numbers}

    cli(arguments("predict", toy, features, tmp_path, "summaries", weights))
    scores = []
    for row in json.loads((tmp_path / "summaries" / "predictions.json").read_text()):
        video, first, second = row["query"].split()
        oracle = (toy / "qfvs" / "Oracle_Summaries" / video / f"{first}_{second}_oracle.txt").read_text().split()
        tags = tags_of(toy, video)
        assert len(row["scores"]) == len(tags) and len(row["shots"]) == max(1, round(0.25 * len(tags)))
        scores.append(semantic_f1(tags, np.array(row["shots"]) - 1, np.array(oracle, dtype=int) - 1))
    for name, value in zip(("precision", "recall", "f1"), 100 * np.mean(scores, 0), strict=True):
        assert again[f"test/qfvs/{name}"] == pytest.approx(value, abs=1e-3)

    _, facts = read_summary_head(best)
    assert facts == {"dim": WIDTH, "num_layers": 1, "num_heads": 2, "design": "paper", "kind": "transformed",
                     "checkpoint": "0" * 16, "cut_by": "patches", "max_segments": 20, "max_segment_shots": 200,
                     "vmax": 1.0}


def test_the_authors_way_picks_on_the_test_video(toy: Path, features: Path, tmp_path: Path) -> None:
    cli(arguments("fit", toy, features, tmp_path, "theirs", "--data.init_args.validate_on=test"))
    theirs = report(tmp_path / "theirs")
    assert theirs["protocol"]["val_videos"] == theirs["protocol"]["test_videos"] == ["P01"]
    assert len(theirs["protocol"]["train_videos"]) == 3 and "authors" in theirs["protocol"]["selection"]
    assert not [name for name in theirs["metrics"] if name.startswith("test/")]


def test_the_released_head_is_trained_and_read_again(toy: Path, features: Path, tmp_path: Path) -> None:
    more = [f"--config={ROOT / 'conf/released/qfvs.yaml'}", f"--config={ROOT / 'conf/toy/qfvs.yaml'}",
            f"--data.init_args.root={toy / 'qfvs'}", f"--model.init_args.dim={WIDTH}",
            "--model.init_args.optimizer.lr=0.001", "--trainer.max_epochs=2"]
    cli(arguments("fit", toy, features, tmp_path, "theirs", *more))
    protocol = report(tmp_path / "theirs")["protocol"]
    assert (protocol["design"], protocol["round_down"], protocol["selection"]) == (
        "released", True, "on the test video (the authors' way)")
    best = tmp_path / "theirs" / "checkpoints" / "best.ckpt"
    head, facts = read_summary_head(best)
    assert facts["design"] == head.design == "released" and len(head.encoder.layers) == 2
    cli(arguments("test", toy, features, tmp_path, "again", *more[:-1], f"--model.init_args.weights={best}"))
    with pytest.raises(SystemExit, match="was trained with design=released: set model.init_args.design to it"):
        cli(arguments("test", toy, features, tmp_path, "paper", f"--model.init_args.weights={best}",
                      "--model.init_args.num_layers=2"))


def test_two_processes_give_the_numbers_of_one(toy: Path, features: Path, tmp_path: Path) -> None:
    cli(arguments("test", toy, features, tmp_path, "one"))
    run_on_two_processes(arguments("test", toy, features, tmp_path, "two"))
    one, two = report(tmp_path / "one"), report(tmp_path / "two")
    assert two["protocol"]["devices"] == 2 and one["metrics"].keys() == two["metrics"].keys()
    for name, value in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(value, abs=1e-3), name


def test_from_the_toy_videos_to_a_head(toy: Path, make_backbone: Callable[..., Backbone], tmp_path: Path) -> None:
    save_backbone(make_backbone(tokenizer=str(toy / "tokenizer")), tmp_path / "weights.safetensors")
    more = [f"--data.init_args.video_folder={toy / 'qfvs' / 'videos'}", "--data.init_args.chunk_seconds=8",
            f"--data.init_args.weights={tmp_path / 'weights.safetensors'}", "--model.init_args.dim=24",
            "--trainer.max_epochs=1", "--model.init_args.optimizer.warmup_epochs=0"]
    cli(arguments("fit", toy, tmp_path / "fused", tmp_path, "run", *more))
    assert report(tmp_path / "run")["protocol"]["kind"] == "transformed"
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("fused*/*.safetensors")}
    assert {path.parent.name for path in written} == {"fused", "fused-trunk"}
    (tmp_path / "weights.safetensors").unlink()  # what is there stays
    cli(arguments("fit", toy, tmp_path / "fused", tmp_path, "again", *more))
    assert written == {path: path.stat().st_mtime_ns for path in written}


def test_features_and_sizes_that_a_head_was_not_trained_on_are_named(toy: Path, features: Path, tmp_path: Path
                                                                      ) -> None:
    cli(arguments("fit", toy, features, tmp_path, "run", "--trainer.max_epochs=1",
                  "--model.init_args.optimizer.warmup_epochs=0"))
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    weights = f"--model.init_args.weights={best}"
    with pytest.raises(SystemExit, match="was trained with num_heads=2: set model.init_args.num_heads to it"):
        cli(arguments("test", toy, features, tmp_path, "heads", weights, "--model.init_args.num_heads=13"))
    file = torch.load(best, weights_only=True)
    file["egovlpv2"]["qfvs"]["checkpoint"] = "1" * 16
    torch.save(file, best)
    with pytest.raises(SystemExit, match="was trained on features of checkpoint 1+, and these are of checkpoint 0+"):
        cli(arguments("test", toy, features, tmp_path, "features", weights))


def test_mistakes_are_named(toy: Path, features: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="features are 26 wide and the head takes 40: set model.init_args.dim=26"):
        cli(arguments("fit", toy, features, tmp_path, "wrong", "--model.init_args.dim=40"))
    with pytest.raises(ValueError, match="model.init_args.share=0: give a share of the shots"):
        QFVS(OptimizerConfig(), share=0)

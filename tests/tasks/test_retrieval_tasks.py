"""CharadesEgo and EPIC-Kitchens-100 from files to metrics, zero-shot and fine-tuned, on one process and on two."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden.fill_state import fill
from helpers import ROOT, draw_parameters, make_clips, make_config, make_text, run_on_two_processes
from small_tasks import inputs_of

from egovlpv2.checkpoints.weights import read_weights, save_backbone
from egovlpv2.cli import main as cli
from egovlpv2.model.backbone import Backbone
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.charades_ego import CharadesEgo
from egovlpv2.tasks.ek100 import EK100
from egovlpv2.tasks.retrieval import Retrieval

GOLDEN = ROOT / "tests" / "golden"
TASKS = {"ek100": EK100, "charades_ego": CharadesEgo}
BACKBONE = {"video.overrides": "{img_size: 32, patch_size: 16, embed_dim: 24, depth: 3, num_heads: 2}",
            "text.arch": "{model_type: roberta, vocab_size: 600, hidden_size: 32, num_hidden_layers: 3, "
                         "num_attention_heads: 4, intermediate_size: 48, max_position_embeddings: 40, "
                         "type_vocab_size: 1, layer_norm_eps: 1.0e-12}",
            "num_fused_layers": "2", "projector": "[16]", "text_attends_to": "current"}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    backbone = Backbone(make_config(projector=[16]))
    draw_parameters(backbone)
    save_backbone(backbone, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def arguments(command: str, task: str, toy: Path, runs: Path, name: str, weights: Path, *more: str) -> list[str]:
    files = (task, "model/tiny", "trainer/cpu", f"toy/{task}")
    train = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=3"] if command == "fit" else []
    return [
        command, *(f"--config={ROOT / 'conf' / f'{file}.yaml'}" for file in files),
        *(f"--model.init_args.backbone.{key}={value}" for key, value in BACKBONE.items()),
        f"--model.init_args.backbone.text.tokenizer={toy / 'tokenizer'}", f"--model.init_args.weights={weights}",
        f"--data.init_args.root={toy / task}", "--data.init_args.size=32", "--data.init_args.batch_size=4",
        "--data.init_args.eval_batch_size=3", "--data.init_args.num_workers=0", "--precision=32",
        "--trainer.enable_progress_bar=false",
        f"--trainer.logger.init_args.save_dir={runs}", f"--trainer.logger.init_args.name={name}", *train, *more,
    ]


def report(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.parametrize("task", TASKS)
def test_fine_tuning_tests_the_best_checkpoint(task: str, toy: Path, tmp_path: Path, weights: Path) -> None:
    cli(arguments("fit", task, toy, tmp_path, "tuned", weights))
    tuned, best = report(tmp_path / "tuned"), tmp_path / "tuned" / "checkpoints" / "best.ckpt"
    first, last = read_weights(weights)[1], read_weights(best)[1]
    for name, value in first.items():  # what the closed gate doesn't use is as it was, all else has learned
        fused = ".fusion." in name or name.startswith(("fused_", "match_head", "masked_word_head"))
        assert torch.equal(value, last[name]) == fused or "word_embeddings" in name, name
    assert tuned["protocol"]["objective" if task == "ek100" else "positives"] in ("adaptive_max_margin", "class")
    for split in ("val", "test"):
        assert f"{split}/{task}/chance/{'map' if task == 'charades_ego' else 'map_avg'}" in tuned["metrics"]
    cli(arguments("test", task, toy, tmp_path, "again", best))
    again = report(tmp_path / "again")["metrics"]
    assert again == {name: tuned["metrics"][name] for name in again} and len(again) > 2


@pytest.mark.parametrize("kind", [*TASKS.values()])
def test_a_last_batch_of_one_clip_teaches_nothing_and_a_first_one_is_refused(kind: type[Retrieval]) -> None:
    task = kind(make_config(projector=[16]), OptimizerConfig()).train()
    task.log = lambda *args, **kwargs: None
    text = {name: ids[:, :5] for name, ids in make_text(1).items()}  # of words alone
    batch = {"video": make_clips(1)["video"], "text": text, "target": torch.tensor([2]),
             "relevancy": torch.tensor([[0.0, 0.2, 1.0]])}
    loss = task.training_step(batch, 3)
    loss.backward()
    assert loss == 0 and all(not p.grad.any() for p in task.parameters() if p.grad is not None)
    with pytest.raises(ValueError, match="one clip has nothing to compare it with: raise data.init_args.batch_size"):
        task.training_step(batch, 0)


def odd_test_file(folder: Path, task: str) -> str:
    """The name of a test file with an odd number of rows, beside the official one."""
    official = {"ek100": "EPIC_100_retrieval_test.csv", "charades_ego": "CharadesEgo_v1_test_only1st.csv"}[task]
    header, *rows = (folder / official).read_text().splitlines()
    (folder / "odd.csv").write_text("\n".join([header, *rows[: len(rows) - 1 + len(rows) % 2]]) + "\n")
    return "odd.csv"


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_give_the_numbers_of_one(task: str, toy: Path, tmp_path: Path, weights: Path) -> None:
    options = ["--model.init_args.rerank=2", "--model.init_args.dual_softmax=0.1", "--data.init_args.eval_num_frames=2",
               f"--data.init_args.test={odd_test_file(toy / task, task)}"]
    options += ["--data.init_args.test_sentences=null"] if task == "ek100" else []
    cli(arguments("test", task, toy, tmp_path, "one", weights, *options))
    run_on_two_processes(arguments("test", task, toy, tmp_path, "two", weights, *options))
    one, two = report(tmp_path / "one"), report(tmp_path / "two")
    assert two["protocol"]["devices"] == 2
    assert one["protocol"]["counts"]["clips" if task == "ek100" else "videos"] % 2  # a process has one row less
    assert {name.split("/")[2] for name in one["metrics"] if task in name} >= {"chance", "dual", "fusion", "ensemble"}
    assert one["metrics"].keys() == two["metrics"].keys()
    for name, value in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(value, abs=1e-4), name


def test_missing_videos_are_left_out_and_counted(toy: Path, tmp_path: Path, weights: Path) -> None:
    (tmp_path / "ek100").mkdir()
    for file in (toy / "ek100").glob("*.csv"):
        (tmp_path / "ek100" / file.name).write_bytes(file.read_bytes())
    for video in (toy / "ek100" / "videos").rglob("*.MP4"):
        link = tmp_path / "ek100" / "videos" / video.parent.name / video.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(video.resolve())
    link.unlink()
    args = arguments("test", "ek100", toy, tmp_path, "run", weights, f"--data.init_args.root={tmp_path / 'ek100'}")
    rows = (tmp_path / "ek100" / "EPIC_100_retrieval_test.csv").read_text().count(f",{link.stem},")
    if not rows:  # the last of all videos may be one to train on
        link = next((tmp_path / "ek100" / "videos" / "P13").glob("*.MP4"))
        link.unlink()
        rows = (tmp_path / "ek100" / "EPIC_100_retrieval_test.csv").read_text().count(f",{link.stem},")
    with pytest.raises(SystemExit, match=f"clips could not be read, more than max_failed_share.*{link.name}"):
        cli(args)
    cli([*args, "--data.init_args.max_failed_share=0.9"])
    found = report(tmp_path / "run")
    assert found["protocol"]["counts"]["skipped_clips"] == rows > 0
    assert found["metrics"]["test/ek100/texts_without_clip"] > 0 and found["metrics"]["test/ek100/dual/map_avg"] > 0


def test_predictions_name_the_texts_that_fit_best(toy: Path, tmp_path: Path, weights: Path) -> None:
    cli(arguments("predict", "charades_ego", toy, tmp_path, "run", weights))
    rows = json.loads((tmp_path / "run" / "predictions.json").read_text())
    lines = (toy / "charades_ego" / "CharadesEgo_v1_test_only1st.csv").read_text().splitlines()[1:]
    assert [row["clip"] for row in rows] == [line.split(",")[0] for line in lines]
    assert all(len(set(row["texts"])) == 10 and row["scores"] == sorted(row["scores"], reverse=True) for row in rows)


def make_task(kind: type[Retrieval], **options: Any) -> Retrieval:
    torch.manual_seed(0)
    config = make_config(**{name: options.pop(name) for name in ("fusion_cls",) if name in options})
    task = kind(config, OptimizerConfig(), **options).eval()
    draw_parameters(task)
    return task


@pytest.mark.parametrize("fusion_cls", ["shared", "own"])
def test_reranking_is_the_backbones_own_match(fusion_cls: str) -> None:
    task, video, text = make_task(EK100, rerank=2, fusion_cls=fusion_cls), make_clips(3)["video"], make_text(5)
    with torch.no_grad():
        task._texts = [task._encode({k: v[rows] for k, v in text.items()}) for rows in (slice(0, 3), slice(3, 5))]
        dual, match = task._compare(video)
        embeds = task.backbone.embed_video(video), task.backbone.embed_text(text)
        torch.testing.assert_close(dual, torch.cosine_similarity(embeds[0][:, None], embeds[1][None], dim=-1))
        assert (~match.isnan()).sum(1).tolist() == [2, 2, 2]
        for clip, best in enumerate(dual.topk(2).indices):
            texts = {k: v[best] for k, v in text.items()}
            alone = task.backbone.vtm_logits(video[[clip, clip]], texts).softmax(-1)[:, 1]
            torch.testing.assert_close(match[clip, best], alone)
    assert task.protocol["rerank_pairs"] == 6


@pytest.mark.parametrize("match_weight", [0.0, 0.5])
@pytest.mark.parametrize("task", TASKS)
def test_every_trainable_parameter_has_a_gradient(task: str, match_weight: float) -> None:
    """DDP waits for all gradients; parameters that only the open gate uses are frozen, unless pairs are matched too."""
    module, clips = make_task(TASKS[task], fusion_cls="own", match_weight=match_weight).train(), make_clips(4)
    module.log = lambda *args, **kwargs: None
    batch = {"video": clips["video"], "text": clips["text"], "target": torch.arange(4), "relevancy": torch.eye(4)}
    module.training_step(batch, 0).backward()
    for name, parameter in module.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        fused = ".fusion." in name or "fused_" in name or "match_head" in name
        frozen = "masked_word_head" in name or (fused and not match_weight)
        assert parameter.requires_grad != frozen, name


def test_matching_learns_the_relevancy_of_pairs() -> None:
    task, clips = make_task(EK100, match_weight=1.0, negative_temperature=1.0), make_clips(6)
    for parameter in inputs_of(task):
        parameter.data *= 8  # else the biases make all states nearly the same
    task.log = lambda *args, **kwargs: None
    relevancy = torch.eye(6)
    relevancy[0, 1] = relevancy[1, 0] = 1.0  # these two show the same
    batch = {"video": clips["video"], "text": clips["text"], "target": torch.arange(6), "relevancy": relevancy}
    optimizer = torch.optim.AdamW((p for p in task.parameters() if p.requires_grad), lr=1e-3)
    for step in range(120):
        loss = task.training_step(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        pairs = [(i, j) for i in range(6) for j in range(6)]
        texts = {name: ids[[j for _, j in pairs]] for name, ids in clips["text"].items()}
        logits = task.backbone.vtm_logits(clips["video"][[i for i, _ in pairs]], texts)
    match = logits.softmax(-1)[:, 1].view(6, 6)
    assert match[relevancy == 0].max() < 0.2 and match.diagonal().min() > 0.8


@pytest.mark.parametrize("objective", ["adaptive_max_margin", "max_margin", "symmetric_multi_similarity"])
def test_a_batch_can_be_learned(objective: str) -> None:
    task, clips = make_task(EK100, objective=objective), make_clips(6)
    task.log = lambda *args, **kwargs: None
    relevancy = torch.eye(6).clamp(min=0.25)
    batch = {"video": clips["video"], "text": clips["text"], "target": torch.arange(6), "relevancy": relevancy}
    optimizer = torch.optim.AdamW((p for p in task.parameters() if p.requires_grad), lr=1e-3)
    losses = []
    for _ in range(40):
        losses.append(task.training_step(batch, 0))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(("options", "problem"), [
    ({"rerank": -1}, "rerank=-1 must be at least 0 and dual_softmax=None above 0"),
    ({"dual_softmax": 0.0}, "rerank=0 must be at least 0 and dual_softmax=0.0 above 0"),
    ({"rerank_weight": 0.0}, "rerank_weight=0.0 and negative_temperature=0.05 must be above 0"),
    ({"negative_temperature": 0.0}, "negative_temperature=0.0 must be above 0 and match_weight=0.0 at least 0"),
    ({"match_weight": -0.5}, "match_weight=-0.5 at least 0")])
def test_bad_options_are_named(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make_task(EK100, **options)


def released_small() -> dict[str, torch.Tensor]:
    """A released fine-tuned checkpoint in small: the authors' keys, width 64 instead of 768, the small projector."""
    sizes = {768: 64, 2304: 192, 3072: 256, 1536: 128, 50265: 600, 514: 40, 197: 5}
    layout = json.loads((GOLDEN / "egovlpv2_state_layout.json").read_text())
    state = {key: fill(key, tuple(sizes.get(n, n) for n in shape)) for key, shape in layout.items()
             if not key.startswith(("vid_proj", "txt_proj"))}
    for key in ("vid_proj.0", "txt_proj.1"):
        state |= {f"{key}.weight": fill(f"{key}.weight", (256, 64)), f"{key}.bias": fill(f"{key}.bias", (256,))}
    return {f"module.{key}": value for key, value in state.items()}


def test_a_released_fine_tuned_checkpoint_is_evaluated(toy: Path, tmp_path: Path) -> None:
    torch.save({"arch": "FrozenInTime", "epoch": 99, "state_dict": released_small()}, tmp_path / "tuned.pth")
    cli(["convert", str(tmp_path / "tuned.pth"), str(tmp_path / "tuned.safetensors")])
    numbers = []
    for name in ("tuned.pth", "tuned.safetensors"):
        more = ("model/base", "trainer/cpu", "toy/ek100", "released/ek100")
        args = arguments("test", "ek100", toy, tmp_path / "runs", name, tmp_path / name)
        args[1:5] = [f"--config={ROOT / 'conf' / f'{file}.yaml'}" for file in ("ek100", *more)]
        args = [arg for arg in args if not any(f"backbone.{key}=" in arg for key in BACKBONE)]
        arch = ("{model_type: roberta, vocab_size: 600, hidden_size: 64, num_hidden_layers: 12, num_attention_heads: 1,"
                " intermediate_size: 256, max_position_embeddings: 40, type_vocab_size: 1, layer_norm_eps: 1.0e-5}")
        cli([*args, f"--model.init_args.backbone.text.arch={arch}", "--model.init_args.backbone.video.init=null",
             "--model.init_args.backbone.text.init=null", "--data.init_args.val=EPIC_100_retrieval_val.csv",
             "--model.init_args.backbone.video.overrides={img_size: 32, patch_size: 16, embed_dim: 64, depth: 12, "
             "num_heads: 1}", "--model.init_args.rerank=2"])
        numbers.append(report(tmp_path / "runs" / name)["metrics"])
    assert numbers[0] == numbers[1] and "test/ek100/ensemble/ndcg_avg" in numbers[0]

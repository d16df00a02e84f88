"""Every YAML in conf/ is parsed against the code."""

import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from slurm_scripts import command_of
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from egovlpv2.analysis.complexity import read_model_config
from egovlpv2.cli import main as cli

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
TRAINERS = ("cpu", "cpu_nodes", "gpu", "a100x8", "a100x32")
MODELS, DATA = ("tiny", "tiny_minilm", "small", "base"), ("toy", "egoclip")
NEIGHBOURS = ("egovlp", "lavila", "avion")
TUNED = ("ek100", "charades_ego", "taskqa")
HEADS = ("nlq", "mq", "qfvs")
ORDERS = ("forward", "backward", "shuffled", "frozen")
ABLATIONS = sorted(str(path.relative_to(CONF).with_suffix("")) for path in CONF.glob("ablation/*/*.yaml"))
RUNS = [
    *(("fit", "pretrain", "model/tiny", "data/toy", f"trainer/{t}", "toy/pretrain") for t in TRAINERS),
    *(("fit", "pretrain", f"model/{m}", f"data/{d}", "trainer/cpu") for m in MODELS for d in DATA),
    ("fit", "pretrain", "model/base", "data/egoclip", "trainer/a100x32", "released/pretrain"),
    ("fit", "pretrain", "model/base", "data/egoclip", "trainer/a100x8", "llm_narrations"),
    ("fit", "pretrain", "model/tiny_minilm", "data/toy", "trainer/cpu", "toy/pretrain", "toy/tiny_minilm"),
    *(("fit", task, "model/tiny_minilm", "trainer/cpu", f"toy/{task}", "toy/tiny_minilm") for task in TUNED),
    ("fit", "pretrain", "model/tiny", "data/own", "trainer/cpu", "own/pretrain"),
    *(("test", "egomcq", f"model/{m}", f"data/{d}", "trainer/cpu") for m in MODELS for d in DATA),
    *(("test", "egomcq", f"model/{m}", "data/egoclip", "trainer/gpu") for m in NEIGHBOURS),
    ("test", "egomcq", "model/base", "data/egoclip", "trainer/gpu", "released/egomcq", "released/small_projector"),
    *((command, task, "model/tiny", "trainer/cpu", f"toy/{task}") for task in TUNED for command in ("fit", "test")),
    *((command, "ek100", "model/tiny", "trainer/cpu", "toy/ek100", "ek100_rerank") for command in ("fit", "test")),
    *((command, task, "model/base", "trainer/a100x8", f"released/{task}")
      for task in TUNED for command in ("fit", "test")),
    *((command, "egohoi", "model/tiny", "trainer/cpu", "toy/egohoi") for command in ("fit", "test", "predict")),
    *((command, "egohoi", "model/base", "trainer/a100x8") for command in ("fit", "test")),
    *((command, task, "trainer/cpu", f"toy/{task}") for task in HEADS for command in ("fit", "test", "predict")),
    *((command, "mq_actionformer", "trainer/cpu", "toy/mq_actionformer") for command in ("fit", "test", "predict")),
    ("fit", "mq_actionformer", "trainer/gpu", "released/mq_opentad"),
    *((command, "nlq", "trainer/cpu", "toy/nlq", "toy/nlq_questions") for command in ("fit", "test")),
    ("fit", "nlq", "naq", "trainer/cpu", "toy/nlq", "toy/naq"), ("fit", "nlq", "naq", "trainer/gpu"),
    ("fit", "nlq", "naq", "naq_stage2", "trainer/cpu", "toy/nlq", "toy/naq", "toy/naq_stage2"),
    *(("fit", task, "trainer/a100x8", f"released/{task}") for task in HEADS),
    *(("fit", "pretrain", "model/tiny", "data/toy", "trainer/cpu", "toy/pretrain", "ablation/toy", overlay)
      for overlay in ABLATIONS),
    *(("test", "egomcq", "model/tiny", "data/toy", "trainer/cpu", f"probe_time/{order}") for order in ORDERS),
    *(("test", "ek100", "model/tiny", "trainer/cpu", "toy/ek100", f"probe_time/{order}") for order in ORDERS),
    *(("fit", "qfvs", "trainer/cpu", "toy/qfvs", f"qfvs_test_videos/P0{n}") for n in range(1, 5)),
]


def parse(capsys: pytest.CaptureFixture[str], command: str, *files: str, more: tuple[str, ...] = ()) -> str:
    paths = [f"--config={path if Path(path).is_absolute() else CONF / f'{path}.yaml'}" for path in files]
    with pytest.raises(SystemExit) as end:
        cli([command, *paths, *more, "--print_config"])
    out = capsys.readouterr()
    assert end.value.code in (0, None), out.err
    return out.out


@pytest.mark.parametrize("run", RUNS, ids="+".join)
def test_runs_parse(run: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "class_path: egovlpv2.tasks" in parse(capsys, *run)


def test_every_yaml_is_in_a_run() -> None:
    used = {file for run in RUNS for file in run[1:]}
    assert {str(p.relative_to(CONF).with_suffix("")) for p in CONF.rglob("*.yaml")} == used


def test_ablations_change_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    told = {"fusion/stacked_2": ("fusion: stacked", "num_fused_layers: 2"), "gate/alpha_0.25": ("alpha: 0.25",),
            "fusion/backbone_4": ("fusion: backbone", "num_fused_layers: 4"), "frames/frames_6": ("num_frames: 6",),
            "objectives/random_negatives": ("negative_temperature: .inf", "mlm_weight: 0.2", "vtm_weight: 0.5"),
            "objectives/ego_nce": ("mlm_weight: 0.0", "vtm_weight: 0.0"),
            "pairs/info_nce": ("positives: none", "negatives: any")}
    for overlay, lines in told.items():
        out = parse(capsys, "fit", "pretrain", "model/tiny", "data/toy", "toy/pretrain", "ablation/toy",
                    f"ablation/{overlay}")
        assert all(line in out for line in ("max_epochs: 3", *lines)), (overlay, out)


def test_overrides_reach_what_refers_to_them(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGO_TOY", "/somewhere/toy")
    files = ("fit", "pretrain", "model/tiny", "data/toy", "trainer/cpu", "toy/pretrain")
    out = parse(capsys, *files, more=("--seed_everything=7", "--data.init_args.size=64"))
    assert "root: /somewhere/toy" in out and "tokenizer: /somewhere/toy/tokenizer" in out
    assert "size: 64" in out
    assert "    seed: 7" in out
    assert "positives: verb_and_noun" in out  # the overlay wins over conf/pretrain.yaml


def test_the_papers_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    out = parse(capsys, "fit", "pretrain", "model/base", "data/egoclip", "trainer/a100x32")
    for line in ("max_epochs: 20", "batch_size: 8", "devices: 8", "num_nodes: 4", "lr: 3.0e-05", "warmup_epochs: 2",
                 "new_layer_factor: 4.0", "weight_decay: 0.01", "- 0.98", "decay: linear", "positives: verb_or_noun",
                 "mlm_weight: 0.25", "vtm_weight: 0.5", "num_frames: 4", "max_tokens: 30"):
        assert line in out, line


def test_the_papers_retrieval_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    out = parse(capsys, "fit", "ek100", "model/base", "trainer/a100x8")
    for line in ("max_epochs: 100", "lr: 0.0002", "objective: adaptive_max_margin", "margin: 0.2", "batch_size: 16",
                 "num_frames: 16", "max_tokens: 30", "end_lr: 1.0e-07", "- 4096"):
        assert line in out, line
    out = parse(capsys, "fit", "charades_ego", "model/base", "trainer/a100x8")
    for line in ("max_epochs: 10", "lr: 0.00015", "positives: class", "num_frames: 16", "warmup_epochs: 1"):
        assert line in out, line
    out = parse(capsys, "fit", "charades_ego", "model/base", "trainer/a100x8", "released/charades_ego")
    for line in ("max_epochs: 20", "lr: 1.5e-05", "positives: none", "max_tokens: 15", "fusion_cls: own"):
        assert line in out, line
    assert out.count("num_frames: 32") == 2  # of the data and of the model


def test_the_published_recipe_of_hard_negatives(capsys: pytest.CaptureFixture[str]) -> None:
    out = parse(capsys, "fit", "egohoi", "model/base", "trainer/a100x8")
    for line in ("max_epochs: 10", "limit_train_batches: 1388", "lr: 3.0e-05", "- 0.98", "weight_decay: 0.01",
                 "decay: cosine", "temperature: 0.05", "num_hard_negatives: 10", "max_tokens: 15",
                 "chunk_seconds: 300.0", "objective: ego_nce_plus_plus", "num_frames: 4", "size: 224"):
        assert line in out, line


def test_the_papers_grounding_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    out = parse(capsys, "fit", "nlq", "trainer/gpu")
    for line in ("max_epochs: 100", "lr: 0.001", "batch_size: 32", "max_positions: 256", "highlight_weight: 5.0",
                 "dim: 128", "decay: linear", "gradient_clip_val: 1.0"):
        assert line in out, line
    assert out.count("max_positions: 256") == 2  # of the data and of the head
    out = parse(capsys, "fit", "mq", "trainer/gpu")
    for line in ("max_epochs: 100", "lr: 0.0001", "batch_size: 32", "in_dim: 4096", "num_classes: 111"):
        assert line in out, line
    assert out.count("num_steps: 928") == 2


def test_the_released_grounding_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the published numbers, where the paper is silent or says otherwise."""
    defaults = {"nlq": ("kind: adamw", "eps: 1.0e-06", "no_decay: vectors"),
                "mq": ("kind: adamw", "class_weight: 1.0", "segment_weight: 1.0", "boundary_weight: 1.0",
                       "curve_weight: 0.2", "picked_by: map")}
    released = {"nlq": ("max_epochs: 50", "eps: 1.0e-06", "no_decay: released", "decay: linear", "end_lr: 0.0"),
                "mq": ("max_epochs: 50", "kind: adam", "no_decay: none", "weight_decay: 0.0001", "decay: step",
                       "step_epochs: 15", "gamma: 0.1", "warmup_epochs: 0", "picked_by: loss", "curve_weight: 0.2")}
    for task in defaults:
        for lines, overlay in ((defaults[task], ()), (released[task], (f"released/{task}",))):
            out = parse(capsys, "fit", task, "trainer/gpu", *overlay).splitlines()
            for line in lines:
                assert any(found.strip() in (line, line + ".0") for found in out), (task, line)


def test_the_papers_recipes_of_summaries_and_questions(capsys: pytest.CaptureFixture[str]) -> None:
    out = parse(capsys, "fit", "qfvs", "trainer/gpu")
    for line in ("max_epochs: 20", "lr: 1.0e-05", "batch_size: 20", "num_layers: 1", "warmup_epochs: 2", "share: 0.02",
                 "decay: cosine", "max_segments: 20", "max_segment_shots: 200", "validate_on: next"):
        assert line in out, line
    assert out.count("There is a") == 2 and len(OmegaConf.load(CONF / "qfvs.yaml").data.init_args.templates) == 10
    out = parse(capsys, "fit", "qfvs", "trainer/gpu", "released/qfvs")
    for line in ("num_layers: 2", "batch_size: 4", "validate_on: test", "weight_decay: 0.1", "design: released",
                 "dropout: 0.0", "round_down: true", "lr: 2.0e-06", "end_lr: 2.0e-09", "vector_factor: 0.024",
                 "no_decay: none", "cut_by: cls"):
        assert line in out, line
    out = parse(capsys, "fit", "taskqa", "model/base", "trainer/a100x8")
    for line in ("max_epochs: 36", "lr: 0.0002", "batch_size: 8", "warmup_epochs: 3.6", "max_tokens: 30",
                 "dropout: 0.2", "tune: all", "split: direct"):
        assert line in out, line
    assert out.count("num_frames: 16") == 2  # of the data and of the model


@pytest.mark.parametrize("model", [*MODELS, *NEIGHBOURS])
def test_models_parse(model: str) -> None:
    assert read_model_config(str(CONF / "model" / f"{model}.yaml")).video.init is None


def test_unknown_keys_are_named(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("model: {init_args: {backbone: {fused_layers: 3}}}")
    with pytest.raises(SystemExit, match="^egovlpv2 fit: error: [^\n]*fused_layers[^\n]*\n\\(EGOVLPV2_DEBUG"):
        cli(["fit", *(f"--config={CONF / f}.yaml" for f in ("pretrain", "model/tiny", "data/toy")),
             f"--config={tmp_path / 'more.yaml'}", "--print_config"])


def test_released_overlay_is_the_released_model() -> None:
    config = OmegaConf.merge(*(OmegaConf.load(CONF / f"{name}.yaml") for name in ("model/base", "released/egomcq")))
    backbone = config.model.init_args.backbone
    assert (backbone.text_attends_to, backbone.fusion_cls, backbone.num_fused_layers) == ("previous", "own", 6)
    assert list(backbone.video.pixel_mean) == list(IMAGENET_DEFAULT_MEAN)
    assert list(backbone.video.pixel_std) == list(IMAGENET_DEFAULT_STD)
    assert (config.data.init_args.eval_num_frames, config.data.init_args.frame_rule) == (16, "released")


@pytest.mark.parametrize("script, nodes, tasks, lines", [
    ("a100x32", 4, 8, ("accelerator: gpu", "precision: bf16-mixed", "batch_size: 8", "max_epochs: 20",
                       "name: pretrain-base-egoclip", "default_root_dir: runs/pretrain-base-egoclip", "seed: 7")),
    ("cpu_nodes", 2, 1, ("accelerator: cpu", "precision: 32-true", "process_group_backend: gloo", "batch_size: 8",
                         "max_epochs: 4", "name: pretrain-cpu-nodes", "seed: 7")),
])
def test_slurm_scripts_start_a_fit(script: str, nodes: int, tasks: int, lines: tuple[str, ...],
                                   monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = f"conf/trainer/{script}.slurm"
    for option in (f"nodes={nodes}", f"ntasks-per-node={tasks}", "signal=SIGUSR1@90", "requeue", "open-mode=append"):
        assert f"#SBATCH --{option}\n" in (ROOT / path).read_text()
    words = command_of(path, "--data.init_args.seed=7", EGO_ROOT="/data")
    assert words[0] == "--kill-on-bad-exit=1" and words[1].startswith("--cpus-per-task=")
    assert words[2:4] == [".venv/bin/egovlpv2", "fit"]
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        cli([*words[3:], "--print_config"])
    out = capsys.readouterr().out
    for line in (*lines, f"num_nodes: {nodes}", f"devices: '{tasks}'"):
        assert f" {line}\n" in out, line


def test_the_script_of_egoclip_asks_for_its_folder() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        command_of("conf/trainer/a100x32.slurm")
    assert "set EGO_ROOT to the folder of egoclip.csv" in caught.value.stderr

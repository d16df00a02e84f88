"""Each overlay of conf/released changes what is listed here, and nothing else.

A line of a table: a key, its default, and its value with the overlay. The lists are what the authors' code does
differently from this project's defaults; a difference that an overlay doesn't carry is explained in the documentation.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from egovlpv2.cli import main as cli

CONF = Path(__file__).parents[1] / "conf"
# By overlay: the command and the configurations that it is put behind.
RUNS = {
    "pretrain": ("fit", "pretrain", "model/base", "data/egoclip", "trainer/a100x32"),
    "egomcq": ("test", "egomcq", "model/base", "data/egoclip", "trainer/gpu"),
    "small_projector": ("test", "egomcq", "model/base", "data/egoclip", "trainer/gpu"),
    **{task: ("fit", task, "model/base", "trainer/a100x8") for task in ("charades_ego", "ek100", "taskqa")},
    **{task: ("fit", task, "trainer/a100x8") for task in ("nlq", "mq", "qfvs")},
    "mq_opentad": ("fit", "mq_actionformer", "trainer/a100x8"),
}
MODEL, BACKBONE, OPTIMIZER = "model.init_args.", "model.init_args.backbone.", "model.init_args.optimizer."
DATA, TRAINER = "data.init_args.", "trainer."

# How every released backbone was built.
_BUILT = {
    BACKBONE + "text_attends_to": ("current", "previous"),
    BACKBONE + "fusion_cls": ("shared", "own"),
}
_FRAMES = {DATA + "frame_rule": ("centre", "released")}
_TEN_TEMPLATES = yaml.safe_load((CONF / "qfvs.yaml").read_text())["data"]["init_args"]["templates"]
_SMALL = {BACKBONE + "projector": ([4096, 4096, 4096], [256])}

Differences = dict[str, tuple[Any, Any]]
DIFFERENCES: dict[str, Differences] = {
    "pretrain": _BUILT | _FRAMES | {
        MODEL + "positives": ("verb_or_noun", "verb_and_noun"),
        MODEL + "init": ("default", "released"),
        MODEL + "negatives_by": ("own", "swapped"),
        OPTIMIZER + "decay": ("linear", "cosine"),
        OPTIMIZER + "end_lr": (1e-7, 0.0),
        OPTIMIZER + "no_decay": ("vectors", "released"),
        DATA + "max_tokens": (30, 15),
        DATA + "drop_last": (True, False),
    },
    "egomcq": _BUILT | _FRAMES | {
        DATA + "eval_num_frames": (None, 16),
    },
    "small_projector": _SMALL,
    "charades_ego": _BUILT | _SMALL | _FRAMES | {
        MODEL + "positives": ("class", "none"),
        MODEL + "num_frames": (16, 32),
        OPTIMIZER + "lr": (1.5e-4, 1.5e-5),
        OPTIMIZER + "warmup_epochs": (1.0, 2.0),
        OPTIMIZER + "end_lr": (1e-7, 0.0),
        OPTIMIZER + "no_decay": ("vectors", "released"),
        DATA + "val": (None, "CharadesEgo_v1_test_only1st.csv"),
        DATA + "num_frames": (16, 32),
        DATA + "max_tokens": (30, 15),
        DATA + "drop_last": (True, False),
        TRAINER + "max_epochs": (10, 20),
    },
    "ek100": _BUILT | _SMALL | _FRAMES | {
        OPTIMIZER + "end_lr": (1e-7, 0.0),
        OPTIMIZER + "no_decay": ("vectors", "released"),
        DATA + "val": (None, "EPIC_100_retrieval_test.csv"),
        DATA + "drop_last": (True, False),
    },
    "taskqa": _BUILT | _FRAMES | {
        OPTIMIZER + "end_lr": (1e-7, 0.0),
        OPTIMIZER + "no_decay": ("vectors", "none"),
        DATA + "val": ("formatted_val_qas_encode.json", "formatted_test_qas_encode.json"),
        DATA + "augment": (True, False),
    },
    "nlq": {
        DATA + "recipe.frames": (16, 4),
        DATA + "recipe.frame_rule": ("centre", "released"),
        OPTIMIZER + "no_decay": ("vectors", "released"),
        OPTIMIZER + "end_lr": (1e-7, 0.0),
        DATA + "drop_last": (True, False),
        TRAINER + "max_epochs": (100, 50),
    },
    "mq": {
        DATA + "recipe.frame_rule": ("centre", "released"),
        MODEL + "picked_by": ("map", "loss"),
        OPTIMIZER + "kind": ("adamw", "adam"),
        OPTIMIZER + "no_decay": ("vectors", "none"),
        OPTIMIZER + "decay": ("cosine", "step"),
        TRAINER + "max_epochs": (100, 50),
    },
    "qfvs": {
        MODEL + "num_layers": (1, 2),
        MODEL + "design": ("paper", "released"),
        MODEL + "dropout": (0.1, 0.0),
        MODEL + "round_down": (False, True),
        OPTIMIZER + "lr": (1e-5, 2e-6),
        OPTIMIZER + "end_lr": (1e-7, 2e-9),
        OPTIMIZER + "vector_factor": (1.0, 0.024),
        OPTIMIZER + "weight_decay": (0.01, 0.1),
        OPTIMIZER + "no_decay": ("vectors", "none"),
        DATA + "cut_by": ("patches", "cls"),
        DATA + "drop_last": (True, False),
        DATA + "validate_on": ("next", "test"),
        DATA + "batch_size": (20, 4),
        DATA + "templates": (_TEN_TEMPLATES, [["There is a {}", "There is a {} and a {}"]]),
    },
    "mq_opentad": {
        MODEL + "variant": ("authors", "opentad"),
        MODEL + "loss.all_classes": (False, True),
        MODEL + "decoding.per_level": (True, False),
        MODEL + "decoding.rounded": (False, True),
        MODEL + "decoding.nms.sigma": (0.9, 2.0),
        DATA + "min_seconds": (0.25, 0.0),
        TRAINER + "max_epochs": (15, 25),
    },
}


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested settings by dotted names; a list is a leaf."""
    if not isinstance(value, dict) or not value:
        yield name, value
        return
    for key, inner in value.items():
        yield from flatten(inner, f"{name}.{key}" if name else str(key))


def resolve(capsys: pytest.CaptureFixture[str], command: str, *files: str) -> dict[str, Any]:
    """All settings of a run with some configurations, as the command line resolves them."""
    with pytest.raises(SystemExit) as end:
        cli([command, *(f"--config={CONF / file}.yaml" for file in files), "--print_config"])
    out = capsys.readouterr()
    assert end.value.code in (0, None), out.err
    return dict(flatten(yaml.safe_load(out.out)))


@pytest.mark.parametrize("overlay", RUNS)
def test_an_overlay_changes_what_the_list_says(overlay: str, capsys: pytest.CaptureFixture[str]) -> None:
    default, released = (resolve(capsys, *RUNS[overlay], *more) for more in ((), (f"released/{overlay}",)))
    found = {key: (default.get(key), released.get(key)) for key in default | released
             if default.get(key) != released.get(key)}
    told = {key: found.pop(key, None) for key in DIFFERENCES[overlay]}
    assert told == DIFFERENCES[overlay]
    assert not found, "not in the list"


def test_every_overlay_has_its_list() -> None:
    assert RUNS.keys() == DIFFERENCES.keys() == {path.stem for path in (CONF / "released").glob("*.yaml")}


@pytest.mark.parametrize("split, lr", [("direct", 2e-4), ("indirect", 1e-4)])
def test_the_split_of_taskqa_sets_its_learning_rate(split: str, lr: float, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "split.yaml").write_text(f"data: {{init_args: {{split: {split}}}}}")
    for more in ((), ("released/taskqa",)):
        settings = resolve(capsys, *RUNS["taskqa"], *more, str(tmp_path / "split"))
        assert settings[OPTIMIZER + "lr"] == lr
    (tmp_path / "lr.yaml").write_text("model: {init_args: {optimizer: {lr: 3.0e-4}}}")  # what a user says goes first
    files = (str(tmp_path / name) for name in ("split", "lr"))
    assert resolve(capsys, *RUNS["taskqa"], *files)[OPTIMIZER + "lr"] == 3e-4

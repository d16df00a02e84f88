"""Data modules on features extract those that are missing, by the recipe in their configuration."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.data_modules.extraction import FeatureRecipe
from egovlpv2.data_modules.grounding import FeatureDataModule
from egovlpv2.data_modules.mq import MQDataModule
from egovlpv2.data_modules.nlq import NLQDataModule
from egovlpv2.features import read_features
from egovlpv2.model.backbone import Backbone
from egovlpv2.types import FeatureKind

RECIPES = {"nlq": FeatureRecipe("fused", fps=1.0, window=4, stride=4, frames=2),
           "mq": FeatureRecipe("projected", fps=1.0, window=4, stride=4, frames=2)}
MODULES: dict[str, type[FeatureDataModule]] = {"nlq": NLQDataModule, "mq": MQDataModule}


@pytest.fixture
def make(toy: Path, make_backbone: Callable[..., Backbone], tmp_path: Path) -> Callable[..., FeatureDataModule]:
    save_backbone(make_backbone(tokenizer=str(toy / "tokenizer")), tmp_path / "weights.safetensors")

    def module(task: str, **changes: Any) -> FeatureDataModule:
        name = {"nlq": "nlq", "mq": "moments"}[task]
        settings = {"train": f"{name}_train.json", "val": f"{name}_val.json", "num_workers": 0, "chunk_seconds": 8,
                    "recipe": RECIPES[task],
                    "videos": str(toy / "long" / "videos"), "weights": str(tmp_path / "weights.safetensors")}
        return MODULES[task](str(toy / task), str(tmp_path / "features"), **(settings | changes))

    return module


def test_one_of_several_processes_extracts_all(make: Callable[..., FeatureDataModule], tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of each node, for which the others wait: it takes no share of the videos."""
    make("mq").prepare_data()
    every = {path.name for path in (tmp_path / "features").glob("*.safetensors")}
    for name, value in {"TORCHELASTIC_RUN_ID": "run", "RANK": "0", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    module = make("mq")
    module.features = tmp_path / "again"
    module.prepare_data()
    assert {path.name for path in (tmp_path / "again").glob("*.safetensors")} == every and len(every) > 1


@pytest.mark.parametrize("task", MODULES)
def test_missing_features_are_extracted_and_the_others_stay(task: str, make: Callable[..., FeatureDataModule],
                                                            tmp_path: Path) -> None:
    make(task).prepare_data()
    written = {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "features").glob("*.safetensors"))}
    recipe = read_features(next(iter(written))).recipe
    assert written and (recipe.kind, recipe.window, recipe.frames) == (RECIPES[task].kind, 4, 2)
    first, *others = written
    first.unlink()
    make(task).prepare_data()
    assert first.is_file() and all(path.stat().st_mtime_ns == written[path] for path in others)
    (tmp_path / "weights.safetensors").unlink()
    make(task).prepare_data()  # nothing is missing, so nothing is opened


def test_without_weights_what_is_missing_is_left_out_with_a_notice(make: Callable[..., FeatureDataModule],
                                                                   tmp_path: Path,
                                                                   caplog: pytest.LogCaptureFixture) -> None:
    make("mq").prepare_data()
    next((tmp_path / "features").glob("*.safetensors")).unlink()
    with caplog.at_level(logging.WARNING):
        make("mq", weights=str(tmp_path / "gone.ckpt")).prepare_data()
    assert "some clips have no features in" in caplog.text and "gone.ckpt is not there" in caplog.text
    for path in (tmp_path / "features").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ValueError, match="gone.ckpt is missing: give a weights file"):
        make("mq", weights=str(tmp_path / "gone.ckpt")).prepare_data()


def test_features_of_another_recipe_are_refused(make: Callable[..., FeatureDataModule]) -> None:
    make("mq").prepare_data()
    other = make("mq", recipe=FeatureRecipe("projected", fps=1.0, window=4, stride=4, frames=3))
    with pytest.raises(ValueError, match=r"of another recipe \(frames 2 there, 3 in data.init_args.recipe\)"):
        _ = other.folder


def test_without_videos_nothing_is_extracted(make: Callable[..., FeatureDataModule], tmp_path: Path) -> None:
    make("mq", videos=None).prepare_data()
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize(("task", "kind"), [("nlq", "trunk"), ("mq", "trunk"), ("mq", "fused"), ("mq", "transformed")])
def test_a_recipe_of_a_kind_that_the_data_set_does_not_take(task: str, kind: FeatureKind,
                                                            make: Callable[..., FeatureDataModule]) -> None:
    with pytest.raises(ValueError, match=f"data.init_args.recipe: features of kind {kind}, and .*extract --kind "):
        make(task, recipe=FeatureRecipe(kind))


@pytest.mark.parametrize(("settings", "message"), [
    ({"fps": 0}, "fps=0: give a finite number above 0"), ({"window": 0}, "window=0: give a whole number, 1 or more"),
    ({"stride": 0}, "stride=0: give a whole number, 1 or more"), ({"frames": 0}, "frames=0: give a whole number, 1 or"),
    ({"window": None}, "window=None: give a whole number"), ({"window": 1.5}, "window=1.5: give a whole number"),
    ({"frame_rule": "egoclip"}, "frame_rule='egoclip': give one of 'centre', 'released'"),
    ({"kind": "x"}, "kind='x': give one of 'dual', ")])
def test_a_recipe_with_a_value_that_no_extraction_takes(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^data.init_args.recipe.{message}"):
        FeatureRecipe(**{"kind": "projected"} | settings)


@pytest.mark.parametrize(("task", "name"), [("nlq", "max_positions"), ("mq", "num_steps"), ("mq", "chunk_seconds")])
def test_settings_below_their_bounds_are_named(task: str, name: str, make: Callable[..., FeatureDataModule]) -> None:
    with pytest.raises(ValueError, match=f"data.init_args.{name}=0: give "):
        make(task, **{name: 0})

"""Names of earlier versions in configurations and options get an error with the new name."""

from pathlib import Path

import pytest

from egovlpv2.cli import main as cli
from egovlpv2.io.renamed import CLASSES, EVERY_RUN_HAS, KEYS, check_names, check_option


@pytest.mark.parametrize("old", KEYS)
def test_old_keys_are_named_with_their_place(old: str) -> None:
    with pytest.raises(ValueError, match=f"^c.yaml: data.init_args.{old} is called {KEYS[old]} now"):
        check_names({"data": {"init_args": {old: 1}}}, "c.yaml")
    with pytest.raises(ValueError, match=f"^--data.init_args.{old} is called --data.init_args.{KEYS[old]} now"):
        check_option(f"--data.init_args.{old}=3")
    check_names({"data": {"init_args": {KEYS[old]: 1}}}, "c.yaml")
    check_option(f"--data.init_args.{KEYS[old]}=3")


@pytest.mark.parametrize("old", CLASSES)
def test_old_class_paths_are_named(old: str) -> None:
    callbacks = [{"class_path": "lightning.X"}, {"class_path": f"{old}Name"}]
    with pytest.raises(ValueError, match=rf"trainer.callbacks\[1\].class_path: {old}Name is {CLASSES[old]}Name now"):
        check_names({"trainer": {"callbacks": callbacks}}, "c.yaml")


@pytest.mark.parametrize("name", EVERY_RUN_HAS)
def test_callbacks_that_every_run_has_are_to_be_removed(name: str) -> None:
    message = f"every run has {name} now: remove it .its options are under {EVERY_RUN_HAS[name]}"
    with pytest.raises(ValueError, match=message):
        check_names({"trainer": {"callbacks": [{"class_path": name}]}}, "c.yaml")


def test_a_run_with_an_old_config_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("model: {init_args: {optimizer: {gate_factor: 2.0}}}")
    with pytest.raises(SystemExit, match=r"^egovlpv2 fit: error: .*old.yaml: model.init_args.optimizer.gate_factor is "
                                         "called alpha_lr_factor now: rename it"):
        cli(["fit", "--config", str(tmp_path / "old.yaml")])
    with pytest.raises(SystemExit, match="--data.init_args.max_words is called --data.init_args.max_tokens now"):
        cli(["fit", "--data.init_args.max_words=3"])
    with pytest.raises(SystemExit, match="`prompts-qfvs` was removed: `egovlpv2 fit --config conf/qfvs.yaml` extracts"):
        cli(["prompts-qfvs"])

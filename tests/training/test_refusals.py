"""Settings that a run can't use are refused in one line: the file, the place, and the name that may be meant."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from helpers import ROOT
from lightning import LightningModule
from training.small_run import RowsDataModule, SmallTask
from training.test_killed_fits import arguments

from egovlpv2.cli import main as cli
from egovlpv2.data_modules.mq import MQDataModule
from egovlpv2.tasks.ek100 import EK100
from egovlpv2.tasks.mq import MQ
from egovlpv2.train_cli import check_pair
from egovlpv2.training.command_line import check_command_line, split_options

CONF = ROOT / "conf"
PRETRAIN = [f"--config={CONF / name}.yaml" for name in ("pretrain", "model/tiny", "data/toy", "trainer/cpu")]
NLQ_RUN = [f"--config={CONF / name}.yaml" for name in ("nlq", "trainer/cpu", "toy/nlq")]


def refusal(*args: str) -> str:
    """The line in which `egovlpv2 fit` ends."""
    with pytest.raises(SystemExit) as end:
        cli(["fit", *args, "--print_config"])
    line, debug = str(end.value).splitlines()
    assert debug == "(EGOVLPV2_DEBUG=1 shows where)"
    return line.removeprefix("egovlpv2 fit: error: ")


@pytest.mark.parametrize(("base", "given", "line"), [
    (PRETRAIN, "--model.temprature=3", "model.init_args.temprature is not a setting of Pretrain, did you mean "
     "model.init_args.temperature? (`egovlpv2 fit --model.help egovlpv2.tasks.pretrain.Pretrain` lists its settings)"),
    (PRETRAIN, "--model.init_args.optimizer.lrr=3", "did you mean model.init_args.optimizer.lr?"),
    (PRETRAIN, "--data.batchsize=3", "did you mean data.init_args.batch_size?"),
    (PRETRAIN, "--trainer.maxepochs=3", "trainer.maxepochs is not an option, did you mean trainer.max_epochs?"),
    (PRETRAIN, "--tariner.max_epochs=3", "did you mean trainer.max_epochs?"),
    (PRETRAIN, "--data.frames=4", "data.init_args.frames is not a setting of EgoClipDataModule: it is called "
                                  "data.init_args.num_frames now"),
    (NLQ_RUN, "--data.frames=4", "it is called data.init_args.recipe.frames now"),
    (NLQ_RUN, "--data.init_args.frame_rule=released", "it is called data.init_args.recipe.frame_rule now"),
])
def test_an_unknown_setting_has_a_hint(base: list[str], given: str, line: str) -> None:
    assert line in refusal(*base, given)


@pytest.mark.parametrize(("text", "line"), [
    ("trainer: {max_epochs: many}", "Parser key \"trainer.max_epochs\": Expected a <class 'int'>. Got value: many"),
    ("model: {init_args: {temprature: 3}}", "model.init_args.temprature is not a setting of Pretrain"),
    ("model: {init_args: {temperature: hot}}", "Parser key \"temperature\": Expected a <class 'float'>"),
    ("modl: {init_args: {temperature: 3}}", "did you mean model."),
    ("trainer:", "trainer has no keys: give it some, indented below it, or remove it"),
    ("model: []", "model has no keys"), ("data: null", "data has no keys"),
    ("trainer: {max_epochs: '${trainer.max_epochs}'}", "trainer.max_epochs: its ${...} refers to itself"),
    ("trainer: {max_epochs: '${trainer}'}", "trainer.max_epochs: its ${...} refers to itself"),
    ("trainer: {max_epochs: '${trainer.max_steps}', max_steps: '${trainer.max_epochs}'}", "Recursive interpolation"),
])
def test_the_file_of_a_setting_is_named(tmp_path: Path, text: str, line: str) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(text)
    refused = refusal(*PRETRAIN, f"--config={own}", f"--config={ROOT / 'conf/trainer/cpu.yaml'}",
                      "--trainer.limit_val_batches=1")
    assert refused.startswith(f"{own}: ") and line in refused


@pytest.mark.parametrize(("words", "line"), [
    (["--model.init_args.optimizer={gate_factor: 3}"], "optimizer.gate_factor is called alpha_lr_factor now"),
    (["--data", "{file}"], "{file}: data.init_args.max_words is called max_tokens now"),
    (["--data={file}"], "{file}: data.init_args.max_words is called max_tokens now"),
    (["-c{file}"], "{file}: init_args.max_words is called max_tokens now"),
    (["-c", "{file}"], "{file}: init_args.max_words is called max_tokens now"),
    (["--trainer.callbacks=egovlpv2.pictures.Pictures"], "pictures.Pictures is egovlpv2.viz.callbacks.Pictures now"),
    (["--trainer.callbacks+=egovlpv2.pictures.Pictures"], "pictures.Pictures is egovlpv2.viz.callbacks.Pictures now"),
    (["--trainer.callbacks=[egovlpv2.pictures.Pictures]"], "pictures.Pictures is egovlpv2.viz.callbacks.Pictures now"),
    (["--config", "no/such.yaml"], "no/such.yaml is missing: check the path (`egovlpv2 configs --out conf` copies"),
])
def test_names_of_earlier_versions_are_found_wherever_they_are_given(tmp_path: Path, words: list[str], line: str
                                                                     ) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("init_args: {max_words: 3}")
    with pytest.raises(ValueError) as refused:
        check_command_line(["fit", *(word.replace("{file}", str(file)) for word in words)])
    assert line.replace("{file}", str(file)) in str(refused.value)


def test_classes_of_others_have_names_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    for name, refused in (("own.Data", False), ("egovlpv2.data_modules.mq.MQDataModule", True)):
        file.write_text(f"data: {{class_path: {name}, init_args: {{max_words: 3}}}}")
        with pytest.raises(ValueError, match="is called max_tokens now") if refused else nullcontext():
            check_command_line(["fit", "--config", str(file)])


def test_a_command_line_is_split_into_options() -> None:
    given = ["fit", "-ca.yaml", "-c", "b.yaml", "--config=c.yaml", "--x.y", "-3", "--flag", "--z={a: b=c}"]
    assert list(split_options(given)) == [("--config", "a.yaml"), ("--config", "b.yaml"), ("--config", "c.yaml"),
                                          ("--x.y", "-3"), ("--z", "{a: b=c}")]


@pytest.mark.parametrize("given", ["--trainer.devices=x", "--trainer.devices=-3", "--trainer.devices=0",
                                   "--trainer.accelerator=tpu", "--trainer.accelerator=mps", "--trainer.strategy=x"])
def test_a_machine_that_is_not_there_is_one_line(toy: Path, tmp_path: Path, given: str) -> None:
    with pytest.raises(SystemExit, match=r"^egovlpv2 fit: error: [^\n]+\n\(EGOVLPV2_DEBUG=1 shows where\)$"):
        cli([*arguments(toy, 2), f"--trainer.logger.init_args.save_dir={tmp_path}", given])


def test_a_setting_of_a_function_that_makes_a_task_is_refused() -> None:
    assert "model.dimm is not an option" in refusal("--model", f"{make_task.__module__}.make_task", "--model.dimm=3")


def make_task(dim: int = 4) -> LightningModule:
    """Make a task."""
    return SmallTask(dim)


def test_a_refused_fit_leaves_the_earlier_run_where_it_is(toy: Path, tmp_path: Path) -> None:
    run = tmp_path / "pretrain"
    run.mkdir()
    (run / "metrics.json").write_text("earlier")
    for command in ("fit", "test"):
        options = [word for word in arguments(toy, 2)[1:] if command == "fit" or "last_checkpoint" not in word]
        with pytest.raises(SystemExit, match="error: .*nowhere"):
            cli([command, *options, f"--trainer.logger.init_args.save_dir={tmp_path}",
                 f"--data.init_args.root={tmp_path / 'nowhere'}"])
        assert [path.name for path in tmp_path.iterdir()] == ["pretrain"]
        assert (run / "metrics.json").read_text() == "earlier" and not (run / "config.yaml").exists()


def test_a_job_that_is_queued_again_does_not_find_the_earlier_run(toy: Path, tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pretrain" / "checkpoints").mkdir(parents=True)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with pytest.raises(SystemExit, match="error: .*nowhere"):
        cli([*arguments(toy, 2), f"--trainer.logger.init_args.save_dir={tmp_path}",
             f"--data.init_args.root={tmp_path / 'nowhere'}"])
    assert not (tmp_path / "pretrain" / "checkpoints").exists() and (tmp_path / "pretrain.1" / "checkpoints").is_dir()


def test_the_data_of_another_task_is_refused() -> None:
    class Other(MQDataModule):
        def __init__(self) -> None:
            pass

    class OwnTask(MQ):
        pass

    for task, data in ((SmallTask(), RowsDataModule()), (SmallTask(), Other()), (OwnTask.__new__(OwnTask), Other()),
                       (EK100.__new__(EK100), RowsDataModule())):
        check_pair(task, data)
    with pytest.raises(ValueError, match="^EK100 can't use the batches of Other: set model.class_path to "
                                         "egovlpv2.tasks.mq.MQ or egovlpv2.tasks.mq_actionformer.MQActionFormer, or "
                                         "data.class_path to the data module of EK100"):
        check_pair(EK100.__new__(EK100), Other())

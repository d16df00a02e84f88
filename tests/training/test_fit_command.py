"""`egovlpv2 fit` on checkpoints and machines that it can't continue with: one line, and nothing has changed."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities.model_summary import summarize
from training.small_run import SmallTask
from training.test_killed_fits import arguments

from egovlpv2.cli import main as cli
from egovlpv2.training.report import ParameterSummary


def fit(toy: Path, folder: Path, *more: str) -> None:
    cli([*arguments(toy, 2), f"--trainer.logger.init_args.save_dir={folder.parent}",
         f"--trainer.logger.init_args.name={folder.name}", *more])


def test_a_checkpoint_says_nothing_of_the_run(toy: Path, tmp_path: Path) -> None:
    """Its hyperparameters, a class among them, are not merged into the settings."""
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {"weight": torch.zeros(2)}, "loops": {}, "optimizer_states": [], "lr_schedulers": [],
                "pytorch-lightning_version": "2.6.6", "epoch": 0, "global_step": 0,
                "hyper_parameters": {"_class_path": "egovlpv2.tasks.egomcq.EgoMCQ", "weights": "x"}}, foreign)
    with pytest.raises(SystemExit, match=r"foreign.ckpt does not fit Pretrain as it is configured: it lacks .* tens"):
        fit(toy, tmp_path / "run", f"--ckpt_path={foreign}")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_what_is_no_checkpoint_ends_in_one_line(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "foreign.ckpt").write_text("<html>")
    with pytest.raises(SystemExit, match="foreign.ckpt is not a checkpoint of a run: it looks like a text"):
        fit(toy, tmp_path / "run", f"--ckpt_path={tmp_path / 'foreign.ckpt'}")
    with pytest.raises(SystemExit, match="there is no .*last.ckpt to go on from"):
        fit(toy, tmp_path / "run", "--ckpt_path=last")


@pytest.mark.parametrize(("text", "problem"), [
    ("trainer:\n  max_epochs: 2\n  max_epochs: 3\n", "found duplicate key max_epochs .*line 3"),
    ("trainer: {max_epochs: 2", "line 1"),
    ("- trainer\n", "it should hold keys and values"),
    ("", "it should hold keys and values"),
    ("# nothing yet\n", "it should hold keys and values"),
    ("trainer:\n\tmax_epochs: 2\n", "line 2"),
    ("a: &a [*a]\n", "recursive aliases"),
])
def test_a_configuration_that_cannot_be_read_is_named(toy: Path, tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    for option in (["--config", str(tmp_path / "own.yaml")], [f"--config={tmp_path / 'own.yaml'}"]):
        with pytest.raises(SystemExit, match=f"own.yaml can't be read as a configuration: .*{problem}"):
            fit(toy, tmp_path / "run", *option)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_an_evaluation_takes_an_existing_checkpoint_of_another_folder(toy: Path, tmp_path: Path, command: str) -> None:
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    best.parent.mkdir(parents=True)
    best.write_text("kept")
    options = [option for option in arguments(toy, 2)[1:] if "last_checkpoint" not in option]
    options += [f"--trainer.logger.init_args.save_dir={tmp_path}", "--trainer.logger.init_args.name=run"]
    for path, problem in ((str(best), "lies in .*run, where this evaluation would write"),
                          ("last", "last: there is no such checkpoint"),
                          (str(tmp_path / "no.ckpt"), "no.ckpt: there is no such checkpoint")):
        with pytest.raises(SystemExit, match=problem):
            cli([command, *options, f"--ckpt_path={path}"])
    assert best.read_text() == "kept"


def test_hints_are_where_they_belong(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="TRAINER=cpu"):
            fit(toy, tmp_path / "run", "--trainer.accelerator=gpu")
    with pytest.raises(SystemExit) as caught:
        fit(toy, tmp_path / "run", "--trainer.max_epochs=-7")
    assert "max_epochs" in str(caught.value) and "TRAINER=cpu" not in str(caught.value)
    for name, value in (("JOB_ID", "7"), ("NTASKS", "2"), ("JOB_NAME", "jupyter")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(SystemExit, match="`unset SLURM_NTASKS`"):
        fit(toy, tmp_path / "run")


def test_the_summary_of_a_model_counts_its_parameters_and_no_flops(capsys: pytest.CaptureFixture[str]) -> None:
    summary = summarize(SmallTask(), max_depth=1)
    ParameterSummary.summarize(summary._get_summary_data(), summary.total_parameters, summary.trainable_parameters,
                               summary.model_size, summary.total_training_modes, 0)
    printed = capsys.readouterr().out
    assert "net" in printed and "49 parameters, 49 of them trained" in printed and "FLOP" not in printed.upper()

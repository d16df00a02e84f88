"""LightningCLI as this project uses it: several `--config` files, interpolation between them, one folder a run."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    LearningRateMonitor,
    ModelSummary,
    RichModelSummary,
    RichProgressBar,
    TQDMProgressBar,
)
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from egovlpv2.command.signals import ending_on_signals
from egovlpv2.device import PRECISION_HELP as _PRECISION_HELP
from egovlpv2.device import choose_precision
from egovlpv2.io.files import atomic_write
from egovlpv2.training.checkpoint_io import WholeCheckpointIO
from egovlpv2.training.command_line import check_command_line
from egovlpv2.training.progress import ProgressLines
from egovlpv2.training.refusals import explain, explain_interpolation
from egovlpv2.training.report import FinalReport, ParameterSummary
from egovlpv2.training.resume import use_resumable_loops
from egovlpv2.training.run_checkpoints import LAST, BestCheckpoint, LastCheckpoint
from egovlpv2.training.run_folder import give_back, take_folder
from egovlpv2.training.settings import changed_settings
from egovlpv2.training.slurm import requeueing_on_signal, was_requeued
from egovlpv2.types import PrecisionChoice

log = logging.getLogger(__name__)

_TASKS = {f"egovlpv2.tasks.{name}" for name in ("charades_ego.CharadesEgo", "egomcq.EgoMCQ", "ek100.EK100", "mq.MQ",
                                                "nlq.NLQ", "pretrain.Pretrain", "qfvs.QFVS", "taskqa.TaskQA")}
_BARS = (RichProgressBar, TQDMProgressBar)  # on standard output

# Defaults of every run: a folder in runs/ with TensorBoard's files and two checkpoints.
_DEFAULTS = {
    "trainer.logger": {"class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                       # Without a version a run has one folder, so that `--ckpt_path last` finds it again.
                       "init_args": {"save_dir": "runs", "name": "run", "version": ""}},
    "learning_rate.logging_interval": "step",
    "best_checkpoint.monitor": "val/score",
    "best_checkpoint.mode": "max",
    "best_checkpoint.filename": "best",
    "best_checkpoint.auto_insert_metric_name": False,
    "best_checkpoint.enable_version_counter": False,
    "last_checkpoint.every_n_train_steps": 100,
}


class EgoCLI(LightningCLI):
    """Tests the best checkpoint after a fit, and never writes one run over another."""

    command_line: Sequence[str] = ()
    _aside: Path | None = None  # where the earlier run of the folder is, if it was moved

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options and callbacks that every run has."""
        parser.add_argument("--precision", type=PrecisionChoice | None, default=None, help=_PRECISION_HELP)
        parser.add_lightning_class_args(LearningRateMonitor, "learning_rate")
        parser.add_lightning_class_args(BestCheckpoint, "best_checkpoint")
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.set_defaults(_DEFAULTS)

    def _parse_ckpt_path(self) -> None:
        """Do nothing, where Lightning would merge the hyperparameters in a checkpoint into the settings.

        A checkpoint brings weights, moments of the optimizer and progress; a run is what YAML and command line say.
        """

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make a trainer that replaces checkpoints when they are whole, and goes on from any of them.

        Raises:
            ValueError: It can't be made on this machine, such as with a GPU where there is none.
        """
        if (precision := self._chosen_precision()) is not None:
            kwargs["precision"] = precision
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, TypeError, ModuleNotFoundError) as error:  # in Lightning's words
            asked = self._get(self.config, "trainer.accelerator")
            hint = " (TRAINER=cpu, or --config conf/trainer/cpu.yaml, needs none)"
            where = f"trainer.accelerator={asked}, trainer.devices={self._get(self.config, 'trainer.devices')}: "
            raise ValueError((f"{where}{error}" if not isinstance(error, MisconfigurationException) else str(error))
                             + (hint if asked not in ("auto", "cpu") else "")) from error
        except (RuntimeError, ValueError) as error:
            if "SLURM" not in str(error):
                raise
            raise ValueError(f"{error} This process was started in a SLURM job of SLURM_NTASKS="
                             f"{os.environ.get('SLURM_NTASKS')} tasks: start one with srun for each device, or, for a "
                             "process on its own, `unset SLURM_NTASKS`") from error
        trainer.strategy.checkpoint_io = WholeCheckpointIO()
        use_resumable_loops(trainer)
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set outside Trainer.__init__
        callbacks[:] = [ParameterSummary() if type(one) in (ModelSummary, RichModelSummary) else
                        ProgressLines() if type(one) in _BARS and not sys.stdout.isatty() else one for one in callbacks]
        return trainer

    def _chosen_precision(self) -> str | None:
        """Choose the trainer's precision by the option `precision`; None if the trainer's own setting counts.

        The settings of the run stay as they are: another machine may choose another one.

        Raises:
            ValueError: Both are given on the command line.
        """
        choice, own = self._get(self.config, "precision"), self._get(self.config, "trainer.precision")
        given = {part.partition("=")[0] for part in self.command_line}
        if {"--precision", "--trainer.precision"} <= given:
            raise ValueError("--precision and --trainer.precision are both given: give one of them")
        if choice is None or (own is not None and "--precision" not in given):
            return None
        accelerator = self._get(self.config, "trainer.accelerator")
        on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
        chosen = choose_precision(choice, torch.device("cuda" if on_gpu else "cpu"))
        precision = {"bf16": "bf16-mixed", "32": "32-true"}[chosen]
        rank_zero_only(log.info)("precision: %s (%s)", precision, choice)
        return precision

    def _run_subcommand(self, subcommand: str) -> None:
        check_pair(self.model, self.datamodule)
        try:
            with requeueing_on_signal(self.trainer):
                super()._run_subcommand(subcommand)
        except BaseException:
            if self._aside is not None and (subcommand != "fit" or self.trainer.global_step == 0):
                give_back(self._folder, self._aside)
            raise

    def before_fit(self) -> None:
        last, path = self._folder / LAST, self.config.fit.ckpt_path
        if was_requeued() and last.is_file():
            path = last  # of this run, whichever checkpoint the command has begun with
        if path == "last":
            if not last.is_file():
                raise ValueError(f"--ckpt_path last: there is no {last} to go on from; leave the option out to start "
                                 "anew")
            path = last
        if path is None:
            self._take_folder()
            return
        self.config_init.fit.ckpt_path = str(path)
        self._take_folder(keep=Path(path).resolve().is_relative_to(self._folder.resolve()))
        now = self._parser("fit").dump(self.config.fit, skip_none=False)
        for line in changed_settings(Path(path).parent.parent / "config.yaml", now):
            log.warning("%s", line)

    def before_validate(self) -> None:
        self._take_folder_to_evaluate()
        self.config_init["validate"]["verbose"] = False  # FinalReport prints the numbers, once

    def before_test(self) -> None:
        self._take_folder_to_evaluate()
        self.config_init["test"]["verbose"] = False

    def before_predict(self) -> None:
        self._take_folder_to_evaluate()

    @property
    def _folder(self) -> Path:
        return Path(self.trainer.log_dir or ".")

    def _take_folder_to_evaluate(self) -> None:
        """Claim the folder of an evaluation.

        Raises:
            ValueError: `--ckpt_path` is not a file, where Lightning would go on with the first weights, or lies in the
                folder, which would be set aside with it.
        """
        if (path := self.config[self.subcommand].ckpt_path) is not None:
            if not Path(path).is_file():
                raise ValueError(f"--ckpt_path {path}: there is no such checkpoint; give the path of a file")
            if Path(path).resolve().is_relative_to(self._folder.resolve()):
                raise ValueError(f"--ckpt_path {path} lies in {self._folder}, where this evaluation would write: give "
                                 "it another trainer.logger.init_args.name")
        self._take_folder()

    def _take_folder(self, keep: bool = False) -> None:
        logger, folder = self.trainer.logger, self._folder
        if isinstance(logger, TensorBoardLogger):
            if not logger.name:
                raise ValueError("trainer.logger.init_args.name is empty: name the run")
            self._aside = rank_zero_only(take_folder)(folder, keep)

    def after_fit(self) -> None:
        self._evaluate_best()
        self._show_report()

    def after_validate(self) -> None:
        self._show_report()

    def after_test(self) -> None:
        self._show_report()

    def _show_report(self) -> None:
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]  # set outside Trainer.__init__
        for report in [one for one in callbacks if isinstance(one, FinalReport)]:
            report.show()

    def _evaluate_best(self) -> None:
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if not best or getattr(self.trainer, "fast_dev_run", False):
            log.warning("No epoch of this run was validated, so it has no best checkpoint to test.")
            return
        options = {"datamodule": self.datamodule, "ckpt_path": best, "verbose": False, "weights_only": True}
        self.trainer.validate(self.model, **options)
        if getattr(self.datamodule, "has_test_data", False):
            self.trainer.test(self.model, **options)


class SaveSettings(SaveConfigCallback):
    """Writes `config.yaml` whole or not at all: that of a fit when it trains, so that a refused one changes nothing."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" and not self.already_saved:
            self._write(trainer)
        self.already_saved = True  # the evaluation after a fit has the fit's settings

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        folder = trainer.log_dir  # all processes must ask
        if trainer.is_global_zero and folder is not None:
            with atomic_write(Path(folder) / self.config_filename) as draft:
                draft.write_text(self.parser.dump(self.config, skip_none=False), encoding="utf-8")


def check_pair(model: LightningModule, data: LightningDataModule) -> None:
    """Refuse the data module of another task of this package, whose batches have other keys.

    Raises:
        ValueError: It is one; says which tasks take its batches.
    """
    tasks = getattr(data, "tasks", ())  # data modules of others may lack it
    names = {f"{kind.__module__}.{kind.__name__}" for kind in type(model).__mro__}
    if tasks and names & _TASKS and not names & set(tasks):  # tasks of others may take any batches
        raise ValueError(f"{type(model).__name__} can't use the batches of {type(data).__name__}: set model.class_path "
                         f"to {' or '.join(tasks)}, or data.class_path to the data module of {type(model).__name__}")


def run(args: list[str]) -> None:
    """Run `egovlpv2 fit|validate|test|predict`.

    Raises:
        ValueError: An option, a file or this machine doesn't allow it.
        SystemExit: A signal asks for the end; the exit code is 128 and its number.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("egovlpv2").setLevel(logging.INFO)
    # Lightning would print the signal too.
    logging.getLogger("lightning.pytorch.trainer.connectors.signal_connector").setLevel(logging.WARNING)
    torch.set_float32_matmul_precision("high")
    jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    check_command_line(args)
    with ending_on_signals("stopped; checkpoints that were written stay"):
        EgoCLI.command_line = args
        try:
            EgoCLI(
                LightningModule, LightningDataModule, subclass_mode_model=True, subclass_mode_data=True,
                args=None if args == sys.argv[1:] else args,  # Lightning warns of a list where a command line is
                trainer_defaults={"callbacks": [FinalReport()]},
                parser_kwargs={"parser_mode": "omegaconf+", "exit_on_error": False},
                save_config_callback=SaveSettings, save_config_kwargs={"overwrite": True}, seed_everything_default=0,
            )
        except MisconfigurationException as error:  # Lightning's word for settings that it refuses
            raise ValueError(str(error)) from error
        except argparse.ArgumentError as error:
            raise ValueError(explain(error, args)) from error
        except OmegaConfBaseException as error:
            raise ValueError(explain_interpolation(error, args)) from error

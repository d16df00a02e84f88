"""LightningCLI as this project uses it: several `--config` files, interpolation between them, one folder a run."""

import logging
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonargparse
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from egovlpv2.command.signals import ending_on_signals
from egovlpv2.io.files import atomic_write
from egovlpv2.io.yaml_files import read_yaml
from egovlpv2.training.checkpoint_io import WholeCheckpointIO
from egovlpv2.training.report import FinalReport
from egovlpv2.training.resume import use_resumable_loops
from egovlpv2.training.run_checkpoints import LAST
from egovlpv2.training.run_folder import take_folder
from egovlpv2.training.settings import changed_settings

CONFIG = ("--config", "-c")

log = logging.getLogger(__name__)


class EgoCLI(LightningCLI):
    """Tests the best checkpoint after a fit, and never writes one run over another."""

    def _parse_ckpt_path(self) -> None:
        """Do nothing, where Lightning would merge the hyperparameters in a checkpoint into the settings.

        A checkpoint brings weights, moments of the optimizer and progress; a run is what YAML and command line say.
        """

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make a trainer that replaces checkpoints when they are whole, and goes on from any of them.

        Raises:
            ValueError: It can't be made on this machine, such as with a GPU where there is none.
        """
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except MisconfigurationException as error:
            asked = self._get(self.config, "trainer.accelerator")
            hint = " (TRAINER=cpu, or --config conf/trainer/cpu.yaml, needs none)" if asked in ("gpu", "cuda") else ""
            raise ValueError(f"{error}{hint}") from error
        except (RuntimeError, ValueError) as error:
            if "SLURM" not in str(error):
                raise
            raise ValueError(f"{error} This process was started in a SLURM job of SLURM_NTASKS="
                             f"{os.environ.get('SLURM_NTASKS')} tasks: start one with srun for each device, or, for a "
                             "process on its own, `unset SLURM_NTASKS`") from error
        trainer.strategy.checkpoint_io = WholeCheckpointIO()
        use_resumable_loops(trainer)
        return trainer

    def before_fit(self) -> None:
        last, path = self._folder / LAST, self.config.fit.ckpt_path
        if path is None and os.environ.get("SLURM_RESTART_COUNT", "0") != "0" and last.is_file():
            path = last  # SLURM has queued the job again
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
        self.config_init["validate"]["verbose"] = False  # the numbers are printed once, by FinalReport

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
        if isinstance(logger, TensorBoardLogger) and logger.name:
            rank_zero_only(take_folder)(folder, keep)

    def after_fit(self) -> None:
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if not best or self.trainer.fast_dev_run:
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


def _check_configs(args: list[str]) -> None:
    """Refuse a `--config` file that isn't YAML or has a key twice, by its name, which jsonargparse leaves out."""
    for before, value in pairwise(["", *args]):
        option, equals, given = value.partition("=")
        path = given if equals and option in CONFIG else value if before in CONFIG else ""
        if path and os.path.isfile(path):
            read_yaml(Path(path))


def run(args: list[str]) -> None:
    """Run `egovlpv2 fit|validate|test|predict`.

    Raises:
        ValueError: An option, a file or this machine doesn't allow it.
        SystemExit: A signal asks for the end; the exit code is 128 and its number.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("egovlpv2").setLevel(logging.INFO)
    torch.set_float32_matmul_precision("high")
    jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    _check_configs(args)
    with ending_on_signals("stopped; checkpoints that were written stay"):
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

"""LightningCLI as this project uses it: several `--config` files, interpolation between them, one folder a run."""

import logging
import sys
from pathlib import Path

import jsonargparse
import torch
from egovlpv2.callbacks import FinalReport
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

log = logging.getLogger(__name__)


class EgoCLI(LightningCLI):
    """Tests the best checkpoint after a fit, and never writes one run over another."""

    def before_fit(self) -> None:
        if self.config.fit.ckpt_path is None:
            self._set_earlier_run_aside()
        elif self.config.fit.ckpt_path == "last" and not (self._folder / "checkpoints" / "last.ckpt").is_file():
            raise ValueError(f"--ckpt_path last: there is no {self._folder}/checkpoints/last.ckpt to go on from; leave "
                             "the option out to start anew")

    def before_validate(self) -> None:
        self._set_earlier_run_aside()
        self.config_init["validate"]["verbose"] = False  # the numbers are printed once, by FinalReport

    def before_test(self) -> None:
        self._set_earlier_run_aside()
        self.config_init["test"]["verbose"] = False

    def before_predict(self) -> None:
        self._set_earlier_run_aside()

    @property
    def _folder(self) -> Path:
        return Path(self.trainer.log_dir or ".")

    def _set_earlier_run_aside(self) -> None:
        logger = self.trainer.logger
        if isinstance(logger, TensorBoardLogger) and logger.name:
            _set_aside(self._folder)

    def after_fit(self) -> None:
        if not self.trainer.fast_dev_run:  # the callback writes `last.ckpt` every so many steps, not at the end
            self.trainer.save_checkpoint(self._folder / "checkpoints" / "last.ckpt")
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if not best or self.trainer.fast_dev_run:
            log.warning("No epoch of this run was validated, so it has no best checkpoint to test.")
            return
        self.trainer.validate(self.model, self.datamodule, ckpt_path=best, verbose=False)
        if getattr(self.datamodule, "has_test_data", False):
            self.trainer.test(self.model, self.datamodule, ckpt_path=best, verbose=False)


@rank_zero_only
def _set_aside(folder: Path) -> None:
    """A finished or broken-off run of the same name moves to `<folder>.1`, `.2`, ..."""
    if not any((folder / name).exists() for name in ("checkpoints", "metrics.json", "predictions.json")):
        return
    number = next(i for i in range(1, 10_000) if not Path(f"{folder}.{i}").exists())
    folder.rename(f"{folder}.{number}")
    print(f"{folder} held an earlier run: it is now {folder}.{number}")


def run(args: list[str]) -> None:
    """`egovlpv2 fit|validate|test|predict`."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("egovlpv2").setLevel(logging.INFO)
    torch.set_float32_matmul_precision("high")
    jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    try:
        EgoCLI(
            LightningModule, LightningDataModule, subclass_mode_model=True, subclass_mode_data=True,
            args=None if args == sys.argv[1:] else args,  # Lightning warns of a list where a command line is
            trainer_defaults={"callbacks": [FinalReport()]},
            parser_kwargs={"parser_mode": "omegaconf+", "exit_on_error": False},
            save_config_kwargs={"overwrite": True}, seed_everything_default=0,
        )
    except MisconfigurationException as error:  # such as a GPU asked for where there is none
        raise ValueError(f"{error} (TRAINER=cpu, or --config conf/trainer/cpu.yaml, needs none)") from error

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

log = logging.getLogger(__name__)


class EgoCLI(LightningCLI):
    """Tests the best checkpoint after a fit, and never writes one run over another."""

    def before_fit(self) -> None:
        logger = self.trainer.logger
        if self.config.fit.ckpt_path is None and isinstance(logger, TensorBoardLogger) and logger.name:
            _set_aside(Path(logger.log_dir))

    def after_fit(self) -> None:
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if not best or self.trainer.fast_dev_run:
            log.warning("No epoch of this run was validated, so it has no best checkpoint to test.")
            return
        self.trainer.validate(self.model, self.datamodule, ckpt_path=best)
        if getattr(self.datamodule, "has_test_data", False):
            self.trainer.test(self.model, self.datamodule, ckpt_path=best)


@rank_zero_only
def _set_aside(folder: Path) -> None:
    """A finished or broken-off run of the same name moves to `<folder>.1`, `.2`, ...; SLURM's requeued one stays."""
    if not (folder / "checkpoints").is_dir() or any(folder.glob("hpc_ckpt_*")):
        return
    number = next(i for i in range(1, 10_000) if not Path(f"{folder}.{i}").exists())
    folder.rename(f"{folder}.{number}")
    print(f"{folder} held an earlier run: it is now {folder}.{number} (--ckpt_path last would have resumed it)")


def run(args: list[str]) -> None:
    """`egovlpv2 fit|validate|test|predict`."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("egovlpv2").setLevel(logging.INFO)
    torch.set_float32_matmul_precision("high")
    jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    EgoCLI(
        LightningModule, LightningDataModule, subclass_mode_model=True, subclass_mode_data=True,
        args=None if args == sys.argv[1:] else args,  # Lightning warns of a list where a command line is
        trainer_defaults={"callbacks": [FinalReport()]}, parser_kwargs={"parser_mode": "omegaconf+"},
        save_config_kwargs={"overwrite": True}, seed_everything_default=0,
    )

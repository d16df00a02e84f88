"""LightningCLI as this project uses it: several `--config` files, interpolation between them, one folder a run."""

import logging
import sys
from pathlib import Path

import jsonargparse
import torch
from egovlpv2.callbacks import FinalReport
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities import rank_zero_only


class EgoCLI(LightningCLI):
    """Tests the best checkpoint after a fit, and never writes one run over another."""

    def before_fit(self) -> None:
        folder = Path(self.trainer.log_dir or self.trainer.default_root_dir)
        if self.config_fit.ckpt_path is None:
            _set_aside(folder)

    def after_fit(self) -> None:
        best = self.trainer.checkpoint_callback
        if best is not None and best.best_model_path and getattr(self.datamodule, "has_test_data", False):
            self.trainer.test(self.model, self.datamodule, ckpt_path=best.best_model_path)

    @property
    def config_fit(self) -> jsonargparse.Namespace:
        return self.config["fit"]


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

"""The end of a run: its final numbers with the protocol behind them, as `metrics.json` and as a table."""

import json
import os
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only


class FinalReport(Callback):
    """Writes `metrics.json` beside the TensorBoard log and prints the metrics as a table."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer, pl_module, "fit")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._report(trainer, pl_module, "validate")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer, pl_module, "test")

    def _report(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self.metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()
                         if not name.endswith(("_step", "_epoch"))}
        protocol = {"command": stage, "checkpoint": trainer.ckpt_path, "epochs": trainer.current_epoch,
                    "steps": trainer.global_step, "devices": trainer.world_size, "precision": trainer.precision}
        for part in (module, trainer.datamodule):
            protocol |= getattr(part, "protocol", {})
        if trainer.log_dir is not None:
            write_metrics(Path(trainer.log_dir) / "metrics.json", self.metrics, protocol)


@rank_zero_only
def write_metrics(path: Path, metrics: dict[str, float], protocol: dict[str, Any]) -> None:
    """Writes the file whole or not at all, and prints what is in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"metrics": metrics, "protocol": protocol}, indent=2) + "\n")
    os.replace(partial, path)
    width = max((len(name) for name in metrics), default=0)
    rows = "\n".join(f"  {name:<{width}}  {value:10.4f}" for name, value in sorted(metrics.items()))
    print(f"\n{rows}\n\nwritten with the protocol to {path}")

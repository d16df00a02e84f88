"""Final report of a run: its metrics and protocol, as `metrics.json` and as a table."""

import time
from itertools import chain
from pathlib import Path
from typing import Any, TypedDict

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from egovlpv2.io.files import finite, write_json, write_report
from egovlpv2.io.schema import check


class FinalReport(Callback):
    """Write `metrics.json` into the run's folder after each stage; `show` prints it as a table, once, at the end."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.protocol: dict[str, Any] = {}
        self.path: Path | None = None  # of `metrics.json`, once it is written
        self.trained: dict[str, int] = {}  # epochs, steps and seconds of training, if any
        self.began = 0.0
        self.seconds_before = 0.0  # of training, before the run was resumed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["egovlpv2_report"] = {"seconds": self._seconds(), "metrics": self.metrics | _numbers(trainer)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the training time and the metrics of a resumed run."""
        if trainer.state.fn == TrainerFn.FITTING and "egovlpv2_report" in checkpoint:
            report = check(checkpoint["egovlpv2_report"], _Report, str(trainer.ckpt_path))
            self.seconds_before, self.metrics = report["seconds"], report["metrics"]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer, pl_module, "fit")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._report(trainer, pl_module, "validate")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer, pl_module, "test")

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            raise ValueError("predict writes one file: run it with trainer.devices=1")
        predictions = trainer.predict_loop.predictions  # of each batch, or of each batch of each loader
        batches = chain.from_iterable(predictions) if trainer.predict_loop.num_dataloaders > 1 else predictions
        rows = [row for batch in batches for row in batch]
        submission = getattr(pl_module, "submission", None)  # converts rows to a challenge's format
        write_report(Path(trainer.log_dir or ".") / "predictions.json", submission(rows) if submission else rows)
        print(f"what was left out: {getattr(_data_module(trainer), 'counts', {})}")

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.began

    def _report(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self.metrics |= _numbers(trainer)
        protocol = {"command": stage, "checkpoint": trainer.ckpt_path, "devices": trainer.world_size,
                    "precision": trainer.precision}
        if stage == "fit":
            self.trained = {"epochs": trainer.current_epoch, "steps": trainer.global_step,
                            "fit_seconds": round(self._seconds())}
        protocol |= self.trained
        for part in (module, _data_module(trainer)):
            protocol |= getattr(part, "protocol", {})
        if trainer.log_dir is not None:
            self.path, self.protocol = Path(trainer.log_dir) / "metrics.json", protocol
            self._write(self.path)

    @rank_zero_only
    def _write(self, path: Path) -> None:
        write_json(path, finite({"metrics": self.metrics, "protocol": self.protocol}))

    @rank_zero_only
    def show(self) -> None:
        """Print the metrics and the protocol of what was written."""
        if self.path is None:
            return
        checkpoint, stage = self.protocol["checkpoint"], self.protocol["command"]
        if not self.trained:
            title = f"Metrics of {stage}, of {checkpoint or self.protocol.get('weights') or 'new weights'}"
        else:
            title = "Metrics at the end of training" + (f"; val/ and test/ are of {checkpoint}" if checkpoint else "")
        width = max((len(name) for name in self.metrics), default=0)
        rows = [f"  {name:<{width}}  {value:10.{_digits(value)}f}" for name, value in sorted(self.metrics.items())]
        settings = ", ".join(f"{name} {value}" for name, value in self.protocol.items())
        print("\n".join(["", f"{title}:", *rows, "", "Protocol:", f"  {settings}", "", f"written: {self.path}"]))


class ParameterSummary(ModelSummary):
    """Lightning's table of a model's parts, without their FLOPs: it has no example to count them with."""

    @staticmethod
    def summarize(summary_data: list[tuple[str, list[str]]], total_parameters: int, trainable_parameters: int,
                  model_size: float, total_training_modes: dict[str, int], total_flops: int,
                  **summarize_kwargs: Any) -> None:
        """Print the table."""
        columns = dict(summary_data)
        rows = list(zip(columns["Name"], columns["Type"], columns["Params"], strict=True))
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        for name, kind, count in rows:
            print(f"  {name:<{widths[0]}}  {kind:<{widths[1]}}  {count:>{widths[2]}}")
        print(f"  {total_parameters:,} parameters, {trainable_parameters:,} of them trained")


class _Report(TypedDict):
    seconds: float
    metrics: dict[str, float]


def _data_module(trainer: Trainer) -> Any:
    return trainer.datamodule  # type: ignore[attr-defined]  # Lightning's data connector sets it


def _numbers(trainer: Trainer) -> dict[str, float]:
    """Collect the latest value of all logged metrics."""
    return {name: float(value) for name, value in trainer.callback_metrics.items()
            if not name.endswith(("_step", "_epoch"))}


def _digits(value: float) -> int:
    return 4 if value == 0 or abs(value) >= 1e-3 else 8  # learning rates are small

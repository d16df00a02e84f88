"""Base classes of the tasks: an optimiser, a backbone with weights, and randomness that a resumed run repeats."""

import os
from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from egovlpv2.checkpoints.weights import check_fusion, check_traits, load_strictly, read_weights
from egovlpv2.distributed import mean_over_processes, rank
from egovlpv2.model.backbone import Backbone
from egovlpv2.model.config import BackboneConfig
from egovlpv2.optim import OptimizerConfig, freeze_text, make_optimizer
from egovlpv2.tokenization import check_tokenizer


class Task(LightningModule):
    """Base class of the tasks: an optimiser of a module, and randomness that a resumed run repeats.

    Args:
        optimizer: The optimiser and its schedule; None: the task only evaluates.
    """

    trains: ClassVar[str] = "backbone"  # in the log of the optimiser's groups

    def __init__(self, optimizer: OptimizerConfig | None) -> None:
        super().__init__()
        self.optimizer_config = optimizer
        # No save_hyperparameters: a checkpoint must not override the YAML of a later run behind the user's back.

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """The module whose parameters are optimised."""

    @property
    def data(self) -> Any:
        """The data module of the run; its attributes are agreed upon by name, since tasks import no data module."""
        return self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it without a declaration

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        assert self.optimizer_config is not None
        epochs = self.trainer.max_epochs
        if not epochs or epochs < 1:
            raise ValueError("the learning rate's schedule needs trainer.max_epochs, since its warm-up is in epochs")
        steps = int(self.trainer.estimated_stepping_batches)
        # Lightning refuses to clip the gradients of a fused optimizer in mixed precision.
        fused = not (self.trainer.gradient_clip_val and isinstance(self.trainer.precision_plugin, MixedPrecision))
        made = make_optimizer(self.trained, self.optimizer_config, steps, epochs, self.trains, fused)
        return OptimizerLRSchedulerConfig(optimizer=made["optimizer"], lr_scheduler=made["lr_scheduler"])

    def step_seed(self, batch_idx: int, *more: int) -> int:
        """A seed that depends on the run's seed and the step alone, so that a resumed run draws the same numbers."""
        entropy = (global_seed(), self.current_epoch, batch_idx, *more)
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)

    def log_losses(self, losses: dict[str, Tensor], rows: int) -> None:
        """Log the losses of a training step, `train/<name>`; the progress bar shows `loss`.

        Args:
            losses: Scalars of this process; their means over all processes are logged, the numbers of one process with
                the whole batch.
            rows: Number of rows of this process.
        """
        means = mean_over_processes(torch.stack([loss.float() for loss in losses.values()]))
        for name, mean in zip(losses, means.unbind(), strict=True):
            self.log(f"train/{name}", mean, prog_bar=name == "loss", batch_size=rows)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["egovlpv2"] = {"task": type(self).__name__}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another task or model before anything is loaded.

        Raises:
            ValueError: The names or shapes of its tensors are not this model's; the message names its task.
        """
        path = self.trainer.ckpt_path
        facts = checkpoint.get("egovlpv2")
        kind = facts.get("task") if isinstance(facts, dict) else None
        like = f"a checkpoint of {kind}" if isinstance(kind, str) else "a checkpoint of another program or version"
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        if fitting and (missing := [key for key in ("optimizer_states", "lr_schedulers") if key not in checkpoint]):
            raise ValueError(f"{path} can't be resumed: it has no {missing[0]}, and looks like {like} saved with its "
                             "weights alone (they go to --model.init_args.weights)")
        if wrong := _compare_states(checkpoint["state_dict"], self.state_dict()):
            raise ValueError(f"{path} does not fit {type(self).__name__} as it is configured: {wrong}; it looks like "
                             f"{like}. Give a checkpoint of the same task and model (weights of others go to "
                             "--model.init_args.weights)")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(self.step_seed(batch_idx, rank()))  # dropout and drop path
        if self.trainer.accumulate_grad_batches == 1:
            self.zero_grad()  # Lightning would keep the last step's gradients in memory through the forward pass


class BackboneTask(Task):
    """A task with a backbone.

    Args:
        backbone: Configuration of the backbone.
        optimizer: The optimiser and its schedule; None: the task only evaluates.
        weights: Weights to start from: a released `.pth`, an own `.ckpt` or `.safetensors`; None: the towers' initial
            weights. (`--ckpt_path` is for resuming the same run.)
        num_frames: Length of the temporal embedding, if the task's clips have another number of frames than
            `backbone` has; weights are interpolated to it.
    """

    def __init__(self, backbone: BackboneConfig, optimizer: OptimizerConfig | None, weights: str | None = None,
                 num_frames: int | None = None) -> None:
        super().__init__(optimizer)
        if num_frames is not None:
            backbone = replace(backbone, video=replace(backbone.video, num_frames=num_frames))
        if weights is not None:
            plain, state = read_weights(weights)
            check_fusion(backbone, plain, weights)
            backbone = BackboneConfig.from_dict(backbone.to_dict())  # without initial weights of the towers
        self.backbone = Backbone(replace(backbone))
        if weights is not None:
            load_strictly(self.backbone, state, weights)
            check_traits(self.backbone, plain, weights)
        if optimizer is not None:
            freeze_text(self.backbone.text_tower, optimizer.frozen_text_layers)
        self.weights = weights

    @property
    def trained(self) -> nn.Module:
        return self.backbone

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        facts = checkpoint.get("egovlpv2")
        if isinstance(facts, dict) and "backbone" in facts:
            check_traits(self.backbone, facts["backbone"], str(self.trainer.ckpt_path))

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings of the model, for `metrics.json`."""
        config = self.backbone.config
        return {"weights": self.weights, "fusion": config.fusion, "num_fused_layers": config.num_fused_layers,
                "alpha": "learned" if config.alpha is None else config.alpha,
                "text_attends_to": config.text_attends_to, "fusion_cls": config.fusion_cls,
                "model_frames": config.video.num_frames, "seed": global_seed()}

    def setup(self, stage: str) -> None:
        """Refuse a data module whose tokenizer or length of texts doesn't fit the weights."""
        tower = self.backbone.text_tower
        if tokenizer := getattr(self.data, "tokenizer", None):
            check_tokenizer(tokenizer, tower, tokenizer.name_or_path)
            length = getattr(self.data, "max_tokens", 0)  # validation and testing pad to the longest text only
            if stage == "fit" and length > tower.max_tokens:
                raise ValueError(f"data.init_args.max_tokens is {length}, but the text tower has {tower.max_tokens} "
                                 "positions: lower it")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["egovlpv2"]["backbone"] = self.backbone.config.to_dict()


def _compare_states(loaded: dict[str, Any], own: dict[str, Any]) -> str:
    """The first difference between a state dict and a module's, in words; empty if it fits."""
    for text, names in (("it lacks", own.keys() - loaded.keys()), ("it also has", loaded.keys() - own.keys())):
        if names:
            return f"{text} {len(names)} tensors, such as {min(map(str, names))}"
    for name, tensor in own.items():
        if (shape := getattr(loaded[name], "shape", None)) != tensor.shape:
            return f"{name} is {tuple(shape or ())} in the file and {tuple(tensor.shape)} here"
    return ""


def global_seed() -> int:
    """The seed of the run, which Lightning's `seed_everything` leaves in the environment."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))

"""Adam or AdamW in named parameter groups, with linear warm-up and a linear, cosine or stepwise decay."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

log = logging.getLogger(__name__)

_STACKS = ("cls_token", "reg_token", "latent", "pos_embed", "temporal_embed", "position_embeddings.weight",
           "position_embedding.weight")
# Modules without pre-trained weights: their learning rate is multiplied by `new_layer_factor`.
_NEW = ("fusion.", "stack.", "projector.", "_transform.", "match_head.", "masked_word_head.", "answer_head.")
_DECAYED_NORMS = ("norm_time.weight", "fusion.norm.weight")  # norms missing in the authors' list of exemptions


@dataclass
class OptimizerConfig:
    """Configuration of the optimizer and its learning-rate schedule; the defaults are the paper's (Table D.1).

    Args:
        kind: `adamw`, or `adam`, which adds the weight decay to the gradient.
        lr: Peak learning rate of the towers.
        new_layer_factor: Factor of the learning rate of cross-attention, projectors and heads.
        alpha_lr_factor: Factor of the learning rate of the scalars `alpha`, which start at zero.
        frozen_text_layers: Number of the text tower's layers, from the first, that keep their weights, and with them
            its embeddings; cross-attention in them is trained. 0: all are trained.
        vector_factor: Additional factor of the learning rate of vectors (biases, weights of norms).
        betas: Decay rates of the moments.
        eps: Term added to the root of the second moment.
        weight_decay: Weight decay of all parameters that `no_decay` doesn't exempt.
        no_decay: Parameters without decay. `vectors`: norms, biases, alphas and position embeddings. `released`:
            biases and norms, except two kinds of norms, as in the authors' code. `none`: no exemptions.
        warmup_epochs: Length of the linear warm-up from zero, in epochs (may be fractional).
        decay: Shape of the decay after the warm-up: `linear` or `cosine` down to `end_lr` at the last step, or `step`.
        end_lr: Learning rate of the towers at the last step.
        step_epochs: Epochs between the steps of the decay `step`.
        gamma: Factor of each step of the decay `step`.
    """

    kind: Literal["adamw", "adam"] = "adamw"
    lr: float = 3e-5
    new_layer_factor: float = 4.0
    alpha_lr_factor: float = 4.0
    frozen_text_layers: int = 0
    vector_factor: float = 1.0
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.01
    no_decay: Literal["vectors", "released", "none"] = "vectors"
    warmup_epochs: float = 2.0
    decay: Literal["linear", "cosine", "step"] = "linear"
    end_lr: float = 1e-7
    step_epochs: int = 15
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if self.step_epochs < 1:
            raise ValueError(f"optimizer.step_epochs={self.step_epochs}: give 1 or more")
        if self.frozen_text_layers < 0:
            raise ValueError(f"optimizer.frozen_text_layers={self.frozen_text_layers}: give 0 or more")


def decays(name: str, parameter: nn.Parameter, no_decay: str) -> bool:
    """Decide if weight decay applies to a parameter.

    Args:
        name: The parameter's name.
        parameter: The parameter.
        no_decay: See `OptimizerConfig`.
    """
    if no_decay == "vectors":
        # Stacks of vectors, such as (1, N, D) position embeddings, count as vectors too.
        return parameter.squeeze().ndim > 1 and not name.endswith(_STACKS)
    if no_decay == "released":
        return not (name.endswith("bias") or "norm" in name.lower()) or name.endswith(_DECAYED_NORMS)
    return True


def freeze_text(tower: nn.Module, layers: int) -> None:
    """Freeze the first layers of a text tower and its embeddings; cross-attention of a fused layer stays trained.

    Args:
        tower: A module with `embeddings` and `blocks`.
        layers: Number of layers; 0 freezes nothing.

    Raises:
        ValueError: The tower has fewer layers.
    """
    blocks = tower.get_submodule("blocks")
    assert isinstance(blocks, nn.ModuleList)
    if layers > len(blocks):
        raise ValueError(f"optimizer.frozen_text_layers={layers}: the text tower has {len(blocks)} layers")
    for part in (tower.get_submodule("embeddings"), *blocks[:layers]) if layers else ():
        for name, parameter in part.named_parameters():
            if not any(new in name for new in _NEW):
                parameter.requires_grad_(False)


def parameter_groups(module: nn.Module, config: OptimizerConfig, name_of_rest: str = "backbone"
                     ) -> list[dict[str, Any]]:
    """Split the trainable parameters into named groups by learning rate and weight decay, and log their sizes.

    Args:
        module: The model.
        config: Factors of learning rates and exemptions from decay.
        name_of_rest: Name of the group of all parameters that are neither new layers nor alphas.

    Returns:
        Groups for a torch optimizer.
    """
    groups: dict[str, dict[str, Any]] = {}
    factors = {name_of_rest: 1.0, "new layers": config.new_layer_factor, "alphas": config.alpha_lr_factor}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = "alphas" if name.endswith(".alpha") else "new layers" if any(n in name for n in _NEW) else name_of_rest
        is_vector = config.vector_factor != 1 and parameter.ndim == 1
        decayed = decays(name, parameter, config.no_decay)
        key = f"{kind}, vectors" if is_vector else kind
        key = key if decayed or kind == "alphas" else f"{key}, no decay"
        lr = config.lr * factors[kind] * (config.vector_factor if is_vector else 1.0)
        group = groups.setdefault(key, {"name": key, "params": [], "lr": lr,
                                        "weight_decay": config.weight_decay if decayed else 0.0})
        group["params"].append(parameter)
    for key, group in groups.items():
        count = sum(p.numel() for p in group["params"])
        rank_zero_only(log.info)("%s: %d tensors, %.2f M parameters, lr %g", key, len(group["params"]), count / 1e6,
                                 group["lr"])
    return list(groups.values())


def lr_factor(step: int, warmup: float, total: int, decay: str, end: float) -> float:
    """Compute the learning rate at a step, relative to its peak, for linear or cosine decay.

    Args:
        step: The step, from 0.
        warmup: Steps of linear warm-up.
        total: Steps of the whole run.
        decay: `linear` or `cosine`.
        end: Relative learning rate at the last step.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    remaining = 1 - progress if decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return end + (1 - end) * remaining


class Schedule(LambdaLR):
    """A learning-rate schedule that stores only its step, so that a resumed run follows the current settings."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at a stored step, with the learning rates of the current settings."""
        self.last_epoch, self._step_count = state_dict["last_epoch"], state_dict["_step_count"]
        peaks = zip(self.base_lrs, self.lr_lambdas, strict=True)
        self._last_lr = [peak * factor(self.last_epoch) for peak, factor in peaks]
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr


def _keep_settings(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Replace the settings of groups (learning rate, decay, ...) in a stored state by the current ones.

    Raises:
        ValueError: The state has other groups of parameters.
    """
    own, stored = optimizer.param_groups, state["param_groups"]
    if [len(group["params"]) for group in own] != [len(group["params"]) for group in stored]:
        raise ValueError("the checkpoint's optimizer has other groups of parameters than the present settings make: "
                         f"{[len(group['params']) for group in stored]} tensors before, "
                         f"{[len(group['params']) for group in own]} now; resume with the former settings")
    groups = [{**current, "params": saved["params"]} for current, saved in zip(own, stored, strict=True)]
    return state | {"param_groups": groups}


def lr_factors(config: OptimizerConfig, total_steps: int, max_epochs: int) -> Callable[[int], float]:
    """Build the function from a step to its learning rate, relative to the peak.

    Args:
        config: The schedule.
        total_steps: Steps of the whole run.
        max_epochs: Epochs of the whole run.
    """
    warmup = total_steps * config.warmup_epochs / max_epochs
    if config.decay == "step":
        def factor(step: int) -> float:
            epoch = step * max_epochs // max(total_steps, 1)
            return min((step + 1) / (warmup + 1), config.gamma ** (epoch // config.step_epochs))
        return factor
    end = config.end_lr / config.lr
    return lambda step: lr_factor(step, warmup, total_steps, config.decay, end)


def make_optimizer(module: nn.Module, config: OptimizerConfig, total_steps: int, max_epochs: int,
                   name_of_rest: str = "backbone", fused: bool = True) -> dict[str, Any]:
    """Build the return value of `LightningModule.configure_optimizers`: an optimizer and a schedule by steps.

    Their states hold moments and progress only: a run resumed from a checkpoint follows its current settings.

    Args:
        module: The model.
        config: Optimizer and schedule.
        total_steps: Steps of the whole run.
        max_epochs: Epochs of the whole run.
        name_of_rest: See `parameter_groups`.
        fused: Update all parameters in one kernel.
    """
    make = {"adamw": AdamW, "adam": Adam}[config.kind]
    groups = parameter_groups(module, config, name_of_rest)
    optimizer = make(groups, betas=config.betas, eps=config.eps, fused=fused)
    optimizer.register_load_state_dict_pre_hook(_keep_settings)
    schedule = Schedule(optimizer, lr_factors(config, total_steps, max_epochs))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

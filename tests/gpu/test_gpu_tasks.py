"""Every task computes on a GPU what it computes on the CPU, in float32 and in bfloat16."""

from typing import Any

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.utilities import move_data_to_device
from small_tasks import NAMES, small_task

from egovlpv2.device import autocast
from egovlpv2.tasks.egomcq import EgoMCQ, choice_scores
from egovlpv2.tasks.pretrain import Pretrain
from egovlpv2.types import Precision

pytestmark = pytest.mark.gpu
IN_FLOAT32 = ("nlq", "mq")  # their heads compute so, whatever the trainer's precision is


def run(name: str, tokenizer: str, device: torch.device, precision: Precision) -> dict[str, torch.Tensor]:
    """Losses or scores of a task, and the gradient of all parameters as one vector."""
    task, batch = small_task(name, tokenizer)
    task.to(device)
    with autocast(precision, device):
        found = losses(task, move_data_to_device(batch, device))
    found["loss"].backward()
    gradients = [p.grad.flatten() for p in task.parameters() if p.grad is not None]
    return {key: value.detach().float().cpu() for key, value in (found | {"gradient": torch.cat(gradients)}).items()}


def losses(task: LightningModule, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    if isinstance(task, Pretrain):
        total, parts = task.objectives(batch, torch.Generator().manual_seed(0))
        return {"loss": total, **parts}
    if isinstance(task, EgoMCQ):
        scores = choice_scores(task.backbone, batch)
        return scores | {"loss": scores["ensemble"].square().mean()}
    return {"loss": task.training_step(batch, 0)}


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_are_those_on_the_cpu(name: str, tokenizer: str, device: torch.device) -> None:
    found, expected = run(name, tokenizer, device, "32"), run(name, tokenizer, torch.device("cpu"), "32")
    assert found.keys() == expected.keys() and expected["gradient"].norm() > 0
    for key, value in expected.items():
        size = float(value.abs().max())
        torch.testing.assert_close(found[key], value, atol=2e-3 * size, rtol=2e-3, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_gives_nearly_the_losses_and_gradients_of_float32(name: str, tokenizer: str, device: torch.device
                                                                  ) -> None:
    found, expected = run(name, tokenizer, device, "bf16"), run(name, tokenizer, device, "32")
    assert found.keys() == expected.keys()
    tolerance, cosine = (1e-4, 0.9999) if name in IN_FLOAT32 else (0.05, 0.99)
    for key in expected.keys() - {"gradient"}:
        torch.testing.assert_close(found[key], expected[key], atol=tolerance, rtol=tolerance)
    assert torch.cosine_similarity(found["gradient"], expected["gradient"], dim=0) > cosine

"""Attention of few tokens to few, which a GPU doesn't leave to torch's kernel: values and gradients."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from egovlpv2.model import attention
from egovlpv2.model.compilation import check_compiler

pytestmark = pytest.mark.gpu


def outputs(attend: Callable[..., torch.Tensor], given: list[torch.Tensor]) -> list[torch.Tensor]:
    """The outputs and the gradients of a loss on them."""
    inputs = [x.detach().requires_grad_() for x in given]
    out = attend(*inputs)
    return [out, *torch.autograd.grad(out.float().square().sum(), inputs)]


@pytest.mark.parametrize("kind, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("frames", [1, 4, 16])
def test_attention_in_time_is_torchs(kind: torch.dtype, tolerance: float, frames: int, device: torch.device) -> None:
    torch.manual_seed(0)
    given = [torch.randn(2, 24, n, 64, device=device, dtype=kind) for n in (frames, frames + 1, frames + 1)]
    ways = {"plain": attention.scaled_dot_product, "sums": attention._sums}
    if device.type != "cpu" and frames == 4:  # to compile takes seconds
        check_compiler()
        ways["compiled"] = torch.compile(attention.scaled_dot_product, fullgraph=True)
    expected = outputs(F.scaled_dot_product_attention, [x.double() for x in given])
    for name, way in ways.items():
        for found, exact in zip(outputs(way, given), expected, strict=True):
            assert found.dtype == kind
            error = (found.double() - exact).norm() / exact.norm().clamp(min=1e-6)
            assert error < tolerance, f"{name}: {error:.2g}"

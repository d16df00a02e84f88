"""Backward passes of several objectives one after the other, and losses of large batches in small parts.

Objectives that share the outputs of a trunk need not keep their activations until the end of the step. With `Cut`, each
objective is differentiated as soon as its loss is known, down to the shared outputs; the gradients wait there for the
trunk's backward pass. Nothing is computed twice, and only one objective's activations are in memory.

Letters: `B` clips.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint


class _Known(Function):
    """A loss with known gradients of other tensors, which its backward pass hands on."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *tensors: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        assert ctx.gradients is not None, "the gradients of an objective are handed on once"
        gradients, ctx.gradients = ctx.gradients, None
        for i, gradient in enumerate(gradients):
            gradients[i] = gradient * grad
        return None, None, *gradients


class Cut:
    """A cut through the graph, behind which each objective has a backward pass of its own.

    To whoever differentiates the sum of the losses, there is one backward pass, in which each parameter gets its
    gradient once: gradient accumulation, clipping and DDP need no special case. DDP reduces all gradients in that
    pass; collectives with gradients run in the objectives' own, in the same order on every process.

    Args:
        parameters: Parameters that an objective may use behind the cut; frozen ones are skipped.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._shared: list[tuple[Tensor, Tensor]] = []

    def share(self, x: Tensor) -> Tensor:
        """Return a tensor for the objectives to use in place of `x`."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return x
        leaf = x.detach().requires_grad_()
        self._shared.append((x, leaf))
        return leaf

    def backward(self, loss: Tensor) -> Tensor:
        """Differentiate an objective and free its activations.

        Args:
            loss: Scalar.

        Returns:
            The same value, whose backward pass hands the gradients on.
        """
        if not (torch.is_grad_enabled() and loss.requires_grad):
            return loss
        targets = [*(leaf for _, leaf in self._shared), *self._parameters]
        receivers = [*(x for x, _ in self._shared), *self._parameters]
        with torch.autocast(loss.device.type, enabled=False):
            gradients = torch.autograd.grad(loss, targets, allow_unused=True)
        used = [(gradient, x) for gradient, x in zip(gradients, receivers, strict=True) if gradient is not None]
        return _Known.apply(loss.detach(), [gradient for gradient, _ in used], *(x for _, x in used))


def in_parts(function: Callable[..., Any], size: int | None, *inputs: Tensor) -> Any:
    """Apply a function to parts of a batch, and in the backward pass compute one part's activations at a time anew.

    A loss on all outputs then takes the memory of one part: this is gradient caching (Gao et al., 2021).

    Args:
        function: From rows of the inputs to a tensor of as many rows, or a tuple of them; with the same random numbers
            when it is computed anew.
        size: Rows of a part; None for all.
        *inputs: (B, ...) each.

    Returns:
        As `function(*inputs)`.
    """
    rows = len(inputs[0])
    if size is None or rows <= size or not torch.is_grad_enabled():
        return function(*inputs)
    parts = [checkpoint(function, *(x[i : i + size] for x in inputs), use_reentrant=False)
             for i in range(0, rows, size)]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))

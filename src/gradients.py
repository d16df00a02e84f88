"""Backward passes of several objectives one after the other, and losses of large batches in small parts.

Objectives that share the outputs of a trunk need not keep their activations until the end of the step. With `Cut`, each
objective is differentiated as soon as its loss is known, down to the shared outputs; the gradients wait there for the
trunk's backward pass. Nothing is computed twice, and only one objective's activations are in memory.

Letters: `B` clips.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint


class _Known(Function):
    """A value with known gradients of other tensors, which its backward pass hands on."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *tensors: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        assert ctx.gradients is not None, "the gradients are handed on once"
        gradients, ctx.gradients = ctx.gradients, None
        if grad.device.type != "cpu" or grad != 1:  # to look at the value would stop a GPU
            for gradient in gradients:
                gradient.mul_(grad)
        return None, None, *gradients


class Cut:
    """A cut through the graph, behind which each objective has a backward pass of its own.

    To whoever differentiates `total`, there is one backward pass, in which each parameter gets its gradient once:
    gradient accumulation, clipping and DDP need no special case. DDP reduces all gradients in that pass; collectives
    with gradients run in the objectives' own, in the same order on every process.

    Args:
        parameters: Parameters that an objective may use behind the cut; frozen ones are skipped.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._receivers: list[Tensor] = [parameter for parameter in parameters if parameter.requires_grad]
        self._targets = list(self._receivers)  # parameters, and what objectives see of the shared tensors
        self._gradients: dict[int, Tensor] = {}  # by position in the above
        self._value: Tensor | float = 0.0

    def share(self, x: Tensor) -> Tensor:
        """Return a tensor for the objectives to use in place of `x`."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return x
        leaf = x.detach().requires_grad_()
        self._receivers.append(x)
        self._targets.append(leaf)
        return leaf

    def backward(self, loss: Tensor, weight: float) -> Tensor:
        """Differentiate an objective and free its activations.

        Args:
            loss: Scalar.
            weight: Its factor in `total`.

        Returns:
            The loss, without a graph.
        """
        weighted = loss * weight
        if torch.is_grad_enabled() and loss.requires_grad:
            self._differentiate(weighted)
        self._value = self._value + weighted.detach()
        return loss.detach()

    def _differentiate(self, loss: Tensor) -> None:
        adding = [self._targets[i].register_hook(partial(self._add, i)) for i in self._gradients]
        try:
            with torch.autocast(loss.device.type, enabled=False):
                found = torch.autograd.grad(loss, self._targets, allow_unused=True)
        finally:
            for hook in adding:
                hook.remove()
        taken = {gradient.data_ptr() for gradient in self._gradients.values()}
        for i, gradient in enumerate(found):
            if gradient is not None and i not in self._gradients:
                # Others are added to it: its memory must be its own. Autograd may give one tensor to several.
                own = gradient.data_ptr() not in taken and gradient.untyped_storage().nbytes() == gradient.nbytes
                self._gradients[i] = gradient if own else gradient.clone(memory_format=torch.contiguous_format)
                taken.add(gradient.data_ptr())

    def _add(self, i: int, gradient: Tensor) -> Tensor:
        """Add a gradient as soon as it is there, so that its memory is free for the next."""
        self._gradients[i].add_(gradient)
        return gradient.new_zeros(()).expand_as(gradient)

    def total(self) -> Tensor:
        """The weighted sum of the losses, whose backward pass hands all gradients on."""
        value = torch.as_tensor(self._value)
        if not self._gradients:
            return value
        gradients, self._gradients = self._gradients, {}
        return _Known.apply(value, [*gradients.values()], *(self._receivers[i] for i in gradients))


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
    parts = [checkpoint(function, *part, use_reentrant=False)
             for part in zip(*(x.split(size) for x in inputs), strict=True)]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def select_rows(x: Tensor, index: Tensor) -> Tensor:
    """Select rows (n, ...) with repetition; their gradients are added in the same order in each run.

    On a CPU that of `x[index]` adds them in any order, on CUDA that of `index_select`.
    """
    return x[index] if x.is_cuda else x.index_select(0, index)

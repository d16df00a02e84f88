"""Sharing a batch between processes, with gradients. Without a process group, everything here is the identity.

With DDP's averaging of gradients, a loss over gathered tensors gives each parameter the gradient that one process
with the whole batch would: `tests/test_distributed.py`.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


class _Gather(Function):
    """Rows of all processes; a row's gradient is the sum of what the processes make of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rows = x.new_empty(world_size() * len(x), *x.shape[1:])
        dist.all_gather_into_tensor(rows, x.contiguous())
        return rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)  # it may be another tensor's gradient too
        dist.all_reduce(grad)
        return local_shard(grad)


class _Exchange(Function):
    """Sends `sent[p]` rows to each process and takes `received[p]` from it; gradients go the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, received: list[int], sent: list[int]) -> Tensor:
        ctx.received, ctx.sent = received, sent
        out = x.new_empty(sum(received), *x.shape[1:])
        dist.all_to_all_single(out, x.contiguous(), received, sent)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        out = grad.new_empty(sum(ctx.sent), *grad.shape[1:])
        dist.all_to_all_single(out, grad.contiguous(), ctx.sent, ctx.received)
        return out, None, None


def broadcast_from_rank0(x: Tensor) -> Tensor:
    """The tensor as the first process has it."""
    if world_size() > 1:
        dist.broadcast(x, src=0)
    return x


def all_reduce_sum(number: int, device: torch.device) -> int:
    """The sum over all processes; all must ask."""
    summed = torch.tensor(number, device=device)
    if world_size() > 1:
        dist.all_reduce(summed)
    return int(summed)


def gather(x: Tensor) -> Tensor:
    """Rows of all processes in the order of their ranks, with gradients: (b, ...) -> (n, ...)."""
    return x if world_size() == 1 else _Gather.apply(x)


def local_shard(x: Tensor) -> Tensor:
    """This process's share of gathered rows: (n, ...) -> (b, ...)."""
    return x.chunk(world_size())[rank()]


def exchange_rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows of the whole batch, from whichever process has them, with gradients.

    Only the rows asked for travel, straight from their owner: for hard negatives this is a fraction of what gathering
    every clip would cost.

    Args:
        x: (b, ...) the rows of this process.
        index: (n,) int64, the same on every process: row numbers in the whole batch, of which each process asks for
            its own `b`, in the order of ranks.

    Returns:
        (b, ...): this process's share of `gather(x)[index]`.
    """
    if world_size() == 1:
        return x[index]
    owner = (index // len(x)).view(world_size(), -1).cpu()  # (processes, b): who has what each process asks for
    row = (index % len(x)).view(world_size(), -1).cpu()
    sent = [row[asker][owner[asker] == rank()] for asker in range(world_size())]
    received = owner[rank()].bincount(minlength=world_size()).tolist()
    rows = _Exchange.apply(x[torch.cat(sent).to(x.device)], received, [len(s) for s in sent])
    order = owner[rank()].argsort(stable=True)  # the rows arrive in the order of their owners
    return rows[order.argsort().to(x.device)]

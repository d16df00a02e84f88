"""Collectives with gradients, for losses over the batch of all processes. All are the identity in a single process.

Combined with DDP's averaging of gradients, a loss over gathered tensors gives each parameter the same gradient as a
single process with the whole batch (`tests/test_distributed.py`).

`torch.distributed.nn.functional` has such collectives too, with right gradients, but torch 2.14 deprecates all of them:
each call warns, fails under `torch.compile`, and refers to a private module. Two autograd functions here replace them.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from egovlpv2.gradients import select_rows


def world_size() -> int:
    """Return the number of processes, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


class _Gather(Function):
    """All-gather along the first dimension; the gradient of a row is summed over all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rows = x.new_empty(world_size() * len(x), *x.shape[1:])
        dist.all_gather_into_tensor(rows, x.contiguous())
        return rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)  # reduced in place, and autograd may share `grad`
        dist.all_reduce(grad)
        return local_shard(grad)


class _Exchange(Function):
    """All-to-all: send `sent[p]` rows to process `p` and receive `received[p]` rows from it."""

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
    """Overwrite a tensor with the values of rank 0, in place, and return it. Collective."""
    if world_size() > 1:
        dist.broadcast(x, src=0)
    return x


def all_reduce_sum(number: int, device: torch.device) -> int:
    """Sum a number over all processes. Collective: every process must call it."""
    summed = torch.tensor(number, device=device)
    if world_size() > 1:
        dist.all_reduce(summed)
    return int(summed)


def mean_over_processes(x: Tensor) -> Tensor:
    """Average a tensor over all processes, without gradients. Collective."""
    mean = x.detach() / world_size()
    if world_size() > 1:
        dist.all_reduce(mean)
    return mean


def gather(x: Tensor) -> Tensor:
    """Gather the rows of all processes in the order of their ranks, with gradients: (b, ...) -> (n, ...)."""
    return x if world_size() == 1 else _Gather.apply(x)


def local_shard(x: Tensor) -> Tensor:
    """Select this process's rows out of gathered ones: (n, ...) -> (b, ...)."""
    return x.chunk(world_size())[rank()]


def exchange_rows(x: Tensor, index: Tensor) -> Tensor:
    """Fetch rows of the whole batch from the processes that hold them, with gradients.

    Only the requested rows are sent, directly from their owners: for hard negatives, a fraction of the traffic of
    gathering every clip.

    Args:
        x: (b, ...) the rows of this process.
        index: (n,) int64 rows of the whole batch, the same on every process; each process requests its own `b` of them,
            in the order of ranks.

    Returns:
        `local_shard(gather(x)[index])`, (b, ...).
    """
    if world_size() == 1:
        return select_rows(x, index)
    owner = (index // len(x)).view(world_size(), -1).cpu()  # (processes, b): holder of each requested row
    row = (index % len(x)).view(world_size(), -1).cpu()
    sent = [row[receiver][owner[receiver] == rank()] for receiver in range(world_size())]
    received = owner[rank()].bincount(minlength=world_size()).tolist()
    rows = _Exchange.apply(select_rows(x, torch.cat(sent).to(x.device)), received, [len(s) for s in sent])
    order = owner[rank()].argsort(stable=True)  # rows arrive sorted by owner
    return rows[order.argsort().to(x.device)]

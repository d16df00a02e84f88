"""Sharing a batch between processes, with gradients. Without a process group, everything here is the identity.

With DDP's averaging of gradients, a loss over gathered tensors gives each parameter the gradient that one process
with the whole batch would: `tests/test_distributed.py`.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather, all_to_all_single


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def gather(x: Tensor) -> Tensor:
    """Rows of all processes in the order of their ranks, with gradients: (b, ...) -> (n, ...)."""
    if world_size() == 1:
        return x
    if x.requires_grad:
        return torch.cat(all_gather(x.contiguous()))
    rows = x.new_empty(world_size() * len(x), *x.shape[1:])
    dist.all_gather_into_tensor(rows, x.contiguous())
    return rows


def local(x: Tensor) -> Tensor:
    """This process's share of gathered rows: (n, ...) -> (b, ...)."""
    return x.chunk(world_size())[rank()]


def fetch_rows(x: Tensor, index: Tensor) -> Tensor:
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
    out = x.new_empty(sum(received), *x.shape[1:])
    out = all_to_all_single(out, x[torch.cat(sent).to(x.device)].contiguous(), received, [len(s) for s in sent])
    order = owner[rank()].argsort(stable=True)  # the rows arrive in the order of their owners
    return out[order.argsort().to(x.device)]

"""Sharing rows between three processes, for which threads stand in: each has a rank of its own in one group.

`test_distributed.py` has real processes; here every rule is checked in milliseconds.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from egovlpv2 import distributed
from egovlpv2.distributed import (
    all_reduce_sum,
    broadcast_from_rank0,
    exchange_rows,
    gather,
    local_shard,
    mean_over_processes,
    rank,
    world_size,
)
from egovlpv2.model.outputs import VideoContext

PROCESSES = 3


class Group:
    """The collectives of `torch.distributed` that the package uses, between threads."""

    def __init__(self, size: int) -> None:
        self.size, self.barrier = size, threading.Barrier(size, timeout=20)
        self.here, self.posted = threading.local(), [None] * size

    def share(self, value: Any) -> list[Any]:
        """Exchange a value, and return those of all processes in the order of their ranks."""
        self.posted[self.here.rank] = value
        self.barrier.wait()
        posted = list(self.posted)
        self.barrier.wait()
        return posted

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return hasattr(self.here, "rank")

    def get_world_size(self) -> int:
        return self.size

    def get_rank(self) -> int:
        return self.here.rank

    def all_gather_into_tensor(self, out: Tensor, x: Tensor) -> None:
        assert x.is_contiguous()
        out.copy_(torch.cat(self.share(x.clone())))

    def all_reduce(self, x: Tensor) -> None:
        assert x.is_contiguous()
        x.copy_(sum(self.share(x.clone())))

    def broadcast(self, x: Tensor, src: int) -> None:
        x.copy_(self.share(x.clone())[src])

    def all_to_all_single(self, out: Tensor, x: Tensor, received: list[int], sent: list[int]) -> None:
        assert x.is_contiguous() and len(x) == sum(sent)
        rows = [chunks[self.here.rank] for chunks in self.share(x.clone().split(sent))]
        assert [len(r) for r in rows] == received
        out.copy_(torch.cat(rows))


Run = Callable[[Callable[[int], Any]], list[Any]]


def start(size: int, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs another on all processes of a group, with their rank, and returns the results."""
    group = Group(size)
    monkeypatch.setattr(distributed, "dist", group)

    def run(job: Callable[[int], Any]) -> list[Any]:
        def on_one(number: int) -> Any:
            group.here.rank = number
            return job(number)

        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(on_one, range(size)))

    return run


@pytest.fixture
def on_all(monkeypatch: pytest.MonkeyPatch) -> Run:
    return start(PROCESSES, monkeypatch)


def test_every_process_knows_its_place(on_all) -> None:
    assert on_all(lambda r: (rank(), world_size())) == [(0, 3), (1, 3), (2, 3)]


def test_one_process_alone_shares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(6.0).view(3, 2).requires_grad_()
    assert (rank(), world_size()) == (0, 1)
    assert gather(x) is x and torch.equal(local_shard(x), x) and broadcast_from_rank0(x) is x
    assert all_reduce_sum(4, x.device) == 4 and torch.equal(mean_over_processes(x), x)
    assert torch.equal(exchange_rows(x, torch.tensor([2, 0, 2])), x[[2, 0, 2]])
    for missing in ("is_available", "is_initialized"):
        monkeypatch.setattr(torch.distributed, missing, lambda: False)
        assert (rank(), world_size()) == (0, 1)


def test_a_group_of_one_is_a_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(1)
    group.here.rank = 0
    monkeypatch.setattr(distributed, "dist", group)
    x = torch.arange(4.0)
    assert (rank(), world_size()) == (0, 1) and gather(x) is x and all_reduce_sum(2, x.device) == 2


def test_two_processes_are_enough_to_share(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, asked = torch.arange(8.0).view(4, 2), torch.tensor([3, 0, 1, 2])

    def job(r: int) -> tuple[Any, ...]:
        mine = rows[2 * r : 2 * r + 2]
        first = broadcast_from_rank0(torch.tensor([r + 5])).item()
        return (rank(), world_size(), all_reduce_sum(r + 1, torch.device("cpu")), first, gather(mine).tolist(),
                local_shard(rows).tolist(), exchange_rows(mine, asked).tolist())

    for r, found in enumerate(start(2, monkeypatch)(job)):
        share = slice(2 * r, 2 * r + 2)
        assert found == (r, 2, 3, 5, rows.tolist(), rows[share].tolist(), rows[asked][share].tolist())


def test_a_sum_is_made_on_the_device_that_is_named() -> None:
    with torch.device("meta"):  # where whatever is made without a device lands
        assert all_reduce_sum(4, torch.device("cpu")) == 4


def test_sums_and_the_first_processes_values(on_all) -> None:
    assert on_all(lambda r: all_reduce_sum(10**r, torch.device("cpu"))) == [111] * 3
    assert [x.tolist() for x in on_all(lambda r: broadcast_from_rank0(torch.tensor([r + 5, r])))] == [[5, 0]] * 3


def test_a_mean_over_processes_leaves_its_argument_and_takes_no_gradients(on_all) -> None:
    def job(r: int) -> tuple[list[float], list[float], bool]:
        mine = torch.tensor([r + 1.0, 10.0 * r], requires_grad=True)
        mean = mean_over_processes(mine)
        return mean.tolist(), mine.tolist(), mean.requires_grad

    for r, (mean, mine, has_gradient) in enumerate(on_all(job)):
        assert mean == pytest.approx([2.0, 10.0]) and mine == [r + 1, 10 * r] and not has_gradient


@pytest.mark.parametrize("turned", [False, True])
def test_gathered_rows_bring_the_sum_of_all_gradients_home(on_all, turned: bool) -> None:
    rows = torch.arange(12.0).view(6, 2)  # two of each process
    weights = torch.arange(1.0, 37).view(3, 6, 2) ** 1.5  # what each process makes of each row

    def job(r: int) -> tuple[Tensor, Tensor, Tensor]:
        mine = rows[2 * r : 2 * r + 2].clone()
        mine = (mine.T.contiguous().T if turned else mine).requires_grad_()  # other strides: not contiguous
        everything = gather(mine)
        kept = weights[r].clone()
        (everything.T * kept.T if turned else everything * kept).sum().backward()
        assert torch.equal(kept, weights[r])
        return everything.detach(), mine.grad, local_shard(everything)

    for r, (everything, grad, share) in enumerate(on_all(job)):
        assert torch.equal(everything, rows) and torch.equal(share, rows[2 * r : 2 * r + 2])
        torch.testing.assert_close(grad, weights.sum(0)[2 * r : 2 * r + 2])


def test_a_gradient_that_others_hold_too_is_not_changed(on_all) -> None:
    def job(r: int) -> tuple[Tensor, Tensor]:
        mine, shared = torch.zeros(2, 2).requires_grad_(), torch.full((6, 2), r + 1.0)
        gather(mine).backward(shared)
        return shared, mine.grad

    for r, (shared, grad) in enumerate(on_all(job)):
        assert torch.equal(shared, torch.full((6, 2), r + 1.0)) and torch.equal(grad, torch.full((2, 2), 6.0))


@pytest.mark.parametrize("index", [
    [5, 0, 2, 2, 4, 1], [3, 4, 5, 0, 1, 2], [0, 1, 2, 3, 4, 5], [0] * 6, [5, 5, 5, 1, 1, 0], [2, 0, 4, 3, 5, 1],
])
@pytest.mark.parametrize("turned", [False, True])
def test_exchanged_rows_come_in_the_requested_order_with_gradients(on_all, index: list[int], turned: bool) -> None:
    rows, asked = torch.arange(12.0).view(6, 2) ** 2, torch.tensor(index)
    weights = torch.arange(1.0, 13).view(6, 2) ** 1.5  # tells which request a gradient belongs to

    def job(r: int) -> tuple[Tensor, Tensor]:
        mine = rows[2 * r : 2 * r + 2].clone().requires_grad_()
        fetched, weight = exchange_rows(mine, asked), weights[2 * r : 2 * r + 2]
        (fetched.T * weight.T if turned else fetched * weight).sum().backward()
        return fetched.detach(), mine.grad

    found = on_all(job)
    assert torch.equal(torch.cat([fetched for fetched, _ in found]), rows[asked])
    expected = torch.zeros(6, 2).index_add(0, asked, weights)
    torch.testing.assert_close(torch.cat([grad for _, grad in found]), expected)


def test_rows_of_any_shape_and_kind_travel(on_all) -> None:
    rows, asked = torch.arange(6 * 2 * 3).view(6, 2, 3), torch.tensor([4, 1, 3, 3, 0, 2])
    found = on_all(lambda r: (gather(rows[2 * r : 2 * r + 2]), exchange_rows(rows[2 * r : 2 * r + 2], asked)))
    assert all(torch.equal(everything, rows) and everything.dtype == torch.int64 for everything, _ in found)
    assert torch.equal(torch.cat([fetched for _, fetched in found]), rows[asked])


@pytest.mark.parametrize("select", [exchange_rows, lambda x, index: VideoContext(x, x[:, :1]).of(index).video])
def test_gradients_of_repeated_rows_are_the_same_in_each_run(select: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Threads that added to one row in any order gave other last digits, and so another model, in each run."""
    torch.manual_seed(0)
    x, index, weight = torch.randn(64, 200), torch.randint(16, (4096,)), torch.randn(4096, 1)

    def gradient() -> Tensor:
        rows = x.clone().requires_grad_()
        (select(rows, index) * weight).sum().backward()
        assert rows.grad is not None
        return rows.grad

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first = gradient()
        assert all(torch.equal(gradient(), first) for _ in range(20))
    finally:
        torch.set_num_threads(threads)

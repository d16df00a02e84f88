"""Two processes give the gradients of one with both batches."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers import WORDS, draw_parameters, make_clips, make_config, make_text
from torch.nn.parallel import DistributedDataParallel

from egovlpv2.batch import ClipBatch
from egovlpv2.bench.made_up import made_up_tokenizer
from egovlpv2.distributed import exchange_rows, gather, local_shard
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.egohoi import EgoHOI
from egovlpv2.tasks.ek100 import EK100
from egovlpv2.tasks.pretrain import Pretrain

PROCESSES, ROWS = 2, 4


def spawn(check: Callable[..., None], folder: Path, *args: object) -> None:
    mp.spawn(_start, (check, folder, *args), nprocs=PROCESSES)


def _start(rank: int, check: Callable[..., None], folder: Path, *args: object) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES)
    check(rank, folder, *args)
    dist.destroy_process_group()


def _check_rows(rank: int, folder: Path) -> None:
    x = torch.arange(12.0).view(6, 2)
    mine = x[3 * rank : 3 * rank + 3].clone().requires_grad_()
    assert torch.equal(gather(mine), x) and torch.equal(local_shard(x), mine)
    assert torch.equal(gather(torch.tensor([rank])), torch.tensor([0, 1]))
    (gather(mine) * (rank + 1)).sum().backward()
    assert torch.equal(mine.grad, torch.full((3, 2), 3.0))  # 1 from the first process and 2 from the second
    for index in ([5, 0, 2, 2, 4, 1], [3, 4, 5, 0, 1, 2], [0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 0]):
        index = torch.tensor(index)
        weight = torch.arange(1.0, 7).view(6, 1)  # tells which request a gradient belongs to
        mine.grad = None
        rows = exchange_rows(mine, index)
        assert torch.equal(rows, x[local_shard(index)])
        (rows * local_shard(weight)).sum().backward()
        expected = torch.zeros(6, 1).index_add(0, index, weight).expand(6, 2)
        assert torch.equal(mine.grad, expected[3 * rank : 3 * rank + 3])


def test_rows_travel_with_their_gradients(tmp_path: Path) -> None:
    spawn(_check_rows, tmp_path)


def make_task(tokenizer: str, pairs_per_clip: int = 1, center_embeddings: bool = False, **changes: Any) -> Pretrain:
    torch.manual_seed(0)
    task = Pretrain(make_config(tokenizer, **changes), OptimizerConfig(), masked_share=0.4,
                    pairs_per_clip=pairs_per_clip, center_embeddings=center_embeddings).eval()
    draw_parameters(task)
    return task


def make_batch() -> ClipBatch:
    torch.manual_seed(1)
    return make_clips(PROCESSES * ROWS)


def share_of(batch: dict, rank: int) -> dict:
    def own(rows: torch.Tensor) -> torch.Tensor:
        return rows.chunk(PROCESSES)[rank]

    return {k: own(v) if torch.is_tensor(v) else {n: own(t) for n, t in v.items()} for k, v in batch.items()}


def loss_of(task: Pretrain, batch: ClipBatch, at_a_time: int | None = None) -> torch.Tensor:
    return task.objectives(batch, torch.Generator().manual_seed(7), at_a_time).total


class Wrapped(torch.nn.Module):
    """DDP hooks into `forward`; Lightning redirects it to `training_step` likewise."""

    def __init__(self, task: Pretrain, at_a_time: int | None) -> None:
        super().__init__()
        self.task, self.at_a_time = task, at_a_time

    def forward(self, batch: ClipBatch) -> torch.Tensor:
        return loss_of(self.task, batch, self.at_a_time)


def _check_gradients(rank: int, folder: Path, tokenizer: str, changes: dict[str, Any], at_a_time: int | None) -> None:
    task, batch = make_task(tokenizer, **changes), make_batch()
    share = share_of(batch, rank)
    # It must outlive the backward pass, where it averages gradients.
    wrapped = DistributedDataParallel(Wrapped(task, at_a_time))
    loss = wrapped(share)
    loss.backward()
    dist.all_reduce(loss)
    if rank == 0:
        torch.save({"loss": loss.detach() / PROCESSES, "bias": task.backbone.text_projector[-1].bias.detach(),
                    **{n: p.grad for n, p in task.named_parameters()}}, folder / "two.pt")


def make_retrieval(match_weight: float) -> tuple[EK100, dict]:
    torch.manual_seed(0)
    task = EK100(make_config(), OptimizerConfig(), objective="symmetric_multi_similarity", margin=0.6,
                 match_weight=match_weight).eval()
    draw_parameters(task)
    task.log = lambda *args, **kwargs: None
    clips, relevancy = make_batch(), torch.randint(0, 3, (PROCESSES * ROWS, 11)) / 2
    target = torch.randint(0, 11, (PROCESSES * ROWS,))
    return task, {"video": clips["video"], "text": clips["text"], "relevancy": relevancy, "target": target}


def make_second_stage() -> tuple[EgoHOI, dict]:
    torch.manual_seed(0)
    task = EgoHOI(make_config(), OptimizerConfig()).eval()
    draw_parameters(task)
    task.log = lambda *args, **kwargs: None
    clips, hard, mask = make_batch(), make_text(PROCESSES * ROWS * 6), torch.rand(PROCESSES * ROWS, 2, 3) < 0.7
    return task, {**clips, "hard_text": hard, "hard_mask": mask}


class WrappedStep(torch.nn.Module):
    def __init__(self, task: EK100 | EgoHOI) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: dict) -> torch.Tensor:
        return self.task.training_step(batch, 0)


def _check_retrieval_gradients(rank: int, folder: Path) -> None:
    _save_gradients(rank, folder, *make_retrieval(0.0))


def _check_matching_gradients(rank: int, folder: Path) -> None:
    _save_gradients(rank, folder, *make_retrieval(0.5))


def _check_second_stage_gradients(rank: int, folder: Path) -> None:
    _save_gradients(rank, folder, *make_second_stage())


def _save_gradients(rank: int, folder: Path, task: EK100 | EgoHOI, batch: dict) -> None:
    wrapped = DistributedDataParallel(WrappedStep(task), static_graph=True)
    wrapped(share_of(batch, rank)).backward()
    if rank == 0:
        torch.save({n: p.grad for n, p in task.named_parameters() if p.requires_grad}, folder / "two.pt")


@pytest.mark.parametrize(("check", "make"), [(_check_retrieval_gradients, partial(make_retrieval, 0.0)),
                                             (_check_matching_gradients, partial(make_retrieval, 0.5)),
                                             (_check_second_stage_gradients, make_second_stage)])
def test_two_processes_give_the_gradients_of_one_in_fine_tuning(
    tmp_path: Path, check: Callable[..., None], make: Callable[[], tuple[EK100 | EgoHOI, dict]]
) -> None:
    spawn(check, tmp_path)
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    assert any("match_head" in name for name in two) == (check is _check_matching_gradients)
    task, batch = make()
    task.training_step(batch, 0).backward()
    assert two.keys() == {name for name, parameter in task.named_parameters() if parameter.requires_grad}
    for name, grad in two.items():
        assert grad.abs().max() > 0, name
        torch.testing.assert_close(grad, task.get_parameter(name).grad, atol=1e-5, rtol=1e-4,
                                   msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("changes", "at_a_time"), [
    ({}, None), ({"pairs_per_clip": 3, "center_embeddings": True}, 2),
    ({"fusion_cls": "own", "text_attends_to": "previous"}, None),
    ({"fusion": "stacked"}, 2)])
def test_two_processes_give_the_gradients_of_one(tmp_path: Path, changes: dict[str, Any], at_a_time: int | None
                                                 ) -> None:
    tokenizer = made_up_tokenizer(tmp_path / "tokenizer", WORDS)
    spawn(_check_gradients, tmp_path, tokenizer, changes, at_a_time)
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    task = make_task(tokenizer, **changes)
    loss = loss_of(task, make_batch())
    loss.backward()
    torch.testing.assert_close(two.pop("loss"), loss.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(two.pop("bias"), task.backbone.text_projector[-1].bias.detach())  # centring moves it
    for name, parameter in task.named_parameters():
        assert parameter.grad.abs().max() > 0, name
        torch.testing.assert_close(two[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")

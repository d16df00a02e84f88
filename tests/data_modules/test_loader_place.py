"""Where a loader says that it is, batch by batch, and which rows the samplers of processes yield."""

import pytest
from egovlpv2.data_modules.loaders import FILLER, EpochSampler, ResumableDataLoader, ShareSampler


@pytest.mark.parametrize("rows, processes", [(7, 1), (7, 2), (9, 3), (8, 2)])
def test_an_epoch_deals_whole_shares_of_other_rows_in_another_order(rows: int, processes: int) -> None:
    samplers = [EpochSampler(range(rows), processes, rank, seed=5) for rank in range(processes)]
    dealt = [list(sampler) for sampler in samplers]
    assert {len(share) for share in dealt} == {rows // processes} == {len(sampler) for sampler in samplers}
    seen = [row for share in dealt for _, row in share]
    assert len(set(seen)) == len(seen) == rows // processes * processes and set(seen) <= set(range(rows))
    assert all(epoch == 0 for share in dealt for epoch, _ in share)
    samplers[0].set_epoch(1)
    again = list(samplers[0])
    assert all(epoch == 1 for epoch, _ in again) and [row for _, row in again] != [row for _, row in dealt[0]]
    samplers[0].start = 2
    assert list(samplers[0]) == again[2:]


def test_shares_of_an_evaluation_have_one_length_and_keep_the_order() -> None:
    samplers = [ShareSampler(range(7), 3, rank) for rank in range(3)]
    assert [list(sampler) for sampler in samplers] == [[0, 3, 6], [1, 4, FILLER], [2, 5, FILLER]]
    assert [len(sampler) for sampler in samplers] == [3, 3, 3]


def place(loader: ResumableDataLoader) -> tuple[int, int]:
    state = loader.state_dict()
    return state["epoch"], state["batch"]


def test_a_place_is_the_batch_that_comes_next() -> None:
    loader = ResumableDataLoader(Keys(7), 2, seed=1)
    assert place(loader) == (0, 0)
    batches = iter(loader)
    found = [place(loader) for _ in batches]
    assert found == [(0, 1), (0, 2), (1, 0)]  # three batches of two; the last leads to the next epoch
    loader.sampler.set_epoch(1)
    next(iter(loader))
    assert place(loader) == (1, 1)
    loader.sampler.set_epoch(3)  # the epoch that was begun is left
    assert len(list(loader)) == 3 and place(loader) == (4, 0)


@pytest.mark.parametrize("batch", [0, 1, 2])
def test_a_loader_goes_on_at_a_place_and_then_takes_whole_epochs(batch: int) -> None:
    whole, resumed = (ResumableDataLoader(Keys(7), 2, seed=1, collate_fn=list) for _ in range(2))
    whole.sampler.set_epoch(4)
    expected = list(whole)
    resumed.load_state_dict({**whole.state_dict(), "epoch": 4, "batch": batch})
    assert resumed.sampler.epoch == 4 and place(resumed) == (4, batch)
    assert list(resumed) == expected[batch:]
    for loader in (whole, resumed):
        loader.sampler.set_epoch(5)
    assert list(resumed) == list(whole) and place(resumed) == (6, 0)


class Keys:
    """Rows that are their own keys."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return key

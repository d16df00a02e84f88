"""The position of a loader, batch by batch, and the rows that the samplers of processes yield."""

import pytest

from egovlpv2.data_modules.loaders import PAD_INDEX, DistributedEvalSampler, EpochSampler, ResumableDataLoader


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
    samplers = [DistributedEvalSampler(range(7), 3, rank) for rank in range(3)]
    assert [list(sampler) for sampler in samplers] == [[0, 3, 6], [1, 4, PAD_INDEX], [2, 5, PAD_INDEX]]
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


@pytest.mark.parametrize("rows, processes", [(7, 1), (7, 2), (9, 4), (8, 2), (1, 3), (2, 5)])
def test_an_epoch_that_keeps_its_last_rows_repeats_its_first_to_be_even(rows: int, processes: int) -> None:
    samplers = [EpochSampler(range(rows), processes, rank, 5, drop_last=False) for rank in range(processes)]
    shares = [[row for _, row in sampler] for sampler in samplers]
    size = -(-rows // processes)
    assert {len(share) for share in shares} == {size} == {len(sampler) for sampler in samplers}
    dealt = [shares[i % processes][i // processes] for i in range(size * processes)]  # in the order of the epoch
    assert sorted(dealt[:rows]) == list(range(rows))
    assert dealt[rows:] == [dealt[i % rows] for i in range(rows, size * processes)]
    if rows % processes == 0:
        assert shares == [[row for _, row in EpochSampler(range(rows), processes, rank, 5)]
                          for rank in range(processes)]


@pytest.mark.parametrize("rows, batch, processes", [(7, 2, 1), (7, 2, 2), (9, 2, 2), (3, 4, 1), (1, 4, 2), (8, 2, 2)])
def test_a_kept_last_batch_is_as_large_on_every_process(rows: int, batch: int, processes: int) -> None:
    loaders = [ResumableDataLoader(Keys(rows), batch, processes, rank, 1, drop_last=False, collate_fn=list)
               for rank in range(processes)]
    share = -(-rows // processes)
    for loader in loaders:
        batches = list(loader)
        assert len(loader) == len(batches) == -(-share // batch)
        assert [len(keys) for keys in batches] == [batch] * (share // batch) + [share % batch] * bool(share % batch)
        assert place(loader) == (1, 0)
    seen = {row for loader in loaders for keys in list(loader) for _, row in keys}
    assert seen == set(range(rows))


@pytest.mark.parametrize("batch", [0, 2, 3])
def test_a_loader_that_keeps_its_last_batch_goes_on_at_a_place(batch: int) -> None:
    whole, resumed = (ResumableDataLoader(Keys(7), 2, seed=1, drop_last=False, collate_fn=list) for _ in range(2))
    expected = list(whole)
    assert [len(keys) for keys in expected] == [2, 2, 2, 1]
    resumed.load_state_dict({**whole.state_dict(), "epoch": 0, "batch": batch})
    assert list(resumed) == expected[batch:]
    whole.sampler.set_epoch(1)
    resumed.sampler.set_epoch(1)
    assert list(resumed) == list(whole)


def test_a_run_that_dropped_its_last_batches_cannot_keep_them_from_the_middle_of_an_epoch_on() -> None:
    dropping, keeping = (ResumableDataLoader(Keys(7), 2, seed=1, drop_last=drop) for drop in (True, False))
    state = dropping.state_dict() | {"batch": 2}
    with pytest.raises(ValueError, match="drop_last: True then, False now"):
        keeping.load_state_dict(state)
    del state["run"]["drop_last"]  # an older checkpoint: they were always dropped
    dropping.load_state_dict(state)
    with pytest.raises(ValueError, match="drop_last: True then, False now"):
        keeping.load_state_dict(state)
    keeping.load_state_dict(state | {"batch": 0})


def test_no_rows_are_refused_whatever_happens_to_the_last_batch() -> None:
    for drop in (True, False):
        with pytest.raises(ValueError, match="have 0 rows"):
            ResumableDataLoader(Keys(0), 2, drop_last=drop)

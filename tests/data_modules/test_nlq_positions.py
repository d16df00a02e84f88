"""Positions of NLQ's features: clips averaged to a length, and the spans of windows among them."""


import numpy as np
import pytest
import torch

from egovlpv2.data_modules.nlq import label_span
from egovlpv2.features.clips import averaged, pad


@pytest.mark.parametrize("count", [1, 7, 8, 9, 23, 1000])
def test_longer_clips_are_averaged(count: int) -> None:
    values = torch.randn(count, 3, generator=torch.Generator().manual_seed(count)).half()
    found = averaged(values, 8)
    if count <= 8:
        assert found is values
        return
    bounds = np.round(np.linspace(0, count, 9)).astype(int)
    expected = torch.stack([values[a:b].double().mean(0) for a, b in zip(bounds, bounds[1:], strict=False)])
    assert found.shape == (8, 3) and found.dtype == values.dtype
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-3)


def by_hand(window: tuple[float, float], duration: float, positions: int) -> tuple[int, int]:
    best, found = -1.0, (0, 0)
    for first in range(positions):
        for last in range(first, positions):
            start, end = first * duration / positions, (last + 1) * duration / positions
            inter = max(min(end, window[1]) - max(start, window[0]), 0)
            overlap = inter / (end - start + window[1] - window[0] - inter)
            if overlap > best + 1e-9:
                best, found = overlap, (first, last)
    return found


def test_spans_are_the_best_of_all() -> None:
    draw = np.random.default_rng(0)
    for _ in range(60):
        duration, positions = draw.uniform(1, 100), int(draw.integers(1, 20))
        start, end = sorted(draw.uniform(-0.2, 1.2, 2) * duration)
        if end > 0 and start < duration:
            assert label_span((start, end), duration, positions) == by_hand((start, end), duration, positions)


@pytest.mark.parametrize(
    ("window", "span"),
    [
        ((0.0, 10.0), (0, 4)), ((-3.0, 12.0), (0, 4)), ((0.0, 2.0), (0, 0)), ((8.0, 10.0), (4, 4)),
        ((2.0, 6.0), (1, 2)), ((2.5, 2.6), (1, 1)), ((9.9, 14.0), (4, 4)),
        ((10.0, 10.4), (4, 4)), ((11.0, 12.0), (4, 4)),  # beyond the end: the last
        ((5.0, 5.0), (2, 2)), ((0.0, 0.0), (0, 0)), ((10.0, 10.0), (4, 4)),  # of no length
    ],
)
def test_spans_at_edges(window: tuple[float, float], span: tuple[int, int]) -> None:
    assert label_span(window, 10.0, 5) == span


def test_padding() -> None:
    padded, mask = pad([torch.ones(2, 3).half(), torch.ones(4, 3).half()], 5)
    assert padded.shape == (2, 5, 3) and padded.dtype == torch.float32 and mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [2, 4] and torch.equal(padded[..., 0] > 0, mask)

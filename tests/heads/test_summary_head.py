"""The head of summaries: segments stand alone, and padding is nothing."""

import math

import pytest
import torch
from helpers import draw_parameters
from torch import Tensor, nn

from egovlpv2.heads.summary import SummaryHead

DIM = 12


@pytest.fixture(params=["paper", "released"])
def head(request: pytest.FixtureRequest) -> SummaryHead:
    torch.manual_seed(0)
    head = SummaryHead(DIM, num_layers=2, num_heads=3, design=request.param)
    draw_parameters(head)
    return head.eval()


def features(*shape: int) -> Tensor:
    return torch.randn(*shape, DIM, generator=torch.Generator().manual_seed(1))


def mask_of(lengths: list[int], longest: int) -> Tensor:
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


def expected(head: SummaryHead, shots: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of the shots (n, D) of one segment without padding, by the formulas of the two designs."""
    if head.design == "paper":
        for layer in head.encoder.layers:
            shots = shots + attended(layer, layer.norm1(shots))
            shots = shots + layer.linear2(layer.linear1(layer.norm2(shots)).relu())
        states = head.encoder.norm(shots)
        return head.concept(states)[:, 0], head.summary(states)[:, 0]
    places = [[(math.cos if i % 2 else math.sin)(place / 10000 ** (2 * i / DIM)) for i in range(DIM)]
              for place in range(len(shots))]
    shots = shots + torch.tensor(places)
    for layer in head.encoder.layers:
        shots = layer.norm1(shots + attended(layer, shots))
        shots = layer.norm2(shots + layer.linear2(layer.linear1(shots).relu()))
    score = head.score[3](head.score[0](shots).relu())[:, 0]
    return score, score


def attended(layer: nn.TransformerEncoderLayer, x: Tensor) -> Tensor:
    query, key, value = (x @ layer.self_attn.in_proj_weight.T + layer.self_attn.in_proj_bias).chunk(3, -1)
    parts = [(q @ k.T / (DIM // 3) ** 0.5).softmax(-1) @ v
             for q, k, v in zip(query.chunk(3, -1), key.chunk(3, -1), value.chunk(3, -1), strict=True)]
    return layer.self_attn.out_proj(torch.cat(parts, -1))


@pytest.mark.parametrize("graded", [True, False])  # without gradients torch takes another path
@pytest.mark.parametrize("filler", [0.0, 50.0])
def test_padding_and_other_segments_change_nothing(head: SummaryHead, graded: bool, filler: float) -> None:
    lengths = [5, 1, 7, 3]
    shots, mask = features(4, 7), mask_of(lengths, 7)
    with torch.set_grad_enabled(graded):
        scores = head(torch.where(mask[..., None], shots, filler), mask)
        assert scores.concept.shape == scores.summary.shape == (4, 7)
        for i, length in enumerate(lengths):
            for found, one in zip(scores, expected(head, shots[i, :length]), strict=True):
                torch.testing.assert_close(found[i, :length], one, atol=1e-5, rtol=1e-4)
    assert scores.summary[mask].std() > 0.1
    assert torch.allclose(scores.summary, scores.concept, atol=0.1) == (head.design == "released")


def test_batches_of_prompts_and_segments(head: SummaryHead) -> None:
    """(B, P, G, n, D) with the mask of the segments, which all prompts of a query share."""
    shots, mask = features(2, 3, 4, 6), mask_of([6, 2, 5, 1, 3, 3, 6, 4], 6).view(2, 1, 4, 6)
    scores = head(shots, mask)
    assert scores.summary.shape == (2, 3, 4, 6)
    for b in range(2):
        for p in range(3):
            for g in range(4):
                length = int(mask[b, 0, g].sum())
                torch.testing.assert_close(scores.summary[b, p, g, :length],
                                           expected(head, shots[b, p, g, :length])[1], atol=1e-5, rtol=1e-4)


def test_shots_of_a_segment_see_each_other(head: SummaryHead) -> None:
    shots, mask = features(2, 4), torch.ones(2, 4, dtype=torch.bool)
    before = head(shots, mask).summary
    shots[0, 3] = features(1)[0].flip(0)
    after = head(shots, mask).summary
    assert ((after - before)[0].abs() > 1e-4).all() and torch.equal(after[1], before[1])


@pytest.mark.parametrize("training", [True, False])
def test_segments_without_shots_are_no_nan(head: SummaryHead, training: bool) -> None:
    mask = mask_of([3, 0, 4, 0], 4)
    shots = features(4, 4).where(mask[..., None], 0).requires_grad_()
    head.train(training)
    scores = head(shots, mask)
    assert all(part.isfinite().all() for part in scores)
    torch.cat([part[mask] for part in scores]).sum().backward()
    gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert shots.grad.isfinite().all() and not shots.grad[~mask].any() and shots.grad[mask].any(1).all()
    with torch.no_grad():
        assert all(part.isfinite().all() for part in head(shots, mask))
        assert all(part.isfinite().all() for part in head(torch.zeros(1, 2, 4, DIM), torch.zeros(1, 2, 4).bool()))


def test_the_released_design_has_the_authors_sizes_and_first_scores() -> None:
    torch.manual_seed(0)
    head = SummaryHead(16, num_layers=2, design="released", dropout=0.25)
    shapes = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items() if "layers.0.linear1" in name
              or "score" in name}
    assert shapes == {"encoder.layers.0.linear1.weight": (2048, 16), "encoder.layers.0.linear1.bias": (2048,),
                      "score.0.weight": (8, 16), "score.0.bias": (8,), "score.3.weight": (1, 8), "score.3.bias": (1,)}
    assert head.encoder.norm is None and {part.p for part in head.modules() if isinstance(part, nn.Dropout)} == {0.25}
    drawn = torch.cat([SummaryHead(8, design="released").score[3].weight[0] for _ in range(60)])
    assert drawn.std().item() == pytest.approx(0.1, rel=0.15) and drawn.abs().max() > 0.2
    assert head.score[3].bias.item() == pytest.approx(-1.91)


def test_at_first_one_shot_in_eight_is_chosen() -> None:
    head = SummaryHead(DIM)
    assert head.concept.bias.item() == head.summary.bias.item() == pytest.approx(-1.91)
    assert torch.sigmoid(head.summary.bias).item() == pytest.approx(1 / 8, abs=0.005)

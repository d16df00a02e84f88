"""Losses written out row by row, with the defaults of the papers, and draws that follow their generator alone."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from egovlpv2.losses import (
    adaptive_max_margin,
    ego_nce,
    info_nce,
    mask_tokens,
    max_margin,
    sample_vtm_pairs,
    symmetric_multi_similarity,
)

N = 5


@pytest.fixture
def similarity() -> Tensor:
    return torch.rand(N, N, generator=torch.Generator().manual_seed(3)) * 2 - 1


def tags(*rows: list[int]) -> Tensor:
    made = torch.zeros(len(rows), 6)
    for row, columns in enumerate(rows):
        made[row, columns] = 1
    return made


VERBS, NOUNS = tags([0], [0, 1], [1], [2], [3]), tags([0], [1], [1], [0, 5], [4])


def shares(a: Tensor, b: Tensor) -> bool:
    return bool((a * b).any())


def nce(similarity: Tensor, positive: list[list[bool]], temperature: float) -> float:
    """EgoVLP's: of each row and each column, minus the logarithm of the positives' share; means of both, summed."""
    total = 0.0
    for matrix in (similarity.tolist(), similarity.T.tolist()):
        for i, row in enumerate(matrix):
            e = [math.exp(s / temperature) for s in row]
            total -= math.log(sum(x for j, x in enumerate(e) if positive[i][j]) / sum(e)) / len(row)
    return total


def test_ego_nce_is_its_formula(similarity: Tensor) -> None:
    by_kind = {
        "verb_or_noun": lambda i, j: shares(VERBS[i], VERBS[j]) or shares(NOUNS[i], NOUNS[j]),
        "verb_and_noun": lambda i, j: shares(VERBS[i], VERBS[j]) and shares(NOUNS[i], NOUNS[j]),
        "verb": lambda i, j: shares(VERBS[i], VERBS[j]), "noun": lambda i, j: shares(NOUNS[i], NOUNS[j]),
        "none": lambda i, j: False,
    }
    losses = []
    for kind, same in by_kind.items():
        positive = [[i == j or same(i, j) for j in range(N)] for i in range(N)]
        losses.append(nce(similarity, positive, 0.1))
        assert ego_nce(similarity, VERBS, NOUNS, 0.1, kind).item() == pytest.approx(losses[-1], rel=1e-4)
    assert len({round(loss, 4) for loss in losses}) >= 4
    positive = [[i == j or by_kind["verb_or_noun"](i, j) for j in range(N)] for i in range(N)]
    assert ego_nce(similarity, VERBS, NOUNS).item() == pytest.approx(nce(similarity, positive, 0.05), rel=1e-4)
    alone = [[i == j for j in range(N)] for i in range(N)]
    assert info_nce(similarity).item() == pytest.approx(nce(similarity, alone, 0.05), rel=1e-4)


def test_rows_without_verb_and_noun_are_alike_to_themselves_alone(similarity: Tensor) -> None:
    nothing = torch.zeros(N, 6)
    torch.testing.assert_close(ego_nce(similarity, nothing, nothing), info_nce(similarity))


def hinge(similarity: Tensor, margins: list[float]) -> float:
    """Of every pair but the matching: by what it comes closer to the match of its row, or column, than the margin."""
    s, lacks = similarity.tolist(), []
    for i in range(N):
        for j in range(N):
            if i != j:
                lacks += [max(0.0, margins[i] - s[i][i] + s[i][j]), max(0.0, margins[i] - s[i][i] + s[j][i])]
    return sum(lacks) / len(lacks)


def test_max_margin_is_its_formula(similarity: Tensor) -> None:
    weight = torch.tensor([1.0, 0.5, 0.0, 0.25, 2.0])
    assert max_margin(similarity).item() == pytest.approx(hinge(similarity, [0.2] * N), rel=1e-5)
    assert max_margin(similarity, 0.7).item() == pytest.approx(hinge(similarity, [0.7] * N), rel=1e-5)
    scaled = [0.2 * w for w in weight.tolist()]
    assert adaptive_max_margin(similarity, weight).item() == pytest.approx(hinge(similarity, scaled), rel=1e-5)
    scaled = [0.5 * w for w in weight.tolist()]
    assert adaptive_max_margin(similarity, weight, 0.5).item() == pytest.approx(hinge(similarity, scaled), rel=1e-5)


def multi_similarity(similarity: Tensor, relevancy: Tensor, margin: float, tolerance: float) -> float:
    lacks = []
    for s, r in ((similarity.tolist(), relevancy.tolist()), (similarity.T.tolist(), relevancy.T.tolist())):
        for i in range(N):
            for j in range(N):
                lead, due = s[i][i] - s[i][j], r[i][i] - r[i][j]
                if i != j and abs(due) <= tolerance:
                    lacks.append(max(0.0, abs(lead) - tolerance))
                elif i != j:
                    lacks.append(max(0.0, margin * due - lead if due > 0 else lead - margin * due))
    return sum(lacks) / len(lacks)


def test_symmetric_multi_similarity_is_its_formula(similarity: Tensor) -> None:
    relevancy = torch.randint(0, 5, (N, N), generator=torch.Generator().manual_seed(1)) / 4
    for margin, tolerance in ((0.6, 0.1), (0.3, 0.25), (1.0, 0.4)):
        loss = symmetric_multi_similarity(similarity, relevancy, margin, tolerance)
        assert loss.item() == pytest.approx(multi_similarity(similarity, relevancy, margin, tolerance), rel=1e-5)
    assert symmetric_multi_similarity(similarity, relevancy).item() == pytest.approx(
        multi_similarity(similarity, relevancy, 0.6, 0.1), rel=1e-5)


def test_losses_stay_on_the_device_of_their_arguments(similarity: Tensor) -> None:
    """Whatever is made without a device lands on torch's `meta` device here, which stands for a GPU."""
    weight = torch.ones(N)
    calls = [partial(ego_nce, similarity, VERBS, NOUNS), partial(ego_nce, similarity, VERBS, NOUNS, 0.05, "none"),
             partial(info_nce, similarity), partial(max_margin, similarity),
             partial(adaptive_max_margin, similarity, weight),
             partial(symmetric_multi_similarity, similarity, similarity)]
    expected = [call() for call in calls]
    with torch.device("meta"):
        found = [call() for call in calls]
    assert torch.equal(torch.stack(found), torch.stack(expected))
    ids = torch.empty(2, 4, dtype=torch.long, device="meta")
    masked = mask_tokens(ids, ids.bool(), 4, 9, 0.5, torch.Generator())
    assert all(tensor.device.type == "meta" for tensor in masked)


def test_low_precision_is_left_before_the_exponential(similarity: Tensor) -> None:
    half = similarity.bfloat16()
    loss = ego_nce(half, VERBS, NOUNS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ego_nce(half.float(), VERBS, NOUNS))


def mask(ids: Tensor, share: float, seed: int, vocabulary: int = 8) -> tuple[Tensor, Tensor]:
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    return mask_tokens(ids, everywhere, 99, vocabulary, share, torch.Generator().manual_seed(seed))


def test_masks_follow_the_generator_alone() -> None:
    ids = torch.full((20, 50), 50)
    first = mask(ids, 0.3, 1)
    torch.rand(7)  # the global numbers move on
    again, other = mask(ids, 0.3, 1), mask(ids, 0.3, 2)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1]) and not torch.equal(first[0], other[0])


def test_masks_have_the_shares_of_bert() -> None:
    ids, chosen = mask(torch.full((400, 500), 50), 0.3, 0)
    assert chosen.float().mean().item() == pytest.approx(0.3, abs=0.005)
    assert (ids[~chosen] == 50).all()
    shares = torch.stack([ids[chosen] == 99, ids[chosen] == 50, ids[chosen] < 8]).float().mean(1)
    assert shares.tolist() == pytest.approx([0.8, 0.1, 0.1], abs=0.005)
    drawn = torch.bincount(ids[chosen & (ids < 8)], minlength=8) / (chosen & (ids < 8)).sum()
    assert drawn.tolist() == pytest.approx([1 / 8] * 8, abs=0.02)  # each word of the vocabulary as often
    assert not mask(ids, 0.0, 0)[1].any() and mask(ids, 1.0, 0)[1].all()


def draw(similarity: Tensor, positives: Tensor, temperature: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    return sample_vtm_pairs(similarity, positives, temperature, torch.Generator().manual_seed(seed))


def test_pairs_follow_the_generator_alone(similarity: Tensor) -> None:
    eye = torch.eye(N, dtype=torch.bool)
    pairs = partial(draw, similarity, eye, 0.5)
    first = pairs(1)
    torch.rand(7)
    assert all(torch.equal(a, b) for a, b in zip(first, pairs(1), strict=True))
    assert len({str([x.tolist() for x in pairs(seed)]) for seed in range(10)}) > 3


@pytest.mark.parametrize("size, stay, texts, videos", [(4, 2, 1, 1), (8, 4, 2, 2), (12, 6, 3, 3), (6, 3, 2, 1)])
def test_half_of_the_pairs_stay_and_a_quarter_each_gets_a_text_and_a_video(size: int, stay: int, texts: int,
                                                                          videos: int) -> None:
    own = torch.arange(size)
    changed = set()
    for seed in range(12):
        video, text, is_match = draw(torch.zeros(size, size), torch.eye(size, dtype=torch.bool), 0.1, seed)
        assert is_match.tolist() == (video == text).long().tolist() and is_match.sum() == stay
        assert (text != own).sum() == texts and (video != own).sum() == videos
        changed.add(tuple(is_match.tolist()))
    assert len(changed) > 2  # not always the same rows


def test_negatives_are_drawn_with_the_softmax_over_those_that_are_not_positive() -> None:
    """Pairs of four kinds, by how far text and video are apart: kind 0 is positive, and the others differ.

    Even texts and even videos are like everything: that must not change what is drawn for them, but does for others.
    """
    n, temperature, scores, even = 200, 0.5, torch.tensor([1.0, 0.6, -0.2, 0.3]), torch.tensor([0.5, 0.0])
    own = torch.arange(n)
    kind = (own[:, None] - own) % 4  # of (text, video)
    similarity = scores[kind] + even[own % 2, None] + even[own % 2]
    counts = {"text": torch.zeros(4), "video": torch.zeros(4)}
    for seed in range(20):
        video, text, is_match = draw(similarity, kind == 0, temperature, seed)
        for name, changed in (("text", text != own), ("video", video != own)):
            counts[name] += torch.bincount(kind[text[changed], video[changed]], minlength=4)
        assert is_match.sum() == n // 2
    kinds = torch.arange(1, 4)
    chances = torch.stack([((scores[1:] + even[(kinds + asks) % 2]) / temperature).softmax(0) for asks in (0, 1)])
    for found in counts.values():
        assert found.sum() == 20 * n // 4
        assert (found / found.sum()).tolist() == pytest.approx([0.0, *chances.mean(0).tolist()], abs=0.035)


def test_a_batch_of_one_row_teaches_nothing_and_is_finite() -> None:
    similarity = torch.full((1, 1), 0.3, requires_grad=True)
    one = torch.ones(1, 1)
    losses = [ego_nce(similarity, one, one), info_nce(similarity), max_margin(similarity),
              adaptive_max_margin(similarity, one[0]), symmetric_multi_similarity(similarity, one)]
    assert torch.stack(losses).tolist() == [0.0] * 5
    torch.stack(losses).sum().backward()
    assert similarity.grad.tolist() == [[0.0]]
    for by in ("own", "swapped"):
        pairs = sample_vtm_pairs(one, one > 0, 0.05, torch.Generator().manual_seed(0), by)
        assert [x.tolist() for x in pairs] == [[0], [0], [1]]


@pytest.mark.parametrize("by", ["own", "swapped"])
def test_each_way_of_drawing_negatives_is_its_formula(by: str) -> None:
    """Of an asymmetric similarity: how often each row is given which text, and which video."""
    n, temperature, rounds = 6, 0.4, 3000
    generator = torch.Generator().manual_seed(7)
    similarity = torch.rand(n, n, generator=generator)  # text x video
    positives = torch.eye(n, dtype=torch.bool)
    positives[0, 3] = positives[3, 0] = True
    texts, videos = torch.zeros(n, n), torch.zeros(n, n)
    own = torch.arange(n)
    for _ in range(rounds):
        pairs = sample_vtm_pairs(similarity, positives, temperature, generator, by)
        texts[own[pairs.text != own], pairs.text[pairs.text != own]] += 1
        videos[own[pairs.video != own], pairs.video[pairs.video != own]] += 1
    for counts, direct in ((texts, by == "swapped"), (videos, by == "own")):
        for i in range(n):  # sim(text i, video j) or sim(text j, video i), over all j that are not positive
            weights = [0.0 if positives[i, j] else
                       math.exp((similarity[i, j] if direct else similarity[j, i]).item() / temperature)
                       for j in range(n)]
            expected = [weight / sum(weights) for weight in weights]
            assert (counts[i] / counts[i].sum()).tolist() == pytest.approx(expected, abs=0.07)

"""Losses agree with the authors' figures and have the intended effect."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from egovlpv2.losses import (
    adaptive_max_margin,
    ego_nce,
    ego_positives,
    info_nce,
    mask_tokens,
    max_margin,
    sample_vtm_pairs,
    symmetric_multi_similarity,
)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    file = np.load(Path(__file__).parent / "golden" / "losses.npz")
    arrays = {k: torch.from_numpy(np.asarray(v)) for k, v in file.items()}
    arrays["similarity"] = F.normalize(arrays["text"], dim=1) @ F.normalize(arrays["video"], dim=1).T
    return arrays


@pytest.mark.parametrize("positives, key", [
    ("verb_and_noun", "egonce_noun_and_verb"), ("noun", "egonce_noun_only"), ("verb", "egonce_verb_only"),
    ("none", "infonce"),
])
def test_ego_nce_agrees_with_the_authors(golden: dict[str, Tensor], positives: str, key: str) -> None:
    loss = ego_nce(golden["similarity"], golden["verbs"], golden["nouns"], 0.05, positives)
    torch.testing.assert_close(loss, golden[key].float(), atol=2e-5, rtol=1e-6)


def test_info_nce_agrees_with_the_authors_and_with_cross_entropy(golden: dict[str, Tensor]) -> None:
    logits, target = golden["similarity"] / 0.05, torch.arange(12)
    loss = info_nce(golden["similarity"], 0.05)
    torch.testing.assert_close(loss, golden["infonce"].float(), atol=2e-5, rtol=1e-6)
    torch.testing.assert_close(loss, F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def test_max_margin_agrees_with_the_authors(golden: dict[str, Tensor]) -> None:
    similarity, weight = golden["similarity"], golden["weight"]
    torch.testing.assert_close(max_margin(similarity, 0.2), golden["max_margin_0.2"].to(similarity), atol=1e-6, rtol=0)
    torch.testing.assert_close(adaptive_max_margin(similarity, weight, 0.2),
                               golden["adaptive_max_margin_0.2"].to(similarity), atol=1e-6, rtol=0)


def test_verb_or_noun_has_the_positives_of_both(golden: dict[str, Tensor]) -> None:
    verb, noun, either, both = (ego_positives(golden["verbs"], golden["nouns"], kind)
                                for kind in ("verb", "noun", "verb_or_noun", "verb_and_noun"))
    assert torch.equal(either, verb | noun)
    assert torch.equal(both, (verb & noun) | torch.eye(12, dtype=torch.bool))
    assert either.sum() > verb.sum() > both.sum() > 0
    with pytest.raises(ValueError, match="positives is 'nouns'; known: verb_or_noun"):
        ego_positives(golden["verbs"], golden["nouns"], "nouns")


def test_a_more_relevant_item_must_lead_and_an_equal_one_may_not() -> None:
    relevancy = torch.tensor([[1.0, 0.5], [1.0, 1.0]])
    # Clip 0: text 0 is due a lead of 0.6 * 0.5. Clip 1: both texts fit. Text 0: both clips fit. Text 1: clip 1 leads.
    content = torch.tensor([[0.8, 0.4], [0.75, 0.72]])
    assert symmetric_multi_similarity(content, relevancy, margin=0.6, tolerance=0.1) == 0
    close = torch.tensor([[0.8, 0.6], [0.75, 0.72]])  # clip 0 lacks 0.1, text 1 (0.72 against 0.6) lacks 0.18
    torch.testing.assert_close(symmetric_multi_similarity(close, relevancy, 0.6, 0.1), torch.tensor(0.28 / 4))
    apart = torch.tensor([[0.8, 0.4], [0.5, 0.72]])  # clip 1's texts are 0.22 apart, text 0's clips 0.3
    torch.testing.assert_close(symmetric_multi_similarity(apart, relevancy, 0.6, 0.1), torch.tensor(0.32 / 4))
    better = torch.tensor([[0.5, 1.0], [0.0, 0.5]])  # the second text fits the first clip better than its own
    ordered = torch.tensor([[0.2, 0.6], [-0.2, 0.2]])
    assert symmetric_multi_similarity(ordered, better, 0.6, 0.1) == 0
    assert symmetric_multi_similarity(-ordered, better, 0.6, 0.1) > 0.5


def test_more_positives_make_the_loss_smaller_and_it_stays_finite(golden: dict[str, Tensor]) -> None:
    sizes = [ego_nce(golden["similarity"], golden["verbs"], golden["nouns"], positives=kind)
             for kind in ("verb_or_noun", "verb", "verb_and_noun", "none")]
    assert sizes == sorted(sizes)
    assert ego_nce(torch.eye(12) * 2 - 1, golden["verbs"], golden["nouns"], 1e-3).isfinite()


def test_masking_takes_its_share_and_spares_special_words() -> None:
    ids = torch.arange(5, 105).repeat(400, 1)
    maskable = torch.ones_like(ids, dtype=torch.bool)
    maskable[:, 0] = False
    masked = mask_tokens(ids, maskable, mask_id=999, vocab_size=900, share=0.15,
                        generator=torch.Generator().manual_seed(0))
    chosen = masked.chosen
    assert not chosen[:, 0].any() and abs(chosen[:, 1:].float().mean() - 0.15) < 0.01
    assert torch.equal(masked.input_ids[~chosen], ids[~chosen])
    became_mask = (masked.input_ids == 999)[chosen].float().mean()
    stayed = (masked.input_ids == ids)[chosen].float().mean()
    assert abs(became_mask - 0.8) < 0.02 and abs(stayed - 0.1) < 0.02


def draw(similarity: Tensor, positives: Tensor, seed: int = 0):
    return sample_vtm_pairs(similarity, positives, 0.05, torch.Generator().manual_seed(seed))


def test_hard_negatives_are_hard_and_no_positives() -> None:
    n = 64
    similarity = torch.rand(n, n) * 0.1
    hard = torch.arange(n).roll(1)
    similarity[torch.arange(n), hard] = 1.0  # text i, video hard[i]
    similarity[torch.arange(n), torch.arange(n).roll(2)] = 5.0  # harder still, but a positive
    positives = torch.eye(n, dtype=torch.bool)
    positives[torch.arange(n), torch.arange(n).roll(2)] = True
    pairs = draw(similarity, positives)
    assert pairs.is_match.sum() == n // 2
    changed_text, changed_video = pairs.text != torch.arange(n), pairs.video != torch.arange(n)
    assert changed_text.sum() == changed_video.sum() == n // 4 and not (changed_text & changed_video).any()
    assert not positives[pairs.text, pairs.video][pairs.is_match == 0].any()
    assert torch.equal(pairs.video[changed_video], hard[changed_video])  # for a text, the video that is most like it
    assert torch.equal(hard[pairs.text[changed_text]], pairs.video[changed_text])  # for a video, the text


def test_rows_without_negatives_stay_matches() -> None:
    pairs = draw(torch.rand(8, 8), torch.ones(8, 8, dtype=torch.bool))
    assert pairs.is_match.all() and torch.equal(pairs.video, pairs.text)

"""The objectives of pre-training, as pure functions of tensors.

Letters: `n` pairs of the whole batch (of all processes), `L` words, `V` vocabulary.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Positives = Literal["verb_or_noun", "verb_and_noun", "verb", "noun", "none"]
NegativesBy = Literal["own", "swapped"]


def ego_positives(verbs: Tensor, nouns: Tensor, positives: Positives) -> Tensor:
    """Which pairs tell of the same action, the diagonal included.

    Args:
        verbs: (n, 118) multi-hot.
        nouns: (n, 582) multi-hot.
        positives: Whether rows must share a verb or a noun (the paper's Sec. 3.2), both (its appendix and released
            code), one of them by name, or be the same row.

    Returns:
        (n, n) bool.
    """
    same = torch.eye(len(verbs), dtype=torch.bool, device=verbs.device)
    if positives == "none":
        return same
    verb, noun = verbs @ verbs.T > 0, nouns @ nouns.T > 0
    kinds = {"verb_or_noun": verb | noun, "verb_and_noun": verb & noun, "verb": verb, "noun": noun}
    if positives not in kinds:
        raise ValueError(f"positives is {positives!r}; known: {', '.join(kinds)}, none")
    return same | kinds[positives]


def multi_positive_nce(similarity: Tensor, positives: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of all positives against everything, summed over both directions, averaged over rows.

    Args:
        similarity: (n, n) cosines.
        positives: (n, n) bool.
    """
    logits = similarity.float() / temperature
    hits = logits.masked_fill(~positives, -torch.inf)
    rows = logits.logsumexp(1) - hits.logsumexp(1)
    columns = logits.logsumexp(0) - hits.logsumexp(0)
    return rows.mean() + columns.mean()


def ego_nce(similarity: Tensor, verbs: Tensor, nouns: Tensor, temperature: float = 0.05,
            positives: Positives = "verb_or_noun") -> Tensor:
    """EgoNCE (EgoVLP, Lin et al., 2022): InfoNCE with rows of the same action as further positives.

    Args:
        similarity: (n, n) cosines, text x video.
        verbs: (n, 118) multi-hot.
        nouns: (n, 582) multi-hot.
        positives: See `ego_positives`.
    """
    return multi_positive_nce(similarity, ego_positives(verbs, nouns, positives), temperature)


def info_nce(similarity: Tensor, temperature: float = 0.05) -> Tensor:
    """Symmetric InfoNCE over (n, n) cosines."""
    own = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    return multi_positive_nce(similarity, own, temperature)


def max_margin(similarity: Tensor, margin: float = 0.2) -> Tensor:
    """Ranking hinge over all pairs but the matching ones, in both directions (Frozen in Time, Bain et al., 2021).

    Args:
        similarity: (n, n) cosines; pair `i` is the match of row and column `i`.
        margin: By which a match must beat every other pair of its row and of its column.
    """
    return adaptive_max_margin(similarity, similarity.new_ones(len(similarity)), margin)


def adaptive_max_margin(similarity: Tensor, weight: Tensor, margin: float = 0.2) -> Tensor:
    """`max_margin` with a margin of its own for each pair (Hendricks and Nematzadeh, 2021; EPIC-Kitchens-100).

    Args:
        similarity: (n, n) cosines.
        weight: (n,) relevancy of each pair's sentence to its clip, 0 to 1: what the margin is multiplied with.
        margin: Of a pair that fits fully.
    """
    match, bound = similarity.diagonal()[:, None], margin * weight[:, None]  # (n, 1)
    rows = (bound - (match - similarity)).relu()  # (n, n): other texts for a clip
    columns = (bound - (match - similarity.T)).relu()  # (n, n): other clips for a text
    return _mean_of_others(rows, columns)


def symmetric_multi_similarity(similarity: Tensor, relevancy: Tensor, margin: float = 0.6,
                               tolerance: float = 0.1) -> Tensor:
    """Of two items of a query, the more relevant must lead by a margin times the difference (Wang et al., 2024).

    Where max-margin pushes every other item away, an item that fits as well as the match is held beside it, and one
    that fits better must lead.

    Args:
        similarity: (n, n) cosines, clips x texts; pair `i` is the match of row and column `i`.
        relevancy: (n, n), 0 to 1.
        margin: For a difference of 1 in relevancy.
        tolerance: Up to which two relevancies, and two cosines, are taken as equal.
    """
    losses = []
    for scores, relevant in ((similarity, relevancy), (similarity.T, relevancy.T)):  # of a clip, of a text
        lead = scores.diagonal()[:, None] - scores  # (n, n)
        due = relevant.diagonal()[:, None] - relevant  # (n, n)
        ordered = (margin * due.abs() - due.sign() * lead).relu()
        losses.append(torch.where(due.abs() > tolerance, ordered, (lead.abs() - tolerance).relu()))
    return _mean_of_others(*losses)


def _mean_of_others(*losses: Tensor) -> Tensor:
    """The mean of (n, n) matrices outside their diagonals; zero for a batch of one row, which has no other."""
    others = ~torch.eye(len(losses[0]), dtype=torch.bool, device=losses[0].device)
    values = torch.stack([loss[others] for loss in losses])
    return values.mean() if values.numel() else values.sum()


class MaskedTokens(NamedTuple):
    input_ids: Tensor  # (n, L) int64 with words replaced
    chosen: Tensor  # (n, L) bool, the words to predict


def mask_tokens(input_ids: Tensor, maskable: Tensor, mask_id: int, vocab_size: int, share: float,
               generator: torch.Generator) -> MaskedTokens:
    """BERT's masking: of the chosen words 80 % become the mask, 10 % another word, 10 % stay.

    Args:
        input_ids: (n, L) int64.
        maskable: (n, L) bool, False on special words and padding.
        share: Of the maskable words, those to predict (paper: 0.15).
        generator: On the CPU: every process draws the same numbers, whatever its device.
    """
    which, how = (torch.rand(input_ids.shape, generator=generator).to(input_ids.device) for _ in range(2))
    words = torch.randint(vocab_size, input_ids.shape, generator=generator).to(input_ids.device)
    chosen = maskable & (which < share)
    ids = torch.where(chosen & (how < 0.8), mask_id, input_ids)
    return MaskedTokens(torch.where(chosen & (how >= 0.9), words, ids), chosen)


class VTMPairs(NamedTuple):
    """Pairs for video-text matching: rows of the whole batch."""

    video: Tensor  # (n,) int64
    text: Tensor  # (n,) int64
    is_match: Tensor  # (n,) int64


def sample_vtm_pairs(similarity: Tensor, positives: Tensor, temperature: float, generator: torch.Generator,
                negatives_by: NegativesBy = "own") -> VTMPairs:
    """Half of the pairs stay; a quarter gets a hard text and a quarter a hard video (ALBEF's way).

    A hard negative is drawn with `softmax(similarity / temperature)` among those that are no positives. A row that
    has none (every other row tells of the same action) stays a match.

    Args:
        similarity: (n, n) cosines, text x video, without gradient.
        positives: (n, n) bool.
        generator: On the CPU: every process draws the same pairs.
        negatives_by: `own` draws another text for a row by the texts' similarity to its video, and another video by the
            videos' similarity to its text. `swapped` (released code) draws text `j` for row `i` by the similarity of
            text `i` to video `j`, and video `j` by that of video `i` to text `j`.
    """
    n = len(similarity)
    weights = (similarity.float() / temperature).softmax(1).cpu().masked_fill(positives.cpu(), 0)  # for a text: videos
    columns = (similarity.float() / temperature).softmax(0).T.cpu().masked_fill(positives.T.cpu(), 0)  # for a video
    for_text, for_video = (columns, weights) if negatives_by == "own" else (weights, columns)
    order = torch.randperm(n, generator=generator)
    video, text = torch.arange(n), torch.arange(n)
    for rows, probabilities, index in (
        (order[n // 2 : n - n // 4], for_text, text), (order[n - n // 4 :], for_video, video),
    ):
        rows = rows[probabilities[rows].sum(1) > 0]
        if len(rows):
            index[rows] = torch.multinomial(probabilities[rows], 1, generator=generator)[:, 0]
    is_match = (video == text).long()
    return VTMPairs(*(x.to(similarity.device) for x in (video, text, is_match)))

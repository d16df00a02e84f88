"""Training objectives as pure functions of tensors.

Letters: `n` video-text pairs of the whole batch (of all processes), `L` tokens.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Positives = Literal["verb_or_noun", "verb_and_noun", "verb", "noun", "none"]
NegativesBy = Literal["own", "swapped"]


def ego_positives(verbs: Tensor, nouns: Tensor, positives: Positives) -> Tensor:
    """Compute the mask of positive pairs of EgoNCE: pairs of the same action, the diagonal included.

    Args:
        verbs: (n, 118) multi-hot.
        nouns: (n, 582) multi-hot.
        positives: Classes that two rows must share: a verb or a noun (the paper's Sec. 3.2), both (its appendix and
            the released code), a verb, or a noun; `none` for the diagonal alone.

    Returns:
        (n, n) bool.

    Raises:
        ValueError: `positives` is unknown.
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
    """Compute the multi-positive InfoNCE loss: cross-entropy of all positives together, summed over both directions.

    Args:
        similarity: (n, n) cosines.
        positives: (n, n) bool.
        temperature: Divisor of the cosines.

    Returns:
        Scalar, averaged over rows.
    """
    logits = similarity.float() / temperature
    hits = logits.masked_fill(~positives, -torch.inf)
    rows = logits.logsumexp(1) - hits.logsumexp(1)
    columns = logits.logsumexp(0) - hits.logsumexp(0)
    return rows.mean() + columns.mean()


def ego_nce(similarity: Tensor, verbs: Tensor, nouns: Tensor, temperature: float = 0.05,
            positives: Positives = "verb_or_noun") -> Tensor:
    """Compute EgoNCE (EgoVLP, Lin et al., 2022): InfoNCE with pairs of the same action as additional positives.

    Args:
        similarity: (n, n) cosines, text x video.
        verbs: (n, 118) multi-hot.
        nouns: (n, 582) multi-hot.
        temperature: Divisor of the cosines.
        positives: See `ego_positives`.
    """
    return multi_positive_nce(similarity, ego_positives(verbs, nouns, positives), temperature)


def info_nce(similarity: Tensor, temperature: float = 0.05) -> Tensor:
    """Compute the symmetric InfoNCE loss of (n, n) cosines with the diagonal as positives."""
    own = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    return multi_positive_nce(similarity, own, temperature)


class HardNegativeNCE(NamedTuple):
    """Both directions of EgoNCE++; the loss is their sum."""

    text_to_video: Tensor  # scalar
    video_to_text: Tensor  # scalar


def hard_negative_nce(similarity: Tensor, hard_similarity: Tensor, nouns: Tensor, temperature: float = 0.05,
                      hard_mask: Tensor | None = None) -> HardNegativeNCE:
    """Compute both directions of EgoNCE++ from similarities, see `ego_nce_plus_plus`.

    Args:
        similarity: (n, n) cosines, text x video.
        hard_similarity: (n, K) cosines of each clip with its own hard-negative texts.
        nouns: (n, 582) multi-hot.
        temperature: Divisor of the cosines.
        hard_mask: (n, K) bool, False where there is no hard negative; None: all are there.
    """
    logits, hard = similarity.float() / temperature, hard_similarity.float() / temperature
    if hard_mask is not None:
        hard = hard.masked_fill(~hard_mask, -torch.inf)
    same = torch.eye(len(nouns), dtype=torch.bool, device=nouns.device) | (nouns @ nouns.T > 0)  # (n, n)
    text_to_video = logits.logsumexp(1) - logits.masked_fill(~same, -torch.inf).logsumexp(1)  # (n,)
    video_to_text = torch.cat([logits.T, hard], dim=1).logsumexp(1) - logits.diagonal()  # (n,)
    return HardNegativeNCE(text_to_video.mean(), video_to_text.mean())


def ego_nce_plus_plus(text: Tensor, video: Tensor, hard_text: Tensor, nouns: Tensor, temperature: float = 0.05,
                      hard_mask: Tensor | None = None) -> Tensor:
    """Compute EgoNCE++ (Xu et al., 2025): nouns as positives one way, hard-negative texts the other way.

    From text to video, all clips that share a noun are positives. From video to text, the clip's own text is the only
    positive, and its own hard negatives join the texts of the batch in the denominator.

    Args:
        text: (n, P) embeddings, of any length.
        video: (n, P) embeddings.
        hard_text: (n*K, P) embeddings; rows `i*K` to `i*K + K - 1` belong to clip `i`.
        nouns: (n, 582) multi-hot; a clip without nouns has only itself as a positive.
        temperature: Divisor of the cosines.
        hard_mask: (n, K) bool, False where there is no hard negative; None: all are there.

    Returns:
        Scalar.

    Raises:
        ValueError: The number of hard negatives is not a multiple of the number of clips.
    """
    if len(hard_text) % len(video):
        raise ValueError(f"{len(hard_text)} hard negatives of {len(video)} clips: give each clip as many, and mask "
                         "those that are missing")
    text, video, hard_text = (F.normalize(x.float(), dim=-1) for x in (text, video, hard_text))
    hard = hard_text.unflatten(0, (len(video), len(hard_text) // len(video)))  # (n, K, P)
    hard_similarity = (hard @ video[:, :, None]).squeeze(2)  # (n, K)
    halves = hard_negative_nce(text @ video.T, hard_similarity, nouns, temperature, hard_mask)
    return halves.text_to_video + halves.video_to_text


def max_margin(similarity: Tensor, margin: float = 0.2) -> Tensor:
    """Compute the max-margin ranking loss in both directions (Frozen in Time, Bain et al., 2021).

    Args:
        similarity: (n, n) cosines with the matching pairs on the diagonal.
        margin: Margin of a matching pair over the other pairs of its row and column.
    """
    return adaptive_max_margin(similarity, similarity.new_ones(len(similarity)), margin)


def adaptive_max_margin(similarity: Tensor, weight: Tensor, margin: float = 0.2) -> Tensor:
    """Compute `max_margin` with a margin for each pair (Hendricks and Nematzadeh, 2021; EPIC-Kitchens-100).

    Args:
        similarity: (n, n) cosines with the matching pairs on the diagonal.
        weight: (n,) factor of each pair's margin: the relevancy of its sentence to its clip, 0 to 1.
        margin: Margin of a pair of relevancy 1.
    """
    match, bound = similarity.diagonal()[:, None], margin * weight[:, None]  # (n, 1)
    rows = (bound - (match - similarity)).relu()  # (n, n): other texts for a clip
    columns = (bound - (match - similarity.T)).relu()  # (n, n): other clips for a text
    return _mean_of_others(rows, columns)


def symmetric_multi_similarity(similarity: Tensor, relevancy: Tensor, margin: float = 0.6,
                               tolerance: float = 0.1) -> Tensor:
    """Compute the symmetric multi-similarity loss (Wang et al., 2024), a margin loss on graded relevancies.

    The margin between a match and another item is proportional to the difference of their relevancies. Unlike in
    `max_margin`, equally relevant items must score alike, and more relevant ones higher than the match.

    Args:
        similarity: (n, n) cosines, clips x texts, with the matching pairs on the diagonal.
        relevancy: (n, n), 0 to 1.
        margin: Margin for a difference of 1 in relevancy.
        tolerance: Largest difference at which two relevancies, or two cosines, count as equal.
    """
    losses = []
    for scores, relevant in ((similarity, relevancy), (similarity.T, relevancy.T)):  # of a clip, of a text
        lead = scores.diagonal()[:, None] - scores  # (n, n)
        target = relevant.diagonal()[:, None] - relevant  # (n, n)
        ranked = (margin * target.abs() - target.sign() * lead).relu()
        losses.append(torch.where(target.abs() > tolerance, ranked, (lead.abs() - tolerance).relu()))
    return _mean_of_others(*losses)


def _mean_of_others(*losses: Tensor) -> Tensor:
    """Average (n, n) matrices over their off-diagonal entries; zero if n = 1."""
    others = ~torch.eye(len(losses[0]), dtype=torch.bool, device=losses[0].device)
    values = torch.stack([loss[others] for loss in losses])
    return values.mean() if values.numel() else values.sum()


class MaskedTokens(NamedTuple):
    """Input of masked language modelling."""

    input_ids: Tensor  # (n, L) int64 with tokens replaced
    chosen: Tensor  # (n, L) bool, the tokens to predict


def mask_tokens(input_ids: Tensor, maskable: Tensor, mask_id: int, vocab_size: int, share: float,
               generator: torch.Generator) -> MaskedTokens:
    """Mask tokens as BERT does: of the chosen ones, 80 % become the mask, 10 % a random token, 10 % are unchanged.

    Args:
        input_ids: (n, L) int64.
        maskable: (n, L) bool, False on special tokens and padding.
        mask_id: Id of the mask token.
        vocab_size: Number of ids to draw random tokens from.
        share: Share of the maskable tokens to predict (paper: 0.15).
        generator: On the CPU, so that every process draws the same numbers on any device.
    """
    draw, action = (torch.rand(input_ids.shape, generator=generator).to(input_ids.device) for _ in range(2))
    random_ids = torch.randint(vocab_size, input_ids.shape, generator=generator).to(input_ids.device)
    chosen = maskable & (draw < share)
    ids = torch.where(chosen & (action < 0.8), mask_id, input_ids)
    return MaskedTokens(torch.where(chosen & (action >= 0.9), random_ids, ids), chosen)


class VTMPairs(NamedTuple):
    """Pairs for video-text matching, as rows of the whole batch."""

    video: Tensor  # (n,) int64
    text: Tensor  # (n,) int64
    is_match: Tensor  # (n,) int64, 1 for a matching pair


def sample_vtm_pairs(similarity: Tensor, positives: Tensor, temperature: float, generator: torch.Generator,
                     negatives_by: NegativesBy = "own") -> VTMPairs:
    """Sample pairs for video-text matching: half are matches, a quarter have a hard text, a quarter a hard video.

    As in ALBEF, hard negatives are drawn with probabilities `softmax(similarity / temperature)`, here among pairs that
    are not positives. A row without any (all others show the same action) stays a match.

    Args:
        similarity: (n, n) cosines, text x video, without gradient.
        positives: (n, n) bool.
        temperature: Divisor of the cosines; infinity draws uniformly.
        generator: On the CPU, so that every process draws the same pairs.
        negatives_by: `own` draws another text for a row by the texts' similarity to its video, and another video by the
            videos' similarity to its text. `swapped` (released code) draws text `j` for row `i` by the similarity of
            text `i` to video `j`, and video `j` by that of video `i` to text `j`.
    """
    n = len(similarity)
    logits = similarity.float() / temperature
    by_text = logits.softmax(1).cpu().masked_fill(positives.cpu(), 0)  # (n, n) videos for each text
    by_video = logits.softmax(0).T.cpu().masked_fill(positives.T.cpu(), 0)  # (n, n) texts for each video
    for_text, for_video = (by_video, by_text) if negatives_by == "own" else (by_text, by_video)
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

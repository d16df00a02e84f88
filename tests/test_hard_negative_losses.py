"""EgoNCE++ agrees with the authors' figures, and hard negatives that are missing don't count."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from egovlpv2.losses import ego_nce_plus_plus, hard_negative_nce, info_nce

NAMES = ("text", "video", "hard")


@pytest.fixture(params=["a", "b"])
def golden(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    file = np.load(Path(__file__).parent / "golden" / "egoncepp.npz")
    case = {key.removeprefix(f"{request.param}_"): torch.from_numpy(np.asarray(value)) for key, value in file.items()
            if key.startswith(f"{request.param}_")}
    case["nouns"] = torch.zeros(len(case["text"]), 582)
    case["nouns"][tuple(case["nouns_nonzero"].long().T)] = 1
    return case


def similarities(text: Tensor, video: Tensor, hard: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines (n, n) of texts and clips, and (n, K) of clips and their hard negatives, a row at a time."""
    text, video, hard = (F.normalize(x, dim=1) for x in (text, video, hard))
    count = len(hard) // len(video)
    return text @ video.T, torch.stack([hard[i * count : (i + 1) * count] @ clip for i, clip in enumerate(video)])


def test_it_agrees_with_the_authors(golden: dict[str, Tensor]) -> None:
    embeds = [golden[name].clone().requires_grad_() for name in NAMES]
    loss = ego_nce_plus_plus(*embeds, golden["nouns"], 0.05)
    torch.testing.assert_close(loss, golden["loss"].float(), atol=1e-5, rtol=0)
    loss.backward()
    for name, embed in zip(NAMES, embeds, strict=True):
        torch.testing.assert_close(embed.grad, golden[f"grad_{name}"].float(), atol=1e-5, rtol=0)
    assert (golden["nouns"].sum(1) == 0).any()  # clips without nouns are among them


def test_its_halves_agree_with_the_authors(golden: dict[str, Tensor]) -> None:
    halves = hard_negative_nce(*similarities(*(golden[name] for name in NAMES)), golden["nouns"])
    for name, half in halves._asdict().items():
        torch.testing.assert_close(half, golden[name].float(), atol=1e-5, rtol=0)


def test_without_nouns_a_clip_has_only_its_own_text(golden: dict[str, Tensor]) -> None:
    loss = ego_nce_plus_plus(*(golden[name] for name in NAMES), torch.zeros_like(golden["nouns"]))
    torch.testing.assert_close(loss, golden["loss_no_noun_positives"].float(), atol=1e-5, rtol=0)


def test_without_hard_negatives_and_nouns_it_is_info_nce(golden: dict[str, Tensor]) -> None:
    text, video, hard, none = *(golden[name] for name in NAMES), torch.zeros_like(golden["nouns"])
    expected = info_nce(similarities(text, video, hard)[0])
    torch.testing.assert_close(ego_nce_plus_plus(text, video, hard[:0], none), expected)
    count = len(hard) // len(video)
    masked = torch.zeros(len(video), count, dtype=torch.bool)
    torch.testing.assert_close(ego_nce_plus_plus(text, video, hard, none, hard_mask=masked), expected)


def test_masked_rows_count_as_if_they_were_not_there() -> None:
    torch.manual_seed(0)
    text, video, hard, nouns = torch.randn(3, 8), torch.randn(3, 8), torch.randn(12, 8), torch.zeros(3, 582)
    mask = torch.tensor([[True, True, True, True], [True, False, False, True], [False, False, False, False]])
    embeds = hard.clone().requires_grad_()
    loss = hard_negative_nce(*similarities(text, video, embeds), nouns, 0.1, mask).video_to_text
    (similarity, hard_similarity), rows = similarities(text, video, hard), []
    for i in range(3):
        logits = torch.cat([similarity[:, i], hard_similarity[i][mask[i]]]) / 0.1
        rows.append(logits.logsumexp(0) - similarity[i, i] / 0.1)
    torch.testing.assert_close(loss, torch.stack(rows).mean())
    loss.backward()
    assert embeds.grad.isfinite().all()
    assert torch.equal(embeds.grad.abs().sum(1) > 0, mask.flatten())


def test_lengths_of_embeddings_do_not_matter_but_temperature_does() -> None:
    torch.manual_seed(0)
    text, video, hard, nouns = torch.randn(4, 8), torch.randn(4, 8), torch.randn(8, 8), torch.eye(4, 582)
    loss = ego_nce_plus_plus(text, video, hard, nouns, 0.1)
    torch.testing.assert_close(ego_nce_plus_plus(3 * text, video / 7, 5 * hard, nouns, 0.1), loss)
    assert not torch.isclose(ego_nce_plus_plus(text, video, hard, nouns), loss)


def test_hard_negatives_that_clips_cannot_share_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="7 hard negatives of 3 clips: give each clip as many"):
        ego_nce_plus_plus(torch.ones(3, 2), torch.ones(3, 2), torch.ones(7, 2), torch.zeros(3, 582))

"""Scores of the five choices."""

import pytest
import torch
import torch.nn.functional as F
from egovlpv2.batch import ChoiceBatch
from egovlpv2.tasks.egomcq import choice_scores
from helpers import make_clips, make_text


def make_questions(count: int) -> ChoiceBatch:
    video = make_clips(count * 5)["video"].unflatten(0, (count, 5))
    number = torch.arange(count)
    keys = [str(i) for i in range(count)]
    return ChoiceBatch(key=keys, video=video, text=make_text(count), answer=number % 5, kind=number % 2 + 1)


@torch.inference_mode()
@pytest.mark.parametrize("fusion_cls", ["shared", "own"])
def test_scores_are_those_of_single_passes(make_backbone, fusion_cls: str) -> None:
    backbone, batch = make_backbone(fusion_cls=fusion_cls), make_questions(2)
    scores = choice_scores(backbone, batch)
    for q in range(2):
        text = {k: v[q : q + 1] for k, v in batch["text"].items()}
        for c in range(5):
            clip = batch["video"][q, c][None]
            dual = F.cosine_similarity(backbone.embed_text(text), backbone.embed_video(clip))[0]
            fusion = backbone.match(clip, text).softmax(-1)[0, 1]
            torch.testing.assert_close(scores["dual"][q, c], dual)
            torch.testing.assert_close(scores["fusion"][q, c], fusion)
            torch.testing.assert_close(scores["ensemble"][q, c], dual + fusion)

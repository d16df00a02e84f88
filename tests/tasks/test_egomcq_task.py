"""Scores of the five choices."""

import pytest
import torch
import torch.nn.functional as F
from helpers import make_clips, make_text

from egovlpv2.batch import ChoiceBatch, Difference
from egovlpv2.tasks.egomcq import EgoMCQ, choice_scores


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
            fusion = backbone.vtm_logits(clip, text).softmax(-1)[0, 1]
            torch.testing.assert_close(scores["dual"][q, c], dual)
            torch.testing.assert_close(scores["fusion"][q, c], fusion)
            torch.testing.assert_close(scores["ensemble"][q, c], dual + fusion)


@pytest.mark.parametrize("monitor, expected", [("intra", 50.0), ("inter", 100.0), ("mean", 75.0)])
def test_the_chosen_kind_of_question_is_the_score(small_config, monitor: str, expected: float) -> None:
    task, logged = EgoMCQ(small_config(), monitor=monitor), {}
    task.log = lambda name, value, prog_bar: logged.update({name: float(value)})
    task.log_dict = lambda values: logged.update({name: float(value) for name, value in values.items()})
    right, wrong = torch.eye(5)[:1], torch.eye(5)[1:2]
    scores = {"dual": wrong.expand(3, 5), "fusion": wrong.expand(3, 5), "ensemble": torch.cat([right, right, wrong])}
    task.metric("val").update(scores, torch.zeros(3, dtype=torch.long), torch.tensor([1, 2, 2]))
    task.on_validation_epoch_end()
    assert logged["val/score"] == expected
    assert (logged["val/egomcq/ensemble/inter"], logged["val/egomcq/ensemble/intra"]) == (100.0, 50.0)
    scores = dict.fromkeys(scores, right)
    task.metric("val").update(scores, torch.tensor([0]), torch.tensor([1]))  # no question within a video
    task.on_validation_epoch_end()
    assert logged["val/score"] == 100.0


def test_errors_of_the_last_score_are_logged_beside_the_accuracies(small_config) -> None:
    task, logged = EgoMCQ(small_config()), {}
    task.log = lambda name, value, prog_bar: logged.update({name: float(value)})
    task.log_dict = lambda values: logged.update({name: float(value) for name, value in values.items()})
    right, wrong = torch.eye(5)[:1], torch.eye(5)[1:2]
    scores = {"dual": right.expand(2, 5), "fusion": right.expand(2, 5), "ensemble": torch.cat([right, wrong])}
    difference = torch.full((2, 5), int(Difference.neither)).index_fill(1, torch.tensor([1]), int(Difference.verb))
    answer, kind = torch.zeros(2, dtype=torch.long), torch.full((2,), 2)
    task.metric("val").update(scores, answer, kind, difference)
    task.on_validation_epoch_end()
    errors = {name: value for name, value in logged.items() if "errors" in name}
    assert errors == {f"val/errors/intra/{by.name}": 50.0 * (by == Difference.verb) for by in Difference}
    assert logged["val/egomcq/ensemble/intra"] == 50.0 and "ensemble" in task.protocol["errors"]
    task.metric("val").update(scores, answer, kind)
    task.on_validation_epoch_end()
    assert logged["val/errors/intra/unknown"] == 50.0  # without tags


def test_the_papers_way_of_picking_a_checkpoint_is_the_default(small_config) -> None:
    assert EgoMCQ(small_config()).monitor == "intra"

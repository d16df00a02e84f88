"""ActionFormer as the head of MQ: losses, moments in seconds, and what it refuses."""

from typing import Any

import pytest
import torch
from lightning import LightningModule
from small_tasks import head_batch
from torch import Tensor

from egovlpv2.heads.actionformer import ActionFormer
from egovlpv2.heads.actionformer_decoding import Decoding
from egovlpv2.heads.nms import NMS
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.mq_actionformer import MQActionFormer


def small(**options: Any) -> MQActionFormer:
    torch.manual_seed(0)
    sizes = {"in_dim": 12, "num_classes": 2, "dim": 16, "num_levels": 3, "num_heads": 2, "max_steps": 32}
    task = MQActionFormer(OptimizerConfig(), **sizes | options)
    task.log = task.log_dict = lambda *_, **__: None
    return task


def batch(**changes: Any) -> Any:
    """Two clips whose steps are 2 s apart, the first at 1 s."""
    return head_batch("mq") | {"first_seconds": torch.ones(2)} | changes


def test_training_updates_the_normaliser_and_validation_does_not() -> None:
    task = small()
    assert isinstance(task.head, ActionFormer)
    task.training_step(batch(), 0)
    after = task.head.loss_normalizer.item()
    assert after < 100
    task.eval().validation_step(batch(), 0)
    assert task.head.loss_normalizer.item() == after and task.val_loss.compute() > 0
    resumed = small()
    resumed.load_state_dict(task.state_dict())
    assert isinstance(resumed.head, ActionFormer) and resumed.head.loss_normalizer.item() == pytest.approx(after)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_it_learns_in_float32_whatever_the_trainers_precision(precision: torch.dtype) -> None:
    found = []
    for mixed in (False, True):
        task = small(dropout=0.0, drop_path=0.0)
        torch.manual_seed(1)
        with torch.autocast("cpu", precision, enabled=mixed):
            loss = task.training_step(batch(features=torch.ones(2, 12, 32)), 0)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in task.parameters() if p.grad is not None)])
    assert found[0][0].dtype == torch.float32 and len(found[0]) > 50
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@torch.no_grad()
def test_padding_of_a_batch_changes_nothing() -> None:
    task, one = small().eval(), batch()
    shorter = {key: value[:1] if isinstance(value, Tensor) else value for key, value in one.items()}
    cut = shorter | {"features": shorter["features"][..., :20], "num_frames": torch.tensor([20])}
    padded = cut | {"features": torch.nn.functional.pad(cut["features"], (0, 9))}
    first, again = task(cut), task(padded)
    assert torch.equal(first.class_logits, again.class_logits) and first.points[:, 3].eq(1).sum() == 32
    longer = task(cut | {"features": torch.nn.functional.pad(cut["features"], (0, 20))})
    assert longer.points[:, 3].eq(1).sum() == 64  # the next multiple of what its windows take


@torch.no_grad()
def test_moments_are_in_seconds_and_of_the_classes_in_question() -> None:
    task = small(decoding=Decoding(nms=NMS(max_segments=30))).eval()
    out, one = task(batch()), batch()
    pairs = list(task.moments(out, one, [torch.tensor([2]), torch.tensor([], dtype=torch.int64)]))
    for (found, asked), duration in zip(pairs, one["duration"].tolist(), strict=True):
        assert len(found.scores) == 30 and found.segments.min() >= 0 and found.segments.max() <= duration
        assert (found.scores.diff() <= 0).all()
        assert set(asked.classes.tolist()) <= {2}
    assert len(pairs[0][1].scores) == (pairs[0][0].classes == 2).sum() and len(pairs[1][1].scores) == 0


@torch.no_grad()
def test_a_submission_and_drawings_are_as_of_the_other_head() -> None:
    task, one = small().eval(), batch()
    rows = task.predict_step(one, 0)
    assert [row["clip"] for row in rows] == ["a", "b"]
    for row in rows:
        for kind in ("detect_results", "retrieve_results"):
            assert row[kind] and set(row[kind][0]) == {"label", "score", "segment"}
        assert {found["label"] for found in row["detect_results"]} <= {"x", "y"}
    assert task.submission(rows)["challenge"] == "ego4d_moment_queries"
    drawing = task.drawings(one, 2)[1]
    assert drawing.title == "b" and len(drawing.curves["likeliest class"]) == 20
    assert [(span.label, span.start, span.end) for span in drawing.ground_truth] == [("y", 3.0, 7.0)]


def test_a_batch_without_clips_is_taken() -> None:
    task = small().eval()
    task.validation_step(batch(key=[]), 0)
    task.update_metric(task.metric("test"), batch(key=[]))
    assert task.predict_step(batch(key=[]), 0) == []


@pytest.mark.parametrize(("changes", "problem"), [
    ({"features": torch.zeros(2, 13, 32)}, "features are 13 wide and the head takes 12: set model.init_args.in_dim=13"),
    ({"labels": ["", "x"]}, "has 1 labels, background excluded, and the head 2: set model.init_args.num_classes=1"),
])
def test_other_features_and_classes_are_named(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        small()(batch(**changes))


def test_resized_clips_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Data:
        clips_as = "resized"

    monkeypatch.setattr(MQActionFormer, "data", Data())
    monkeypatch.setattr("egovlpv2.tasks.head.HeadTask.setup", lambda *_: None)
    with pytest.raises(ValueError, match="set data.init_args.clips_as=cropped"):
        small().setup("fit")


def test_the_protocol_names_the_head_and_its_settings() -> None:
    protocol = small(window=5).protocol
    assert protocol["head"] == "actionformer" and protocol["variant"] == "authors" and protocol["window"] == 5
    assert protocol["decoding"]["nms"]["sigma"] == 0.9 and protocol["loss"]["offset_weight"] == 1.0
    assert isinstance(small(), LightningModule)

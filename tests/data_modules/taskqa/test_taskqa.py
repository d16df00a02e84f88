"""EgoTaskQA's official files: each question is asked once, of its own video; what can't be used is named or counted."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from taskqa_world import ANSWERS, COUNTS, GREYS, KINDS, Row, official, row, write
from torch import Tensor

from egovlpv2.batch import AnswerBatch
from egovlpv2.data_modules.clips import Failure
from egovlpv2.data_modules.loaders import PAD_INDEX
from egovlpv2.data_modules.taskqa import TaskQADataModule


def epoch(data: TaskQADataModule, number: int = 0) -> list[dict[str, Any]]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    return list(loader)


def grey_of(video: Tensor) -> str:
    """Whose pictures these are."""
    mean = video.float().mean().item()
    return min(GREYS, key=lambda name: abs(GREYS[name] + 7 - mean))


def check(batch: dict[str, Any], rows: list[Row], max_tokens: int = 6) -> None:
    """Questions belong to their videos, and all other entries to their questions."""
    assert set(batch) == {*AnswerBatch.__annotations__, "failures"}
    count, asked = len(batch["key"]), [rows[i] for i in batch["index"].tolist()]
    assert batch["video"].dtype == torch.uint8 and batch["video"].shape[1:] == (2, 3, 16, 16)
    assert batch["of_video"].shape == batch["answer"].shape == batch["guess"].shape == (count,)
    assert batch["text"]["input_ids"].shape == batch["text"]["attention_mask"].shape == (count, max_tokens)
    assert sorted(set(batch["of_video"].tolist())) == list(range(len(batch["video"])))
    assert [grey_of(batch["video"][i]) for i in batch["of_video"]] == [question["interval"] for question in asked]
    assert batch["key"] == [question["question_id"] for question in asked]
    assert batch["answer"].tolist() == [question["answer_encode"] for question in asked]
    words = [question["question"].lower().split() for question in asked]
    tokens = [[0, *(4 + int(word[1:]) for word in ws), 2] for ws in words]
    assert [ids[:4] for ids in batch["text"]["input_ids"].tolist()] == tokens
    assert batch["text"]["attention_mask"].sum(1).tolist() == [4] * count
    assert batch["answers"] == ANSWERS and batch["kind_names"] == ["all", "open", "binary", *KINDS]
    for flags, question in zip(batch["kinds"].tolist(), asked, strict=True):
        binary = "binary" if question["answer"] in ("yes", "no") else "open"
        true = {name for name, flag in zip(batch["kind_names"], flags, strict=True) if flag}
        assert true == {"all", binary, *question["reasoning_type"].split("$")}


@pytest.mark.parametrize(("size", "shares"), [(1, 11), (2, 7), (5, 4)])
@pytest.mark.parametrize("augment", [True, False])
def test_each_question_is_asked_once_an_epoch(make: Callable[..., TaskQADataModule], size: int, shares: int,
                                              augment: bool) -> None:
    data = make(questions_per_video=size, augment=augment)
    for number in range(3):
        batches = epoch(data, number)
        assert len(batches) == shares == data.counts["train_rows"]
        for batch in batches:
            check(batch, official())
            assert len(batch["video"]) == 1 and 1 <= len(batch["key"]) <= size and not batch["failures"]
        assert Counter(key for batch in batches for key in batch["key"]) == Counter(f"q{k}" for k in range(11))
    assert data.counts["train_questions"] == 11 and data.protocol["questions_per_video"] == size


def shares_of(batches: list[dict[str, Any]]) -> set[frozenset[str]]:
    return {frozenset(batch["key"]) for batch in batches}


def test_shares_are_drawn_anew_in_each_epoch(make: Callable[..., TaskQADataModule]) -> None:
    data, again, other = make(questions_per_video=2), make(questions_per_video=2), make(questions_per_video=2, seed=1)
    found = [shares_of(epoch(data, number)) for number in range(4)]
    assert len(set(map(frozenset, found))) > 1
    assert found == [shares_of(epoch(again, number)) for number in range(4)]
    assert found != [shares_of(epoch(other, number)) for number in range(4)]
    for one, two in zip(epoch(data, 2), epoch(again, 2), strict=True):
        assert one["key"] == two["key"] and torch.equal(one["video"], two["video"])


def test_a_batch_of_many_videos(make: Callable[..., TaskQADataModule]) -> None:
    (batch,) = epoch(make(batch_size=4, questions_per_video=5))
    check(batch, official())
    assert len(batch["video"]) == 4 and len(batch["key"]) == 11


def test_training_videos_are_cropped_at_random(make: Callable[..., TaskQADataModule]) -> None:
    still, moving = ([epoch(make(augment=augment, questions_per_video=5), number) for number in range(3)]
                     for augment in (False, True))
    videos = [[next(batch["video"] for batch in batches if "q0" in batch["key"]) for batches in epochs]
              for epochs in (still, moving)]
    assert all(torch.equal(videos[0][0], video) for video in videos[0])
    assert not all(torch.equal(videos[1][0], video) for video in videos[1])


@pytest.mark.parametrize("split", ["val", "test", "predict"])
def test_evaluation_asks_all_of_a_video_at_once(make: Callable[..., TaskQADataModule], split: str) -> None:
    data = make(questions_per_video=2, eval_num_frames=3)
    batches = list(getattr(data, f"{split}_dataloader")())
    assert [len(batch["video"]) for batch in batches] == [3, 1] and batches[0]["video"].shape == (3, 3, 3, 16, 16)
    for batch in batches:
        check({**batch, "video": batch["video"][:, :2]}, official())
    names = [official()[i]["interval"] for batch in batches for i in batch["index"].tolist()]
    assert names == [name for name in sorted(COUNTS) for _ in range(COUNTS[name])]
    assert data.counts["videos"] == 4 and data.counts[f"{'val' if split == 'val' else 'test'}_questions"] == 11


def test_two_processes_share_the_videos(make: Callable[..., TaskQADataModule], root: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, [question for question in official() if question["interval"] != "living"], "val")
    data = make(eval_batch_size=1)
    keys = []
    for rank in (0, 1):
        monkeypatch.setattr(data, "_processes", lambda rank=rank: (2, rank))
        keys.append([batch["key"] for batch in data.val_dataloader()])
        batches = list(data.val_dataloader())
    assert [len(share) for share in keys] == [2, 2] and keys[1][1] == []
    assert len([key for share in keys for keys_ in share for key in keys_]) == 10
    full, empty = batches
    assert empty["video"].shape == (0, 2, 3, 16, 16) and empty["text"]["input_ids"].shape == (0, 6)
    assert empty["kinds"].shape == (0, 10) and not empty["failures"] and empty["answers"] == ANSWERS
    for name in ("video", "index", "of_video", "answer", "guess", "kinds"):
        assert empty[name].dtype == full[name].dtype and len(empty[name]) == 0
        assert empty[name].shape[1:] == full[name].shape[1:]
    assert data.val_dataloader().dataset[PAD_INDEX] == (None, [], [])


def damage(root: Path, *names: str) -> None:
    for name in names:
        (root / "qa_videos" / f"{name}.mp4").write_bytes(b"no video at all")


def test_a_damaged_video_is_replaced_in_training(make: Callable[..., TaskQADataModule], root: Path) -> None:
    damage(root, "desk")
    data = make(questions_per_video=2)
    batches = epoch(data)
    failures = [failure for batch in batches for failure in batch["failures"]]
    assert len(batches) == 7 and {failure.video for failure in failures} == {"desk.mp4"} and len(failures) >= 2
    assert all("desk.mp4" in failure.reason for failure in failures)
    for batch in batches:
        check(batch, official())
    assert {official()[i]["interval"] for batch in batches for i in batch["index"].tolist()} == set(COUNTS) - {"desk"}
    for one, two in zip(batches, epoch(make(questions_per_video=2)), strict=True):
        assert one["key"] == two["key"]  # the others are drawn the same again
    (root / "qa_videos" / "desk.mp4").unlink()
    failures = [failure for batch in epoch(data) for failure in batch["failures"]]
    assert failures and {failure.video for failure in failures} == {"desk.mp4"}
    damage(root, *COUNTS)
    with pytest.raises(ValueError, match="10 clips one after the other could not be read; the last: .*qa_videos/"):
        epoch(data)


def trained_by(data: TaskQADataModule, training: bool) -> None:
    data.trainer = SimpleNamespace(world_size=1, global_rank=0, training=training, overfit_batches=0,
                                   num_training_batches=7)


def test_a_damaged_video_is_left_out_and_counted_in_evaluation(make: Callable[..., TaskQADataModule], root: Path
                                                               ) -> None:
    damage(root, "desk")
    data = make(max_failed_share=0.3)
    trained_by(data, False)
    batches = list(data.val_dataloader())
    assert [failure for batch in batches for failure in batch["failures"]] == [
        Failure(0, "desk.mp4", batches[0]["failures"][0].reason)]
    for batch in batches:
        check(batch, official())
    assert sum(len(batch["key"]) for batch in batches) == 8
    for batch in batches:
        assert set(data.on_before_batch_transfer(batch, 0)) == set(AnswerBatch.__annotations__)
    assert data.counts["skipped_videos"] == 1
    strict = make(max_failed_share=0.2)
    trained_by(strict, False)
    with pytest.raises(ValueError, match=r"1 of 4 videos could not be read, more than max_failed_share=0.2.*desk.mp4"):
        for batch in strict.val_dataloader():
            strict.on_before_batch_transfer(batch, 0)
    damage(root, *COUNTS)
    batches = list(data.val_dataloader())
    assert all(batch["video"].shape == (0, 2, 3, 16, 16) and not batch["key"] for batch in batches)


def test_long_questions_are_cut_and_counted(make: Callable[..., TaskQADataModule], root: Path) -> None:
    lengths = {0: 400, 1: 5, 2: 4, 3: 1}  # and two special tokens each
    rows = [row("desk", k, question=" ".join(f"w{i}" for i in range(k, k + length))) for k, length in lengths.items()]
    write(root, rows, "val")
    data = make()
    (batch,) = data.val_dataloader()
    assert batch["text"]["attention_mask"].sum(1).tolist() == [6, 6, 6, 3]
    assert batch["text"]["input_ids"][0].tolist() == [0, 4, 5, 6, 7, 2]
    assert data.counts["val_cut_questions"] == 2 and data.counts["val_questions"] == 4

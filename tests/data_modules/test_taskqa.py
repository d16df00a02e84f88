"""EgoTaskQA's official files: each question is asked once, of its own video; what can't be used is named or counted."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from video.numbered_videos import write_video

from egovlpv2.batch import AnswerBatch
from egovlpv2.data_modules.clips import Failure
from egovlpv2.data_modules.loaders import PAD_INDEX
from egovlpv2.data_modules.questions import kind_names, most_frequent, read_questions
from egovlpv2.data_modules.taskqa import TaskQADataModule
from egovlpv2.heads.answers import read_answers
from egovlpv2.metrics.answers import AnswerAccuracy

ANSWERS = ["<UNK1>", "yes", "no", "knife", "take the cup"]
COUNTS = {"kitchen": 5, "living": 1, "desk": 3, "garage": 2}  # questions of each video
GREYS = {name: 40 + 50 * i for i, name in enumerate(COUNTS)}  # of its pictures
KINDS = ["action", "counterfactual", "descriptive", "direct", "indirect", "object", "world"]
Row = dict[str, Any]


def row(interval: str, number: int, answer: int = 3, **changes: Any) -> Row:
    """A question with the keys of the official files."""
    return {"interval": interval, "question": f"W{number} w9", "answer": ANSWERS[answer], "answer_encode": answer,
            "type": ["descriptive"], "category": ["object"], "semantic": "world", "structural": "query",
            "reference": "direct", "reasoning_type": "descriptive$object$world$direct",
            "question_id": f"q{number}", "video_id": interval, "question_encode": [1, 2]} | changes


def official() -> list[Row]:
    """The questions of all videos, mixed; question k reads `wk w9`."""
    names = [name for turn in range(5) for name, count in COUNTS.items() if turn < count]
    return [row(name, k, 1 + k % 4) for k, name in enumerate(names)]


def write(root: Path, rows: Any, split: str = "train", place: str = "qa/direct") -> Path:
    path = root / place / f"formatted_{split}_qas_encode.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The data set's folder; the three splits ask the same."""
    (tmp_path / "qa_videos").mkdir()
    for name, grey in GREYS.items():
        write_video(tmp_path / "qa_videos" / f"{name}.mp4", fps=4, pictures=[
            np.full((32, 48, 3), grey + 2 * i, np.uint8) for i in range(8)])
    for split in ("train", "val", "test"):
        write(tmp_path, official(), split)
    (tmp_path / "qa" / "direct" / "answer_set.txt").write_text("\n".join(ANSWERS) + "\n")
    (tmp_path / "qa" / "direct" / "all_reasoning_types.txt").write_text("\n".join(KINDS) + "\n")
    return tmp_path


@pytest.fixture
def make(root: Path, tokenizer: str) -> Callable[..., TaskQADataModule]:
    """A function that makes a small data module."""

    def _make(**options: Any) -> TaskQADataModule:
        sizes = {"batch_size": 1, "eval_batch_size": 3, "num_workers": 0, "max_tokens": 6, "eval_max_tokens": 6,
                 "num_frames": 2, "size": 16}
        return TaskQADataModule(str(root), **(sizes | {"tokenizer": tokenizer} | options))

    return _make


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
    assert [ids[:2] for ids in batch["text"]["input_ids"].tolist()] == [[4 + int(w[1:]) for w in ws] for ws in words]
    assert batch["text"]["attention_mask"].sum(1).tolist() == [2] * count
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


def test_what_is_wrong_with_a_question_is_named(root: Path) -> None:
    for changes, problem in (
            ({"answer": "fork"}, "the answer 'fork' isn't 'knife', which 'answer_encode' 3 is in the answer set: take"),
            ({"answer": "yes"}, "the answer 'yes' isn't 'knife', which 'answer_encode' 3"),
            ({"answer_encode": 0}, "the answer 'knife' isn't '<UNK1>', which 'answer_encode' 0"),
            ({"answer_encode": 5}, "'answer_encode' is 5 and the answer set has 5 answers"),
            ({"answer_encode": -1}, "'answer_encode' is -1 and the answer set has 5 answers"),
            ({"answer_encode": "3"}, "answer_encode: Expected `int`, got `str`"),
            ({"answer_encode": True}, "answer_encode: Expected `int`, got `bool`"),
            ({"answer_encode": 3.0}, "answer_encode: Expected `int`, got `float`"),
            ({"question": " "}, "question: Expected a text that is not blank"),
            ({"question": None}, "question: Expected `str`, got `null`"),
            ({"interval": 7}, "interval: Expected `str`, got `int`"),
            ({"interval": " "}, "interval: Expected a text that is not blank"),
            ({"answer": ["knife"]}, "answer: Expected `str`, got `array`"),
            ({"reasoning_type": ["object"]}, "reasoning_type: Expected `str`, got `array`"),
            ({"template": ["a"]}, r"template: Expected `str . null`, got `array`"),
            ({"question_id": "q0"}, "question_id 'q0' is there twice, first in question 0"),
            ({"question_id": 1.5}, "question_id: Expected `int . str . null`, got `float`")):
        path = write(root, [row("desk", 0), row("desk", 1) | changes])
        with pytest.raises(ValueError, match=f"train_qas_encode.json, question 1: {problem}"):
            read_questions(path, ANSWERS)
    for name in ("interval", "question", "answer", "answer_encode", "reasoning_type"):
        lacking = {key: value for key, value in row("desk", 0).items() if key != name}
        with pytest.raises(ValueError, match=f"train_.*json, question 0: Object missing required field `{name}`"):
            read_questions(write(root, [lacking]), ANSWERS)
    for content, problem in ((["what?"], "question 0: Expected `object`, got `str`"),
                             ({"a": 1}, "which should be a list of questions: Expected `array`"),
                             ("[{", "line 1, column 3: not JSON")):
        with pytest.raises(ValueError, match=f"train_qas_encode.json,? {problem}"):
            read_questions(write(root, content), ANSWERS)


def test_answers_that_training_never_met_are_unknown(root: Path) -> None:
    (question,) = read_questions(write(root, [row("desk", 0, 0) | {"answer": "spoon"}]), ANSWERS)
    assert question.answer == 0 and question.kinds[0] == "open"
    (question,) = read_questions(write(root, [row("desk", 0, 0)]), ANSWERS)  # named so themselves
    assert question.answer == 0
    (question,) = read_questions(write(root, [row("desk", 0, 4) | {"answer": " take the cup "}]), ANSWERS)
    assert question.answer == 4


def test_questions_are_read_as_the_files_have_them(root: Path) -> None:
    rows = [row("desk", 0, 1, question=" What DID he do? ", reasoning_type="counterfactual$$action$indirect"),
            row("desk", 1, 2, template="t"), row("living", 2, 4, question_id=17)]
    del rows[0]["question_id"]
    one, two, three = read_questions(write(root, rows), ANSWERS)
    assert (one.key, one.interval, one.text) == ("0", "desk", "what did he do?")
    assert one.kinds == ("binary", "counterfactual", "action", "indirect") and one.template == one.text
    assert (two.key, two.kinds[0], two.template) == ("q1", "binary", "t")
    assert (three.key, three.kinds[0]) == ("17", "open")


def test_kinds_to_score(root: Path) -> None:
    found = read_questions(write(root, [row("desk", 0, reasoning_type="new$object")]), ANSWERS)
    listed = root / "qa" / "direct" / "all_reasoning_types.txt"
    assert kind_names(found, listed) == ["all", "open", "binary", *KINDS, "new"]
    listed.write_text("world\r\n\r\nobject\r\n")
    assert kind_names(found, listed) == ["all", "open", "binary", "world", "object", "new"]
    listed.unlink()
    assert kind_names(found, listed) == ["all", "open", "binary", "new", "object"]


def test_long_questions_are_cut_and_counted(make: Callable[..., TaskQADataModule], root: Path) -> None:
    lengths = {0: 400, 1: 7, 2: 6, 3: 1}
    rows = [row("desk", k, question=" ".join(f"w{i}" for i in range(k, k + length))) for k, length in lengths.items()]
    write(root, rows, "val")
    data = make()
    (batch,) = data.val_dataloader()
    assert batch["text"]["attention_mask"].sum(1).tolist() == [6, 6, 6, 1]
    assert batch["text"]["input_ids"][0].tolist() == [4, 5, 6, 7, 8, 9]
    assert data.counts["val_cut_questions"] == 2 and data.counts["val_questions"] == 4


def test_answer_sets(make: Callable[..., TaskQADataModule], root: Path) -> None:
    path = root / "qa" / "direct" / "answer_set.txt"
    path.write_text("yes \r\n\r\nno\r\n")
    assert read_answers(path) == ["yes", "no"]
    path.write_bytes("yes\rno\r".encode("utf-8-sig"))
    assert read_answers(path) == ["yes", "no"]
    for content, problem in (("a\nb\na\n", "answer_set.txt lists 'a' twice"), (" \n", "answer_set.txt lists no answ")):
        path.write_text(content)
        with pytest.raises(ValueError, match=problem):
            make().val_dataloader()
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="answer_set.txt, line 1: the file is UTF-16.*one a line"):
        read_answers(path)
    path.unlink()
    with pytest.raises(ValueError, match="There is no .*qa/direct/answer_set.txt or .*qa/answer_set.txt or .*/answer_"):
        make().val_dataloader()


@pytest.mark.parametrize("template", [True, False])
def test_guesses_are_the_most_frequent_answers(make: Callable[..., TaskQADataModule], root: Path, template: bool
                                               ) -> None:
    """With templates, wordings don't count; without, a question is like those of its wording, whatever its case."""
    told = [("t1", "w1", 3), ("t1", "w2", 1), ("t1", "w2", 1), ("t2", "w1", 4), ("t2", "w3", 4), ("t3", "w4", 2),
            ("t3", "w4", 4)]
    asked = [("t1", "w1"), ("t2", "W2"), ("t9", "w9"), ("t3", "w3")]
    keys = ["template", "question"] if template else ["question"]
    for split, rows in (("train", told), ("val", [(*names, 3) for names in asked])):
        write(root, [row("desk", k, answer, **{key: dict(template=t, question=q)[key] for key in keys})
                     for k, (t, q, answer) in enumerate(rows)], split)
    expected = [1, 4, 4, 2] if template else [3, 1, 4, 4]
    data = make()
    (batch,) = data.val_dataloader()
    assert batch["guess"].tolist() == expected
    questions = [read_questions(data._path(getattr(data, split)), ANSWERS) for split in ("train", "val")]
    assert most_frequent(*questions) == expected


@pytest.mark.parametrize("place", ["qa/direct", "qa", ""])
def test_places_of_the_files(make: Callable[..., TaskQADataModule], root: Path, place: str) -> None:
    rows = [row("living", 0), row("living", 1)]
    for name in ("formatted_val_qas_encode.json", "answer_set.txt", "all_reasoning_types.txt"):
        (root / "qa" / "direct" / name).rename(root / place / name)
    write(root, rows, "val", place)
    data = make()
    assert [batch["key"] for batch in data.val_dataloader()] == [["q0", "q1"]]
    assert data.protocol["val"] == str(root / place / "formatted_val_qas_encode.json")
    if not place:  # the first of the places counts
        write(root, rows[:1], "val", "qa")
        assert [batch["key"] for batch in make().val_dataloader()] == [["q0"]]


def test_the_indirect_split_has_files_of_its_own(make: Callable[..., TaskQADataModule], root: Path) -> None:
    write(root, [row("living", 7)], "val", "qa/indirect")
    with pytest.raises(ValueError, match="There is no .*qa/indirect/answer_set.txt"):
        make(split="indirect").val_dataloader()
    for name in ("formatted_train_qas_encode.json", "answer_set.txt"):
        (root / "qa" / "indirect" / name).write_bytes((root / "qa" / "direct" / name).read_bytes())
    (batch,) = make(split="indirect").val_dataloader()
    assert batch["key"] == ["q7"] and batch["kind_names"] == [
        "all", "open", "binary", "descriptive", "direct", "object", "world"]


def test_what_lacks_is_named(make: Callable[..., TaskQADataModule], root: Path) -> None:
    with pytest.raises(ValueError, match="questions_per_video=0: give 1 or more"):
        make(questions_per_video=0)
    with pytest.raises(ValueError, match="There is no folder .*elsewhere with the videos: set data.init_args.root"):
        make(videos="elsewhere").val_dataloader()
    for split in ("train", "val"):
        path = write(root, [], split)
        with pytest.raises(ValueError, match=f"formatted_{split}_qas_encode.json has no questions"):
            getattr(make(), f"{split}_dataloader")()
        path.unlink()
        with pytest.raises(ValueError, match=f"There is no .*qa/direct/formatted_{split}_qas_encode.json or .*: set"):
            getattr(make(), f"{split}_dataloader")()
        write(root, official(), split)
    assert make().has_test_data and not make(test="formatted_val_qas_encode.json").has_test_data


# ---- the metric -----------------------------------------------------------------------------------------------------

NAMES = ["all", "open", "binary", "object", "never"]
RIGHT = torch.tensor([[1, 0], [0, 1], [1, 1], [1, 0], [0, 0], [1, 0], [0, 1]]).bool()  # model, most frequent answer
FLAGS = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 0, 0, 0], [1, 0, 1, 1, 0], [1, 0, 1, 0, 0], [1, 0, 1, 1, 0],
                      [1, 1, 0, 0, 0], [1, 0, 1, 0, 0]]).bool()
BY_HAND = {"all": 400 / 7, "open": 200 / 3, "binary": 50.0, "object": 200 / 3, "most_frequent": 300 / 7}


def updated(*parts: list[int]) -> AnswerAccuracy:
    metric = AnswerAccuracy()
    for rows in parts:
        metric.update(torch.tensor(rows, dtype=torch.int64), RIGHT[rows], FLAGS[rows], NAMES)
    return metric


@pytest.mark.parametrize("parts", [[[*range(7)]], [[0], [1, 2, 3, 4, 5], [6]], [[], [0, 1, 2], [], [6, 5, 4, 3], []]])
def test_accuracy_by_hand(parts: list[list[int]]) -> None:
    found = updated(*parts).compute()
    assert found == pytest.approx(BY_HAND) and list(found)[0] == "all"  # a kind that nothing is of isn't there


def test_two_halves_are_the_whole() -> None:
    one, two = updated([0, 3], [5]), updated([], [6, 1, 2, 4])
    one.merge_state(two)
    assert one.compute() == pytest.approx(BY_HAND)


def test_it_starts_anew_and_refuses_nothing_and_twice_the_same() -> None:
    metric = updated([*range(7)])
    metric.reset()
    metric.update(torch.tensor([3]), RIGHT[[3]], FLAGS[[3]], NAMES)
    assert metric.compute() == {"all": 100.0, "binary": 100.0, "most_frequent": 0.0}
    with pytest.raises(ValueError, match="none of the questions' videos could be read"):
        updated([], []).compute()
    with pytest.raises(AssertionError):
        updated([0, 1], [1]).compute()

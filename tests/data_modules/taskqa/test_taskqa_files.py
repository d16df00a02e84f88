"""EgoTaskQA's files: questions, answer sets and their places, and what is wrong with them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from taskqa_world import ANSWERS, KINDS, official, row, write

from egovlpv2.data_modules.questions import kind_names, most_frequent, read_questions
from egovlpv2.data_modules.taskqa import TaskQADataModule
from egovlpv2.heads.answers import read_answers


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

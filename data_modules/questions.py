"""Questions about short videos in EgoTaskQA's official files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from egovlpv2.heads.answers import UNKNOWN
from egovlpv2.io.annotations import Once
from egovlpv2.io.schema import Words, check, read_json, read_lines, shown

_BINARY = ("yes", "no")


class TaskQAQuestion(NamedTuple):
    """A question about an interval of video."""

    key: str  # its id in the file
    interval: str  # the video's name
    text: str  # lower-cased
    answer: int  # index in the answer set
    kinds: tuple[str, ...]  # reasoning type, category, semantic, structure, reference
    template: str  # the group of questions for the most frequent answer


@dataclass
class _Row:
    """A question in its file."""

    interval: Words
    question: Words
    answer: Words
    answer_encode: int
    reasoning_type: str
    template: str | None = None
    question_id: Words | int | None = None  # a number in the official files


def read_questions(path: Path, answers: Sequence[str]) -> list[TaskQAQuestion]:
    """The questions of an official `formatted_*_qas_encode.json`.

    Args:
        path: The file.
        answers: The answer set that its `answer_encode` indexes.

    Raises:
        ValueError: The file is missing or malformed, an id is there twice, or an answer is not the one of its number.
    """
    rows = check(read_json(path, Any), list[Any], f"{path}, which should be a list of questions")
    questions = [_question(f"{path}, question {i}", i, check(row, _Row, f"{path}, question {i}"), answers)
                 for i, row in enumerate(rows)]
    ids = Once(str(path), "question_id")
    for i, question in enumerate(questions):
        ids.add(question.key, f"question {i}")
    return questions


def _question(where: str, place: int, row: _Row, answers: Sequence[str]) -> TaskQAQuestion:
    answer, number = row.answer.strip(), row.answer_encode
    if not 0 <= number < len(answers):
        raise ValueError(f"{where}: 'answer_encode' is {shown(number)} and the answer set has {len(answers)} answers")
    if answers[number] not in (answer, UNKNOWN) or (answers[number] != answer and answer in answers):
        raise ValueError(f"{where}: the answer {shown(answer)} isn't {shown(answers[number])}, which 'answer_encode' "
                         f"{number} is in the answer set: take the answer set that belongs to these questions")
    text = row.question.strip().lower()
    kinds = ("binary" if answer in _BINARY else "open", *filter(None, row.reasoning_type.split("$")))
    key = place if row.question_id is None else row.question_id
    return TaskQAQuestion(str(key), row.interval, text, number, kinds, text if row.template is None else row.template)


def kind_names(questions: Sequence[TaskQAQuestion], path: Path) -> list[str]:
    """The kinds to score: all questions, open and binary ones, kinds listed in a file, and other kinds that occur."""
    listed = read_lines(path) if path.exists() else []
    found = sorted({kind for question in questions for kind in question.kinds})
    return list(dict.fromkeys(["all", "open", "binary", *(line.strip() for line in listed if line.strip()), *found]))


def most_frequent(training: Sequence[TaskQAQuestion], questions: Sequence[TaskQAQuestion]) -> list[int]:
    """The most frequent answer to the training questions of each question's template, or else to all of them.

    In the official files, which have no templates, the template is the question's own wording.
    """
    overall = Counter(question.answer for question in training)
    by_template: dict[str, Counter[int]] = {}
    for question in training:
        by_template.setdefault(question.template, Counter())[question.answer] += 1
    return [by_template.get(question.template, overall).most_common(1)[0][0] for question in questions]

"""Questions about short videos in EgoTaskQA's official files."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from egovlpv2.data_modules.grounding import read_json
from egovlpv2.grounding.answers import UNKNOWN

_BINARY = ("yes", "no")
_NEEDED = {"interval": str, "question": str, "answer": str, "answer_encode": int, "reasoning_type": str}


class Question(NamedTuple):
    """A question about an interval of video."""

    key: str  # its id in the file
    interval: str  # the video's name
    text: str  # lower-cased
    answer: int  # which of the answer set
    kinds: tuple[str, ...]  # what it is about: reasoning type, category, semantic, structure, reference
    template: str  # what it has in common with others, for the most frequent answer


def read_questions(path: Path, answers: Sequence[str]) -> list[Question]:
    """The questions of an official `formatted_*_qas_encode.json`.

    Args:
        path: The file.
        answers: The answer set that its `answer_encode` counts in.

    Raises:
        ValueError: The file is missing or malformed, or an answer is not the one of its number.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise ValueError(f"{path} should be a list of questions, not {type(rows).__name__}")
    return [_question(path, i, row, answers) for i, row in enumerate(rows)]


def _question(path: Path, place: int, row: Any, answers: Sequence[str]) -> Question:
    where = f"{path}, question {place}"
    if not isinstance(row, dict):
        raise ValueError(f"{where}: {row!r} is no question with keys")
    for name, kind in (_NEEDED | ({"template": str} if "template" in row else {})).items():
        if not isinstance(row.get(name), kind) or isinstance(row[name], bool):
            raise ValueError(f"{where}: {name!r} should be {kind.__name__} and is {row.get(name)!r}")
    answer, number = row["answer"].strip(), row["answer_encode"]
    for name in ("interval", "question"):
        if not row[name].strip():
            raise ValueError(f"{where}: {name!r} is empty")
    if not 0 <= number < len(answers):
        raise ValueError(f"{where}: 'answer_encode' is {number} and the answer set has {len(answers)} answers")
    if answers[number] not in (answer, UNKNOWN) or (answers[number] != answer and answer in answers):
        raise ValueError(f"{where}: the answer {answer!r} isn't {answers[number]!r}, which 'answer_encode' {number} is "
                         "in the answer set: take the answer set that belongs to these questions")
    text = row["question"].strip().lower()
    kinds = ("binary" if answer in _BINARY else "open", *filter(None, row["reasoning_type"].split("$")))
    return Question(str(row.get("question_id", place)), row["interval"], text, number, kinds,
                    row.get("template", text))


def kind_names(questions: Sequence[Question], path: Path) -> list[str]:
    """The kinds to score: all questions, open and binary ones, those that a file lists, and others that occur."""
    listed = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    found = sorted({kind for question in questions for kind in question.kinds})
    return list(dict.fromkeys(["all", "open", "binary", *(line.strip() for line in listed if line.strip()), *found]))


def most_frequent(training: Sequence[Question], questions: Sequence[Question]) -> list[int]:
    """A guess for each question: what its template's training questions are answered most often; else, what all are.

    In the official files, which name no template, it is the question's own wording.
    """
    overall = Counter(question.answer for question in training)
    by_template: dict[str, Counter[int]] = {}
    for question in training:
        by_template.setdefault(question.template, Counter())[question.answer] += 1
    return [by_template.get(question.template, overall).most_common(1)[0][0] for question in questions]

"""Texts that name objects by synonyms, which no text of the training data has."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from egovlpv2.data_modules.toy_world.vocabulary import SYNONYMS
from egovlpv2.io.schema import read_json

TASKQA_FILES = ("formatted_known_qas_encode.json", "formatted_synonyms_qas_encode.json")
"""EgoTaskQA's test questions that name an object with a synonym: as they are, and with the synonym."""


def rename(text: str, noun: str) -> str | None:
    """Replace the first mention of a noun by its synonym; None where the text doesn't have it, or it has none.

    In a narration the first mention is the object, and a tool of the same name keeps it.
    """
    if noun not in SYNONYMS:
        return None
    renamed, count = re.subn(rf"\b{noun}\b", SYNONYMS[noun], text, count=1)
    return renamed if count else None


def write_taskqa_synonyms(root: Path, write: Callable[[Path, str], None]) -> None:
    """Write `TASKQA_FILES` beside the direct split's test questions.

    Args:
        root: The toy world's folder, with those questions.
        write: Writes a text into a file.
    """
    folder = root / "taskqa" / "qa" / "direct"
    rows = read_json(folder / "formatted_test_qas_encode.json", list[dict[str, Any]])
    pairs = [(row, renamed) for row in rows if (renamed := _renamed(row)) is not None]
    for i, name in enumerate(TASKQA_FILES):
        write(folder / name, json.dumps([pair[i] for pair in pairs]))


def _renamed(row: dict[str, Any]) -> dict[str, Any] | None:
    """The row with a synonym in its question, an unknown word; None where it names no such object."""
    for noun in SYNONYMS:
        if (text := rename(row["question"], noun)) is not None:
            place = re.findall(r"\w+", row["question"]).index(noun)
            encoded = [0 if i == place else number for i, number in enumerate(row["question_encode"])]
            return row | {"question": text, "question_encode": encoded}
    return None

"""Words of verb and noun classes, in their inflections, to be found in captions and replaced there."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from egovlpv2.data_modules.csv_files import read_csv

Inflect = Callable[[str], tuple[str, ...]]

_DOUBLES = re.compile(r"[^aeiou]*[aeiou][^aeiouwxy]")  # of these verbs the last letter is doubled: cutting, patted
_HISSES = ("s", "x", "z", "ch", "sh")
_LABEL = re.compile(r"(?P<name>[^(]*?)_?(?:\((?P<others>.*)\))?")


def inflect_verb(verb: str) -> tuple[str, ...]:
    """Spell a verb as it is and with s, ing and ed; of several words (pick up), the first one is inflected."""
    word, *rest = verb.split(" ")
    stem = word + word[-1] if _DOUBLES.fullmatch(word) else word
    ing = re.sub("ie$", "y", stem) if word.endswith("ie") else re.sub("(?<=[^eoy])e$", "", stem)
    ed = f"{word}d" if word.endswith("e") else f"{word[:-1]}ied" if _ends_in_y(word) else f"{stem}ed"
    return tuple(" ".join([spelling, *rest]) for spelling in (word, _add_s(word), f"{ing}ing", ed))


def inflect_noun(noun: str) -> tuple[str, ...]:
    """Spell a noun in singular and plural; of several words (frying pan), the last one is inflected."""
    return noun, _add_s(noun)


def _add_s(word: str) -> str:
    if _ends_in_y(word):
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith((*_HISSES, "o")) else f"{word}s"


def _ends_in_y(word: str) -> bool:
    return re.search("[^aeiou]y$", word) is not None


class Mention(NamedTuple):
    """A word of a class in a caption."""

    begin: int  # of its first letter
    end: int  # after its last letter
    inflection: int  # number of its inflection


class ClassWords:
    """The words that name a class.

    Args:
        forms: The words as a dictionary lists them, some maybe of several words; none: no caption names the class.
        inflect: Spells a form in all inflections.
    """

    def __init__(self, forms: list[str], inflect: Inflect) -> None:
        self.forms = [inflect(form) for form in forms]
        self.inflections: dict[str, int] = {}  # by spelling; of two forms that share one, the first's
        for form in self.forms:
            for number, spelling in enumerate(form):
                self.inflections.setdefault(spelling, number)
        longest_first = sorted(self.inflections, key=len, reverse=True)
        self._pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b", re.IGNORECASE)

    def find(self, caption: str) -> Mention | None:
        """Find the first mention of the class, the longest of those that begin there."""
        found = self._pattern.search(caption) if self.forms else None
        return None if found is None else Mention(*found.span(), self.inflections[found[0].lower()])


def read_taxonomy(path: Path, inflect: Inflect, num_classes: int) -> list[ClassWords]:
    """Read the words of classes from a `narration_verb_taxonomy.csv` or `narration_noun_taxonomy.csv` of Ego4D.

    Args:
        path: A CSV with a column `label`: row `i` is class `i`, such as `take_(pick,_grab,_get)`. A class with a blank
            label has no words.
        inflect: Spells a form in all inflections.
        num_classes: Greatest number of classes.

    Raises:
        ValueError: The file can't be read, has too many rows, or none of its classes has a word.
    """
    frame = read_csv(path, ("label",), "the taxonomy that tags refer to")
    if len(frame) > num_classes:
        raise ValueError(f"{path} has {len(frame)} classes and tags are ids below {num_classes}: is it the taxonomy of "
                         "other tags?")
    classes = [ClassWords(forms_of(label), inflect) for label in frame["label"]]
    if not any(words.forms for words in classes):
        raise ValueError(f"{path}, column label: no class has a word, such as take_(pick,_grab,_get).")
    return classes


def forms_of(label: str) -> list[str]:
    """Split a label of the taxonomy into its words: `take_(pick,_grab,_get)` is take, pick, grab, get."""
    parts = _LABEL.fullmatch(label.strip())
    if parts is None:
        return []
    forms = [parts["name"], *(parts["others"] or "").split(",")]
    return list(dict.fromkeys(form for part in forms if (form := part.replace("_", " ").strip().lower())))

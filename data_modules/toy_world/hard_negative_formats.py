"""The events of a script in the format of EgoHOIBench, and the words of their classes in that of Ego4D's taxonomies."""

import csv
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from egovlpv2.data_modules.toy_world.formats import COLUMNS, Row, clip_rows
from egovlpv2.data_modules.toy_world.script import Event, Split, Video
from egovlpv2.data_modules.toy_world.vocabulary import AFFORDANCES, NOUN_COLOURS, NOUN_IDS, NOUNS, PHRASES, VERBS

HOI_FILES = ("narration_verb_taxonomy.csv", "narration_noun_taxonomy.csv", "egohoi_val.csv", "egohoi_test.csv")
"""The files of `write_egohoi`, in the order in which they are written."""

NUM_NEGATIVES = 10

_SPLITS: tuple[Split, ...] = ("val", "test")


def write_egohoi(videos: list[Video], root: Path, seed: int, write: Callable[[Path, str], None]) -> None:
    """Write `HOI_FILES`: the words of the classes, and a clip for each action of the wearer of the camera.

    Args:
        videos: Videos of all splits.
        root: The folder to write to.
        seed: Seed of the draws.
        write: Writes a text into a file.
    """
    verbs = [_label(verb, _forms(verb)) for verb in VERBS]
    texts = [_taxonomy(verbs), _taxonomy(list(NOUN_IDS))]
    texts += [egohoi_csv([video for video in videos if video.split == split], split, seed) for split in _SPLITS]
    for name, text in zip(HOI_FILES, texts, strict=True):
        write(root / name, text)


def _forms(verb: str) -> list[str]:
    """The words before the object in a verb's phrases, as a dictionary lists them: "picks up {}" is pick up."""
    forms = []
    for phrase in PHRASES[verb]:
        first, *others = phrase.split(" {}")[0].split()
        forms.append(" ".join([first[:-2] if first.endswith(("shes", "sses")) else first[:-1], *others]))
    return [form for form in dict.fromkeys(forms) if form != verb]


def _label(name: str, others: list[str]) -> str:
    """A class as Ego4D spells it: `pick_up_(take,_lift)`."""
    words = ",_".join(others)
    return f"{name}_({words})".replace(" ", "_") if others else name.replace(" ", "_")


def _taxonomy(labels: list[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([["label"], *([label] for label in labels)])
    return text.getvalue()


def egohoi_csv(videos: list[Video], split: Split, seed: int) -> str:
    """The text of an `EgoMCQ_hardnegHOI.csv`: the wearer's actions, with sentences that are wrong.

    Args:
        videos: The videos of the split.
        split: Name of the split.
        seed: Seed of the draws.
    """
    text, dice = io.StringIO(), random.Random(f"egohoi-{split}-{seed}")
    writer = csv.DictWriter(text, (*COLUMNS, "verb_neg", "noun_neg"), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    for video, rows in zip(videos, clip_rows(videos), strict=True):
        writer.writerows(_with_negatives(row, event, dice) for row, event in zip(rows, video.events, strict=True)
                         if event.wearer == "C")
    return text.getvalue()


def _with_negatives(row: Row, event: Event, dice: random.Random) -> Row:
    """The row with ten sentences of another verb, and ten of another noun."""
    phrase, coloured = _phrase(event)
    others = [noun for noun in NOUNS if noun != event.noun and event.verb in AFFORDANCES[noun]]
    # As the narration names its object, with or without its colour; the other way where there are too few.
    styles = [[f"#C C {phrase.format(_name(noun, style))}" for noun in others] for style in (coloured, not coloured)]
    nouns = [text for texts in styles for text in dice.sample(texts, len(texts))]
    verbs = list(_other_actions(event, coloured, dice))
    assert len(nouns) >= NUM_NEGATIVES <= len(verbs)
    return row | {"verb_neg": ",".join(verbs[:NUM_NEGATIVES]), "noun_neg": ",".join(nouns[:NUM_NEGATIVES])}


def _phrase(event: Event) -> tuple[str, bool]:
    """The phrase of a narration, and whether it names the colour of its object."""
    for coloured in (True, False):
        for phrase in PHRASES[event.verb]:
            if event.text == f"#C C {phrase.format(_name(event.noun, coloured))}":
                return phrase, coloured
    raise AssertionError(f"no phrase of {event.verb} makes {event.text!r}")


def _name(noun: str, coloured: bool) -> str:
    return f"the {NOUN_COLOURS[noun]} {noun}" if coloured else f"the {noun}"


def _other_actions(event: Event, coloured: bool, dice: random.Random) -> Iterator[str]:
    """Sentences of other actions with the same object: one of each verb, then another one of each, and so on."""
    verbs = [verb for verb in AFFORDANCES[event.noun] if verb != event.verb]
    phrases = [dice.sample(PHRASES[verb], len(PHRASES[verb])) for verb in dice.sample(verbs, len(verbs))]
    for place in range(max(map(len, phrases))):
        for of_verb in phrases:
            if place < len(of_verb):
                yield f"#C C {of_verb[place].format(_name(event.noun, coloured))}"

"""Questions of a person's wording about the long takes, for Ego4D NLQ's format, with known and unknown nouns."""

import random
from collections import Counter
from typing import Any

from egovlpv2.data_modules.toy_world.script import Event
from egovlpv2.data_modules.toy_world.synonyms import rename
from egovlpv2.data_modules.toy_world.takes import Take, happens_once, query_row

QUESTIONS: dict[str, tuple[str, ...]] = {
    "pick up": ("When did I pick up the {}?", "When did I take the {}?", "When did I lift the {}?"),
    "put down": ("Where did I leave the {}?", "Where did I put the {}?", "When did I put the {} down?"),
    "push": ("When did I push the {} away?", "Where did I move the {}?"),
    "pull": ("When did I pull the {} closer?", "When did I bring the {} near?"),
    "open": ("When did I open the {}?", "Did I leave the {} open?"),
    "close": ("When did I close the {}?", "Did I shut the {}?"),
    "rotate": ("When did I turn the {}?", "When did I turn the {} around?"),
    "shake": ("When did I shake the {}?", "Why did I shake the {}?"),
    "pour": ("When did I pour water from the {}?", "Where did I pour from the {}?"),
    "cut": ("When did I cut the {}?", "What did I cut the {} with?"),
    "wipe": ("When did I wipe the {}?", "What did I clean the {} with?"),
    "squeeze": ("When did I squeeze the {}?", "When did I press the {}?"),
}
"""Wordings of a question for each verb; `{}` is the object."""

OPEN_QUESTIONS: dict[str, str] = {verb: f"What did I {verb}?" for verb in QUESTIONS} | {
    "push": "What did I push away?", "pull": "What did I pull closer?", "rotate": "What did I turn?",
    "pour": "What did I pour water from?",
}
"""The question for the object of each verb."""

_TEMPLATES = {"put down": "Place: Where did I put X?", "open": "Objects: State of an object",
              "close": "Objects: State of an object"}
_OPEN_TEMPLATE = "Objects: What X did I Y?"


def questions(take: Take) -> list[dict[str, Any]]:
    """Questions about the events that happen once, and for the objects of the verbs that do."""
    return [*(_row(event, text) for event, text in _named(take)), *_open_questions(take)]


def renamed_questions(take: Take) -> list[dict[str, Any]]:
    """The questions that name their object, with a synonym in its place; those without a synonym are left out."""
    texts = ((event, rename(text, event.noun)) for event, text in _named(take))
    return [_row(event, text) for event, text in texts if text is not None]


def _named(take: Take) -> list[tuple[Event, str]]:
    draw = random.Random(f"questions-{take.uid}")
    return [(event, draw.choice(QUESTIONS[event.verb]).format(event.noun)) for event in happens_once(take)]


def _row(event: Event, text: str) -> dict[str, Any]:
    return query_row(event, text, _TEMPLATES.get(event.verb, "Moments: When did I do X?"))


def _open_questions(take: Take) -> list[dict[str, Any]]:
    count = Counter(event.verb for event in take.events + take.cut)
    return [query_row(event, OPEN_QUESTIONS[event.verb], _OPEN_TEMPLATE) for event in take.events
            if count[event.verb] == 1]

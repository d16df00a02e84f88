"""Questions about two actions of the wearer of the camera, with the answers of the script.

A question is direct if it names its object or action, and indirect if it refers to it by what happens ("the first
thing", "before the last action").
"""

import random
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from egovlpv2.data_modules.toy_world.script import Event, Split, State, Video
from egovlpv2.data_modules.toy_world.vocabulary import AFFORDANCES

KINDS: dict[str, tuple[str, str, str]] = {
    "first-action": ("descriptive", "action", "world"),
    "last-action": ("descriptive", "action", "world"),
    "first-object": ("descriptive", "object", "world"),
    "last-object": ("descriptive", "object", "world"),
    "action-on": ("descriptive", "action", "world"),
    "object-of": ("descriptive", "object", "world"),
    "is-done": ("descriptive", "action", "world"),
    "one-object": ("descriptive", "object", "world"),
    "next-object": ("predictive", "object", "intent"),
    "state-after": ("predictive", "state", "world"),
    "change-by": ("explanatory", "change", "world"),
    "caused": ("explanatory", "change", "world"),
    "state-otherwise": ("counterfactual", "state", "world"),
    "in-hand-otherwise": ("counterfactual", "object", "world"),
}
"""Type, category and semantic of a template's questions."""

_INTERVALS: dict[Split, int] = {"train": 3, "val": 6, "test": 6}  # of a video, maximum

_BASE = {"pour": "pour from"}
_DONE = {
    "pick up": "picked up", "put down": "put down", "push": "pushed", "pull": "pulled", "open": "opened",
    "close": "closed", "rotate": "rotated", "shake": "shaken", "pour": "poured from", "cut": "cut", "wipe": "wiped",
    "squeeze": "squeezed",
}
_STATES = {
    "opened": (("open", "open"), ("closed", "close")),
    "held": (("in the hand", "pick up"), ("on the table", "put down")),
    "near": (("near", "pull"), ("far away", "push")),
    "cut": (("cut", "cut"), ("whole", "")),
}
"""By attribute of a state: word and verb that make it true, and word and verb that make it false."""


class Interval(NamedTuple):
    """Two consecutive events of the wearer, the subject of questions."""

    video: Video
    first: int  # number of the first event

    @property
    def name(self) -> str:
        """The name: video, start and end."""
        one, two = self.events
        return f"{self.video.uid}_{one.start:g}_{two.end:g}"

    @property
    def events(self) -> tuple[Event, Event]:
        """Both events."""
        return self.video.events[self.first], self.video.events[self.first + 1]

    @property
    def next_event(self) -> Event | None:
        """The wearer's next event, if it follows at once."""
        following = self.video.events[self.first + 2 : self.first + 3]
        return following[0] if following and following[0].wearer == "C" else None

    def states(self) -> list[list[State]]:
        """The state of each thing before, between and after the events."""
        return self.video.states()[self.first : self.first + 3]


class Question(NamedTuple):
    """A question and its answer."""

    kind: str
    reference: str
    text: str
    answer: str


def intervals(video: Video, chunk_seconds: int) -> list[Interval]:
    """Intervals of a video, in order, without overlaps, within a file, and of two different actions."""
    found: list[Interval] = []
    for i, (one, two) in enumerate(pairwise(video.events)):
        end = (one.start // chunk_seconds + 1) * chunk_seconds
        free = not found or found[-1].first + 1 < i
        if free and one.wearer == two.wearer == "C" and two.end <= end and _act(one) != _act(two):
            found.append(Interval(video, i))
    draw = random.Random(f"intervals-{video.uid}-{video.seed}")
    return sorted(draw.sample(found, min(len(found), _INTERVALS[video.split])), key=lambda part: part.first)


def questions(part: Interval) -> list[Question]:
    """All questions about an interval, each once."""
    draw = random.Random(f"questions-{part.name}-{part.video.seed}")
    found = [*_events(part), *_things(part, draw), *_what_next(part), *_conditions(part), *_reasons(part)]
    return list({question.text: question for question in found}.values())


def _act(event: Event) -> tuple[str, int]:
    return event.verb, event.thing


def _yes(true: bool) -> str:
    return "yes" if true else "no"


def _do(verb: str) -> str:
    return _BASE.get(verb, verb)


def _names(part: Interval, event: Event, by_act: bool = False) -> list[tuple[str, str]]:
    """References to the thing of an event, each with its kind; optionally also by the action on it."""
    one, two = part.events
    place = "the thing" if one.thing == two.thing else "the first thing" if event == one else "the last thing"
    acts = [("indirect", f"the thing {_DONE[event.verb]}")] if by_act and one.verb != two.verb else []
    return [("direct", f"the {event.noun}"), ("indirect", place), *acts]


def _events(part: Interval) -> Iterator[Question]:
    """Questions about the actions and their objects, in order."""
    one, two = part.events
    for event, when, place in ((one, "first", "before the last action"), (two, "last", "after the first action")):
        for reference, words in (("direct", when), ("indirect", place)):
            yield Question(f"{when}-action", reference, f"what does the person do {words}?", event.verb)
            yield Question(f"{when}-object", reference, f"what does the person use {words}?", event.noun)
    for event in part.events:
        if one.verb != two.verb:
            yield Question("object-of", "direct", f"what does the person {_do(event.verb)}?", event.noun)
        if one.thing != two.thing:
            for reference, name in _names(part, event):
                yield Question("action-on", reference, f"what does the person do with {name}?", event.verb)
    for reference, words in (("direct", "does the person use only one thing?"),
                             ("indirect", "is the first thing also the last one?")):
        yield Question("one-object", reference, words, _yes(one.thing == two.thing))


def _things(part: Interval, draw: random.Random) -> Iterator[Question]:
    """Questions whether an action happens: each right one and two wrong ones, of another verb and another noun."""
    done = {(event.verb, event.noun) for event in part.events}
    nouns = [thing.noun for thing in part.video.things if thing.slot >= 0]
    for event in part.events:
        verbs = [verb for verb in AFFORDANCES[event.noun] if (verb, event.noun) not in done]
        others = [noun for noun in nouns if event.verb in AFFORDANCES[noun] and (event.verb, noun) not in done]
        verb, other = draw.choice(verbs), draw.choice(others or [event.noun])
        for reference, name in _names(part, event):
            yield Question("is-done", reference, f"does the person {_do(event.verb)} {name}?", "yes")
            yield Question("is-done", reference, f"does the person {_do(verb)} {name}?", "no")
        answer = _yes(other == event.noun)
        yield Question("is-done", "direct", f"does the person {_do(event.verb)} the {other}?", answer)


def _what_next(part: Interval) -> Iterator[Question]:
    """Questions about the next object."""
    if part.next_event:
        for reference, words in (("direct", "next"), ("indirect", "after the last action")):
            yield Question("next-object", reference, f"what will the person use {words}?", part.next_event.noun)


def _conditions(part: Interval) -> Iterator[Question]:
    """Questions about the states of the used things: after, without and because of the actions."""
    before, _, after = part.states()
    for event in part.events:
        for reference, name in _names(part, event):
            for word, true, _ in _state_words(event.noun, before[event.thing]):
                yield Question("state-otherwise", reference, f"would {name} be {word} without the person?", _yes(true))
        for reference, name in _names(part, event, by_act=True):
            for word, true, maker in _state_words(event.noun, after[event.thing]):
                yield Question("state-after", reference, f"will {name} be {word} afterwards?", _yes(true))
                if true and maker:
                    made = (maker, event.thing) in map(_act, part.events)
                    yield Question("caused", reference, f"is {name} {word} because of the person?", _yes(made))


def _state_words(noun: str, state: State) -> Iterator[tuple[str, bool, str]]:
    """Words for the state of a thing, their truth, and the verbs that make them true."""
    for attribute, ((positive, makes), (negative, undoes)) in _STATES.items():
        # The position on the table can't be seen while a thing is held.
        if makes in AFFORDANCES[noun] and not (attribute == "near" and state.held):
            yield positive, getattr(state, attribute), makes
            yield negative, not getattr(state, attribute), undoes


def _reasons(part: Interval) -> Iterator[Question]:
    """Questions about the effects of the actions."""
    (one, two), (before, between, after) = part.events, part.states()
    changes = [event for event, states, then in ((one, before, between), (two, between, after)) if states != then]
    for event in changes:
        if [other.thing for other in changes].count(event.thing) == 1:
            for reference, name in _names(part, event):
                yield Question("change-by", reference, f"how did the person change {name}?", event.verb)
    for reference, words, states in (("direct", "the person", before), ("indirect", "the last action", between)):
        for i, state in enumerate(states):
            if state.held:
                question = f"what would be in hand without {words}?"
                yield Question("in-hand-otherwise", reference, question, part.video.things[i].noun)

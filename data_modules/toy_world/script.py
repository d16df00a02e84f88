"""The script of the toy world: the events of its videos, from which all formats and the videos are made."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from egovlpv2.data_modules.toy_world.vocabulary import (
    AFFORDANCES,
    ALWAYS,
    FREE_VERBS,
    HELD_VERBS,
    NOUN_COLOURS,
    NOUN_IDS,
    NOUNS,
    OTHERS_VERBS,
    PHRASES,
    VERBS,
)

Split = Literal["train", "val", "test"]

SCENES: dict[Split, tuple[int, ...]] = {
    "train": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    "val": (10, 11),
    "test": (12, 13, 14),
}
"""The rooms of each split, without overlap."""

_SLOTS = 5
EVENT_SECONDS = (1.6, 2.6)
"""Shortest and longest event."""

WEIGHTS: dict[str, float] = {
    "cut": 5.0, "shake": 4.5, "pour": 3.5, "open": 3.5, "close": 3.5, "wipe": 2.5, "squeeze": 2.5
}
"""Weights of verbs that go with few nouns, so that no verb is rare."""


@dataclass(frozen=True)
class Thing:
    """An object that lies on the table of a video.

    Args:
        noun: Its class, one of `NOUNS`.
        colour: The noun's colour.
        slot: Its place on the table from left to right; -1: at the back, never touched.
        near: At the near edge of the table when the video starts.
        opened: Open when the video starts.
    """

    noun: str
    colour: str
    slot: int
    near: bool = True
    opened: bool = False


@dataclass(frozen=True)
class State:
    """The state of a thing at a moment."""

    near: bool
    opened: bool
    held: bool = False
    cut: bool = False

    def allows(self, verb: str) -> bool:
        """True if the verb can be applied to a thing in this state."""
        if verb not in FREE_VERBS and self.held != (verb in HELD_VERBS):
            return False
        done = {"push": not self.near, "pull": self.near, "open": self.opened, "close": not self.opened}
        return not done.get(verb, False)

    def after(self, verb: str) -> "State":
        """The state after the verb is applied."""
        changes: dict[str, dict[str, bool]] = {
            "pick up": {"held": True}, "put down": {"held": False}, "push": {"near": False}, "pull": {"near": True},
            "open": {"opened": True}, "close": {"opened": False}, "cut": {"cut": True},
        }
        return replace(self, **changes.get(verb, {}))


@dataclass(frozen=True)
class Event:
    """One action.

    Args:
        start: Seconds from the start of the video.
        end: Seconds from the start of the video.
        verb: Class of the action, one of `VERBS`.
        noun: The object acted on, one of `NOUNS`.
        thing: Index of the object in the video's `things`.
        wearer: "C" for the wearer of the camera, "O" for another person at the table.
        text: The narration.
    """

    start: float
    end: float
    verb: str
    noun: str
    thing: int
    wearer: Literal["C", "O"]
    text: str

    @property
    def verb_ids(self) -> list[int]:
        """Ids of the verbs that the narration names."""
        return [VERBS.index(self.verb)]

    @property
    def noun_ids(self) -> list[int]:
        """Ids of the nouns that the narration names, the object acted on first."""
        tools = [i for noun, i in NOUN_IDS.items() if noun != self.noun and noun in self.text.split()]
        return [NOUN_IDS[self.noun], *tools]


@dataclass(frozen=True)
class Video:
    """A take of the head camera, with consecutive events.

    Args:
        uid: Name, unique in the world.
        split: Part of the world it belongs to.
        scene: Number of the room.
        duration: Seconds.
        seed: Seed of the camera's shaking and of small variations.
    """

    uid: str
    split: Split
    scene: int
    duration: float
    seed: int
    things: list[Thing] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def states(self) -> list[list[State]]:
        """The state of each thing before each event, and after the last."""
        states = [[State(thing.near, thing.opened) for thing in self.things]]
        for event in self.events:
            now = list(states[-1])
            now[event.thing] = now[event.thing].after(event.verb)
            states.append(now)
        return states

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `script.json`."""
        return asdict(self)


def video_from_dict(data: dict[str, Any]) -> Video:
    """The inverse of `Video.to_dict`."""
    things = [Thing(**thing) for thing in data["things"]]
    return Video(**{**data, "things": things, "events": [Event(**event) for event in data["events"]]})


def held_out_pairs(seed: int) -> set[tuple[str, str]]:
    """Pairs of verb and noun that no training video has: one for each noun with more than the common verbs."""
    draw = random.Random(f"pairs-{seed}")
    left = {verb: sum(verb in AFFORDANCES[noun] for noun in NOUNS) for verb in VERBS}
    pairs: set[tuple[str, str]] = set()
    for noun in NOUNS:
        # A verb keeps at least five nouns; an object that is open or held can be closed or put down.
        able = [v for v in AFFORDANCES[noun] if v not in (*ALWAYS, "open", "close") and left[v] > 5]
        if len(able) > 1:
            verb = draw.choice(able)
            left[verb] -= 1
            pairs.add((verb, noun))
    return pairs


def _narrate(verb: str, thing: Thing, wearer: str, draw: random.Random) -> str:
    """A narration in EgoClip's style."""
    name = f"the {thing.colour} {thing.noun}" if draw.random() < 0.5 else f"the {thing.noun}"
    subject = "#C C" if wearer == "C" else draw.choice(["#O the man", "#O a person"])
    return f"{subject} {draw.choice(PHRASES[verb]).format(name)}"


def _lay_table(draw: random.Random) -> list[Thing]:
    """Five things to act on and sometimes one more at the back."""
    nouns = draw.sample(NOUNS, _SLOTS + (draw.random() < 0.2))
    return [
        Thing(
            noun,
            NOUN_COLOURS[noun],
            slot if slot < _SLOTS else -1,
            near=slot < _SLOTS and draw.random() < 0.6,
            opened="open" in AFFORDANCES[noun] and draw.random() < 0.4,
        )
        for slot, noun in enumerate(nouns)
    ]


def _next_step(
    things: list[Thing], states: list[State], before: list[Event], banned: set[tuple[str, str]], draw: random.Random
) -> tuple[str, int]:
    """The next verb and thing: often the same thing as before, always so while it is held."""
    last = before[-1].thing if before else -1
    held = [i for i, state in enumerate(states) if state.held]
    stay = last >= 0 and draw.random() < 0.35
    around = [i for i, t in enumerate(things) if t.slot >= 0 and (last < 0 or abs(t.slot - things[last].slot) <= 2)]
    target = held[0] if held else last if stay else draw.choice(around)
    noun = things[target].noun
    able = [v for v in AFFORDANCES[noun] if states[target].allows(v) and (v, noun) not in banned]
    fresh = [v for v in able if (v, target) not in {(e.verb, e.thing) for e in before[-2:]}] or able
    # Recent verbs are more probable, so that neighbouring clips can share their verb.
    again = {event.verb for event in before[-3:]}
    weights = [WEIGHTS.get(verb, 1.0) * (2 if verb in again else 1) for verb in fresh]
    return draw.choices(fresh, weights)[0], target


def _write_events(video: Video, banned: set[tuple[str, str]], draw: random.Random) -> list[Event]:
    """Fill the video with consecutive events."""
    events: list[Event] = []
    states, now = video.states()[0], round(draw.uniform(0.1, 0.6), 2)
    while True:
        seconds = round(draw.uniform(*EVENT_SECONDS), 2)
        if now + seconds > video.duration:
            return events
        verb, target = _next_step(video.things, states, events, banned, draw)
        thing = video.things[target]
        other = verb in OTHERS_VERBS and not states[target].held and draw.random() < 0.2
        text = _narrate(verb, thing, "O" if other else "C", draw)
        end = round(now + seconds, 2)
        events.append(Event(now, end, verb, thing.noun, target, "O" if other else "C", text))
        states[target], now = states[target].after(verb), end


def write_script(counts: dict[Split, int], seed: int = 0, video_seconds: Sequence[float] = (32.0, 44.0)) -> list[Video]:
    """Write the script of a world; the same arguments give the same script.

    Val and test have rooms and pairs of verb and noun that no training video has.

    Args:
        counts: Videos of each split.
        seed: Seed of the script.
        video_seconds: Shortest and longest video.
    """
    videos: list[Video] = []
    for split, count in counts.items():
        banned = held_out_pairs(seed) if split == "train" else set()
        for i in range(count):
            draw = random.Random(f"{seed}-{split}-{i}")
            scene, duration = SCENES[split][i % len(SCENES[split])], round(draw.uniform(*video_seconds), 1)
            video = Video(f"toy-{split}-{i:04d}", split, scene, duration, draw.randrange(2**31), _lay_table(draw))
            videos.append(replace(video, events=_write_events(video, banned, draw)))
    return videos

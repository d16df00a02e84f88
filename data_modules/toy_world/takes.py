"""Long takes: the first chunks of several videos of a room, one after the other."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

from egovlpv2.data_modules.toy_world.script import Event, Split, Video

CHUNKS = 5
"""Most parts of a take."""


class Take(NamedTuple):
    """A long video; times count from its start."""

    uid: str
    split: Split
    videos: tuple[str, ...]  # its parts are their first chunks
    seconds: float
    events: list[Event]  # of the wearer, within the take
    cut: list[Event]  # of the wearer, cut off at the end of a chunk


def takes(videos: Sequence[Video], chunk_seconds: int) -> list[Take]:
    """The long takes of all rooms."""
    found = []
    rooms = groupby(sorted(videos, key=lambda video: (video.split, video.scene, video.uid)),
                    key=lambda video: (video.split, video.scene))
    for (split, scene), group in rooms:
        shown = [video for video in group if video.duration >= chunk_seconds]
        for first in range(0, len(shown), CHUNKS):
            part = shown[first : first + CHUNKS]
            own = [(i * chunk_seconds, event) for i, video in enumerate(part) for event in video.events
                   if event.wearer == "C"]
            events = [replace(event, start=round(event.start + offset, 2), end=round(event.end + offset, 2))
                      for offset, event in own if event.end <= chunk_seconds]
            cut = [event for _, event in own if event.start < chunk_seconds < event.end]
            uid = f"take-{split}-{scene:02d}-{first // CHUNKS}"
            found.append(Take(uid, split, tuple(v.uid for v in part), len(part) * chunk_seconds, events, cut))
    return found


def query_row(event: Event, text: str, template: str) -> dict[str, Any]:
    """A query whose window is an event."""
    return {**_times(event.start, event.end), "query": text, "template": template}


def happens_once(take: Take) -> list[Event]:
    """The events whose verb and noun occur once in the take."""
    count = Counter((event.verb, event.noun) for event in take.events + take.cut)
    return [event for event in take.events if count[event.verb, event.noun] == 1]


def _times(start: float, end: float) -> dict[str, float]:
    return {"clip_start_sec": start, "clip_end_sec": end, "video_start_sec": start, "video_end_sec": end}

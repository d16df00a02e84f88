"""Long takes in the formats of Ego4D NLQ and MQ.

A long take consists of the first chunks of several videos of one room, by symbolic links, so that no more videos are
rendered.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from egovlpv2.data_modules.toy_world.retrieval_formats import link
from egovlpv2.data_modules.toy_world.script import Event, Split, Video
from egovlpv2.data_modules.toy_world.vocabulary import NOUNS

WriteText = Callable[[Path, str], None]

_CHUNKS = 5  # of a take
_PAUSE = 0.05  # seconds without an event that end an activity
_SPLITS: tuple[Split, ...] = ("train", "val", "test")


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
        for first in range(0, len(shown), _CHUNKS):
            part = shown[first : first + _CHUNKS]
            own = [(i * chunk_seconds, event) for i, video in enumerate(part) for event in video.events
                   if event.wearer == "C"]
            events = [replace(event, start=round(event.start + offset, 2), end=round(event.end + offset, 2))
                      for offset, event in own if event.end <= chunk_seconds]
            cut = [event for _, event in own if event.start < chunk_seconds < event.end]
            uid = f"take-{split}-{scene:02d}-{first // _CHUNKS}"
            found.append(Take(uid, split, tuple(v.uid for v in part), len(part) * chunk_seconds, events, cut))
    return found


def write_grounding(videos: Sequence[Video], root: Path, chunk_seconds: int, write: WriteText) -> None:
    """Write `long/videos`, `nlq/nlq_<split>.json`, `mq/moments_<split>.json` and MQ's classes.

    Args:
        videos: Of all splits.
        root: The toy world's folder.
        chunk_seconds: Length of a video's files.
        write: Writes a text into a file.
    """
    found = takes(videos, chunk_seconds)
    for old in (root / "long" / "videos").glob("take-*/*.mp4"):  # of an earlier world
        old.unlink()
    for take in found:
        for i, uid in enumerate(take.videos):
            link(root / "videos" / uid / "0.mp4", root / "long" / "videos" / take.uid / f"{i}.mp4")
    for split in _SPLITS:
        of_split = [take for take in found if take.split == split]
        write(root / "nlq" / f"nlq_{split}.json", _text(of_split, _nlq_annotations))
        write(root / "mq" / f"moments_{split}.json", _text(of_split, _mq_annotations))
    classes = {"Background": 0} | {f"use_{noun}": i + 1 for i, noun in enumerate(sorted(NOUNS))}
    write(root / "mq" / "moment_classes_idx.json", json.dumps(classes, indent=1))


def _text(found: list[Take], annotate: Callable[[Take], list[dict[str, Any]]]) -> str:
    entries = []
    for take in found:
        whole = {"video_start_sec": 0.0, "video_end_sec": take.seconds}
        clip = {"clip_uid": f"{take.uid}-clip", **whole, "annotations": annotate(take)}
        entries.append({"video_uid": take.uid, "split": take.split, "clips": [clip]})
    return json.dumps({"version": "1", "videos": entries}, indent=1)


def _times(start: float, end: float) -> dict[str, float]:
    return {"clip_start_sec": start, "clip_end_sec": end, "video_start_sec": start, "video_end_sec": end}


def _nlq_annotations(take: Take) -> list[dict[str, Any]]:
    """Queries for events that happen once, as their narrations: pre-training has no questions."""
    count = Counter((event.verb, event.noun) for event in take.events + take.cut)
    queries = [{**_times(event.start, event.end), "query": event.text, "template": "Moments: what was narrated"}
               for event in take.events if count[event.verb, event.noun] == 1]
    return [{"annotation_uid": f"{take.uid}-0", "language_queries": queries}]


def _mq_annotations(take: Take) -> list[dict[str, Any]]:
    """Activities: consecutive events on one thing, without a pause."""
    spans: list[tuple[str, float, float]] = []
    for event in take.events:
        if spans and spans[-1][0] == event.noun and event.start - spans[-1][2] < _PAUSE:
            spans[-1] = (event.noun, spans[-1][1], event.end)
        else:
            spans.append((event.noun, event.start, event.end))
    labels = [{"label": f"use_{noun}", "primary": True, "start_time": start, "end_time": end,
               "video_start_time": start, "video_end_time": end} for noun, start, end in spans]
    return [{"annotator_uid": f"{take.uid}-0", "labels": labels}]

"""Long takes in the formats of Ego4D NLQ and MQ.

A long take consists of the first chunks of several videos of one room, by symbolic links, so that no more videos are
rendered.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from egovlpv2.data_modules.toy_world.nlq_questions import questions, renamed_questions
from egovlpv2.data_modules.toy_world.retrieval_formats import link
from egovlpv2.data_modules.toy_world.script import Split, Video
from egovlpv2.data_modules.toy_world.takes import Take, happens_once, query_row, takes
from egovlpv2.data_modules.toy_world.vocabulary import NOUNS

WriteText = Callable[[Path, str], None]

_PAUSE = 0.05  # seconds without an event that end an activity
_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def write_grounding(videos: Sequence[Video], root: Path, chunk_seconds: int, write: WriteText) -> None:
    """Write `long/videos`, NLQ's queries, `mq/moments_<split>.json` and MQ's classes.

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
    write_queries(found, root, write)
    for split in _SPLITS:
        of_split = [take for take in found if take.split == split]
        write(root / "mq" / f"moments_{split}.json", _text(of_split, _mq_annotations))
    classes = {"Background": 0} | {f"use_{noun}": i + 1 for i, noun in enumerate(sorted(NOUNS))}
    write(root / "mq" / "moment_classes_idx.json", json.dumps(classes, indent=1))


def write_queries(found: Sequence[Take], root: Path, write: WriteText) -> None:
    """Write NLQ's queries about the same windows: narrations, questions, and questions with unknown nouns.

    These are `nlq/nlq_<split>.json`, `nlq/questions_<split>.json`, and `nlq/synonyms_<split>.json` of the rooms to
    validate and test on.

    Args:
        found: The takes of all splits.
        root: The toy world's folder.
        write: Writes a text into a file.
    """
    for split in _SPLITS:
        of_split = [take for take in found if take.split == split]
        write(root / "nlq" / f"nlq_{split}.json", _nlq_text(of_split, _narrations))
        write(root / "nlq" / f"questions_{split}.json", _nlq_text(of_split, questions))
        if split != "train":
            write(root / "nlq" / f"synonyms_{split}.json", _nlq_text(of_split, renamed_questions))


def _text(found: list[Take], annotate: Callable[[Take], list[dict[str, Any]]]) -> str:
    entries = []
    for take in found:
        whole = {"video_start_sec": 0.0, "video_end_sec": take.seconds}
        clip = {"clip_uid": f"{take.uid}-clip", **whole, "annotations": annotate(take)}
        entries.append({"video_uid": take.uid, "split": take.split, "clips": [clip]})
    return json.dumps({"version": "1", "videos": entries}, indent=1)


def _nlq_text(found: list[Take], ask: Callable[[Take], list[dict[str, Any]]]) -> str:
    """The text of an official file, with the queries that `ask` makes of a take."""
    return _text(found, lambda take: [{"annotation_uid": f"{take.uid}-0", "language_queries": ask(take)}])


def _narrations(take: Take) -> list[dict[str, Any]]:
    """Queries worded like narrations."""
    return [query_row(event, event.text, "Moments: what was narrated") for event in happens_once(take)]


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

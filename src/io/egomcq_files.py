"""EgoMCQ's official `egomcq.json`: questions that ask for the one of five clips that fits a narration."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from msgspec import Meta

from egovlpv2.io.files import require_file
from egovlpv2.io.schema import Seconds, Start, Words, check_entries, read_json, shown

NUM_CHOICES = 5

_TAGS = re.compile(r"\s*\[[0-9,\s]{,999}\]\s*")


class MCQClip(NamedTuple):
    """A choice of a question."""

    video: str
    start: float  # seconds of the video, 0 at least
    end: float
    verbs: frozenset[int]  # class ids, empty where the file has none
    nouns: frozenset[int]


class MCQuestion(NamedTuple):
    """A question."""

    text: str
    answer: int  # index of the correct clip
    kind: int  # 1 inter-video, 2 intra-video
    clips: list[MCQClip]


@dataclass
class _Clip:
    video_uid: Words
    clip_start: Start
    clip_end: Seconds
    tag_verb: Any = None  # a list, or text like "[1, 2]"; all else is taken as no tags
    tag_noun: Any = None


@dataclass
class _Query:
    clip_text: Words


@dataclass
class _Entry:
    query: _Query
    answer: Annotated[int, Meta(ge=0, lt=NUM_CHOICES)]
    types: Annotated[int, Meta(ge=1, le=2)]  # inter-video, intra-video
    choices: dict[str, Any]


def read_egomcq(path: Path) -> dict[str, MCQuestion]:
    """Read the questions of an `egomcq.json`, by key.

    Raises:
        ValueError: The file is missing, or one of its questions is malformed.
    """
    require_file(path, "EgoMCQ's egomcq.json")
    content = read_json(path, Any)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} must hold an object of questions, {{\"0\": {{...}}, ...}}.")
    entries = check_entries(content, _Entry, f"{path}, question")
    return {key: MCQuestion(entry.query.clip_text, entry.answer, entry.types,
                            _clips(f"{path}, question {shown(key)}", entry.choices)) for key, entry in entries.items()}


def _clips(where: str, choices: dict[str, Any]) -> list[MCQClip]:
    """Read the five clips of a question."""
    if set(choices) != {str(choice) for choice in range(NUM_CHOICES)}:
        raise ValueError(f"{where}: choices must have the keys 0 to 4, not {shown(', '.join(choices))}.")
    clips = check_entries({key: choices[key] for key in sorted(choices)}, _Clip, f"{where}, choice")
    for key, clip in clips.items():
        if not max(clip.clip_start, 0.0) <= clip.clip_end:
            raise ValueError(f"{where}, choice {key!r}: clip_start {clip.clip_start} and clip_end {clip.clip_end} are "
                             "not a span of seconds.")
    return [MCQClip(clip.video_uid, max(clip.clip_start, 0.0), clip.clip_end, _ids(clip.tag_verb), _ids(clip.tag_noun))
            for clip in clips.values()]


def _ids(tags: Any) -> frozenset[int]:
    """Read class ids; tags only explain wrong answers, so that others than lists of ids don't stop an evaluation."""
    if isinstance(tags, str) and _TAGS.fullmatch(tags):
        return frozenset(map(int, re.findall("[0-9]+", tags)))
    if isinstance(tags, list) and all(type(tag) is int for tag in tags):
        return frozenset(tags)
    return frozenset()

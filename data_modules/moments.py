"""The files of Ego4D's moment queries: the official ones, VSGN's `clip_annotations.json`, and the list of classes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from egovlpv2.data_modules.grounding import check_span
from egovlpv2.features.clips import ClipSpan
from egovlpv2.io.annotations import Once, check_times
from egovlpv2.io.schema import Seconds, Words, check, check_entries, plain, read_json, shown

_SUBSETS = ("train", "val", "test")

Instance = tuple[str, float, float]  # label, start and end in seconds of the clip


class Moments(NamedTuple):
    """A clip and its activities."""

    span: ClipSpan
    split: str  # "" if its file is of one split
    instances: list[Instance]


@dataclass
class _Label:
    """A moment of an official file."""

    label: Words
    start_time: Seconds
    end_time: Seconds


@dataclass
class _Annotation:
    labels: list[dict[str, Any]]  # only the primary ones count, and are checked


@dataclass
class _Clip:
    clip_uid: Words
    video_start_sec: Seconds
    video_end_sec: Seconds
    annotations: list[_Annotation] = field(default_factory=list)


@dataclass
class _Video:
    video_uid: Words
    clips: list[_Clip]


@dataclass
class _Official:
    videos: list[_Video]


@dataclass
class _Moment:
    """A moment of a `clip_annotations.json`, in either spelling of its times."""

    label: Words
    segment: tuple[Seconds, Seconds] | None = None
    start_time: Seconds | None = None
    end_time: Seconds | None = None


@dataclass
class _AnnotatedClip:
    subset: str
    annotations: list[_Moment]
    clip_id: Words | None = None
    video_id: Words | None = None
    duration: Seconds | None = None
    v_duration: Seconds | None = None
    parent_start_sec: Seconds = 0.0
    parent_end_sec: Seconds | None = None


def read_moments(path: Path) -> Iterator[Moments]:
    """The clips of an official `moments_*.json`, or of a `clip_annotations.json` in either spelling.

    Raises:
        ValueError: The file is of another form, a clip is there twice, its subset is unknown, or an instance ends
            before it begins or lies outside its clip.
    """
    content = read_json(path, Any)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is neither an official moments_*.json nor a clip_annotations.json: it should be an "
                         "object")
    official = isinstance(content.get("videos"), list)
    for clip in _official(content, str(path)) if official else _clip_annotations(content, str(path)):
        for label, start, end in clip.instances:
            check_times(f"{path}: clip {plain(clip.span.clip)}: {plain(label)}", start, end, clip.span.duration)
        yield clip


def _official(content: dict[str, Any], source: str) -> Iterator[Moments]:
    videos = check(content, _Official, f"{source}, which should be an official moments_*.json").videos
    once = Once(source, "clip_uid")
    for i, video in enumerate(videos):
        for j, clip in enumerate(video.clips):
            once.add(clip.clip_uid, f"videos[{i}].clips[{j}]")
            where = f"{source}: clip {plain(clip.clip_uid)}"
            span = check_span(clip.clip_uid, video.video_uid, clip.video_start_sec, clip.video_end_sec, where)
            yield Moments(span, "", [instance for annotation in clip.annotations
                                      for n, row in enumerate(annotation.labels)
                                      for instance in _primary(row, f"{where}: labels[{n}]")])


def _primary(row: dict[str, Any], where: str) -> list[Instance]:
    """The instance of a row, if it is a primary one."""
    if not check(row.get("primary"), bool, f"{where}.primary"):
        return []
    moment = check(row, _Label, where)
    return [(moment.label, moment.start_time, moment.end_time)]


def _clip_annotations(content: dict[str, Any], source: str) -> Iterator[Moments]:
    entries = check_entries(content, _AnnotatedClip, f"{source}, which should be a clip_annotations.json: clip")
    for clip, entry in entries.items():
        where = f"{source}: clip {plain(clip)}"
        if entry.clip_id not in (clip, None):
            raise ValueError(f"{where} has the clip_id {shown(entry.clip_id)}: give it one name")
        if entry.subset not in _SUBSETS:
            raise ValueError(f"{where}: subset is {shown(entry.subset)}: write {', '.join(_SUBSETS[:-1])} or test")
        instances = [(row.label, *_segment(row, f"{where}: annotations[{n}]"))
                     for n, row in enumerate(entry.annotations)]
        yield Moments(_span(clip, entry, where), entry.subset, instances)


def _span(clip: str, entry: _AnnotatedClip, where: str) -> ClipSpan:
    seconds = entry.v_duration if entry.duration is None else entry.duration  # that one may be of the video
    if seconds is None:
        raise ValueError(f"{where} has neither duration nor v_duration: give one, in seconds")
    end = entry.parent_start_sec + seconds if entry.parent_end_sec is None else entry.parent_end_sec
    return check_span(clip, entry.video_id or clip, entry.parent_start_sec, end, where)


def _segment(row: _Moment, where: str) -> tuple[float, float]:
    if row.segment is not None:
        return row.segment
    if row.start_time is None or row.end_time is None:
        raise ValueError(f"{where} has neither a segment nor both start_time and end_time: give its times in seconds")
    return row.start_time, row.end_time


def read_classes(path: Path) -> dict[str, int]:
    """The number of each label, from 1, in a `moment_classes_idx.json`.

    Raises:
        ValueError: The file is of another form.
    """
    content = check(read_json(path, Any), dict[Words, int], f"{path} should number the labels from 0 (nothing) on")
    if sorted(content.values()) != list(range(len(content))):
        raise ValueError(f"{path} should number the labels from 0 (nothing) on, each once")
    return {label: number for label, number in content.items() if number}

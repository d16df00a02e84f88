"""Narrations as queries (NaQ, arXiv 2301.00746): training queries made of EgoClip's narrations: `egovlpv2 naq`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from egovlpv2.data_modules.tables import ClipTable, read_clip_table
from egovlpv2.io.files import write_json
from egovlpv2.io.nlq_files import official_clips
from egovlpv2.io.schema import Seconds, Words, check, plain, read_json

_RATE = 30  # frames a second of the official files
_VSLNET_RATE = 1.875  # features a second of VSLNet's files
_SHORTEST = 1 / 30  # seconds; VSLNet's files leave out windows that are not longer

Queries = dict[str, Any]
"""An official `nlq_*.json`: `{"videos": [...]}`."""


class Narration(NamedTuple):
    """A narration and its window in seconds of the video."""

    text: str
    start: float
    end: float


class NarratedClip(NamedTuple):
    """A clip of an episodic-memory task; times are seconds of its video."""

    clip: str
    start: float
    end: float

    def holds(self, narration: Narration) -> bool:
        """True if the whole window of a narration lies in the clip."""
        return self.start <= narration.start and narration.end <= self.end


@dataclass(frozen=True)
class NaQReport:
    """Numbers of a file of narrations as queries.

    Args:
        out: The file.
        counts: Of narrations, clips and records.
    """

    out: Path
    counts: dict[str, int]

    def __str__(self) -> str:
        return "\n".join([*(f"{number:>9,} {name}" for name, number in self.counts.items()), f"written: {self.out}"])


@dataclass
class _Clip:
    clip_uid: Words | None = None
    video_start_sec: Seconds | None = None
    video_end_sec: Seconds | None = None


@dataclass
class _Video:
    video_uid: Words
    clips: list[_Clip]
    split: str | None = None


@dataclass
class _Clips:
    videos: list[_Video]


def write_naq(narrations: str | Path, out: str | Path, *, clips: Sequence[str], nlq: str | Path | None = None,
              form: Literal["official", "vslnet"] = "official") -> NaQReport:
    """Write narrations as training queries of NLQ, after those of an NLQ file.

    A narration becomes a query in each clip of its video that holds its whole window. Those in no clip are counted.

    Args:
        narrations: EgoClip's egoclip.csv, or a file in its format
        out: the file to write
        clips: training files of NLQ, MQ and VQ, in which the clips are looked up
        nlq: training queries to begin the file with; without it, narrations only
        form: of the file: that of Ego4D's nlq_train.json, or that of VSLNet's train.json

    Raises:
        ValueError: A file is missing or malformed, a clip is not one to train on, there are no clips, or no narration
            lies in any.
    """
    _refuse_inputs(Path(out), [narrations, *clips, *([] if nlq is None else [nlq])])
    found, no_id = read_clips(clips)
    table = read_clip_table(narrations, clamp=False)
    told = _by_video(table, found)
    naq = narrations_as_queries(found, told)
    records = _count(naq)
    if not records:
        raise ValueError(f"none of the {len(table)} narrations of {narrations} lies in a clip of {', '.join(clips)}: "
                         "give narrations and clips of the same videos")
    merged = naq if nlq is None else merge(read_json(Path(nlq), dict[str, Any]), naq, str(nlq))
    official_clips(merged, f"{nlq} with narrations" if nlq is not None else str(narrations))  # ids of each are unique
    content = merged if form == "official" else vslnet_form(merged)
    write_json(Path(out), content)
    in_videos = sum(map(len, told.values()))
    outside = sum(not any(clip.holds(row) for clip in found[video]) for video, rows in told.items() for row in rows)
    return NaQReport(Path(out), {
        "narrations": len(table), "malformed rows left out": table.malformed,
        "narrations of videos without clips left out": len(table) - in_videos,
        "narrations outside every clip left out": outside, "clips": sum(map(len, found.values())),
        "clips without an id left out": no_id, "narrations as queries": records,
        "queries of NLQ": _count(merged) - records,
        **({} if form == "official" else {"of both without a text or too short, left out": _count(merged) - sum(
            len(entry["sentences"]) for entry in content.values())})})


def _refuse_inputs(out: Path, inputs: Sequence[str | Path]) -> None:
    """Refuse to write over a file that is read."""
    for path in map(Path, inputs):
        if out.resolve() == path.resolve():
            raise ValueError(f"{out} is read and would be written over: give another file to write")


def read_clips(paths: Sequence[str | Path]) -> tuple[dict[str, list[NarratedClip]], int]:
    """Read the clips of the training files of episodic-memory tasks, each once, by video.

    Returns:
        The clips, and the number of entries without an id or times.

    Raises:
        ValueError: A file is missing or malformed, has a video of another split than `train`, or there are no clips.
    """
    found: dict[str, dict[str, NarratedClip]] = {}
    seen: dict[str, tuple[str, NarratedClip, Path]] = {}  # by clip: its video, its times and its file
    incomplete = 0
    for path in map(Path, paths):
        shape = f"{path}, which should be an official file of NLQ, MQ or VQ"
        for video in check(read_json(path, Any), _Clips, shape).videos:
            if video.split not in (None, "train"):
                raise ValueError(f"{path}: the video {plain(video.video_uid)} is of the split {video.split}, whose "
                                 "narrations must not be trained on: give training files")
            of_video = found.setdefault(video.video_uid, {})
            for clip in video.clips:
                if clip.clip_uid is None or clip.video_start_sec is None or clip.video_end_sec is None:
                    incomplete += 1
                    continue
                new = NarratedClip(clip.clip_uid, clip.video_start_sec, clip.video_end_sec)
                name, old, other = seen.setdefault(new.clip, (video.video_uid, new, path))
                if name != video.video_uid or not _same_times(old, new):
                    raise ValueError(f"{path}: clip {plain(new.clip)} is {new.start:g} to {new.end:g} s of "
                                     f"{plain(video.video_uid)}, and in {other} {old.start:g} to {old.end:g} s of "
                                     f"{plain(name)}: give files of one version")
                of_video.setdefault(new.clip, new)
    if not any(found.values()):
        raise ValueError(f"{', '.join(map(str, paths)) or '--clips'}: there are no clips to put narrations in: give "
                         "nlq_train.json, moments_train.json or vq_train.json")
    return {video: list(clips.values()) for video, clips in found.items() if clips}, incomplete


def _same_times(one: NarratedClip, other: NarratedClip) -> bool:
    return abs(one.start - other.start) <= _SHORTEST and abs(one.end - other.end) <= _SHORTEST


def _by_video(table: ClipTable, videos: dict[str, list[NarratedClip]]) -> dict[str, list[Narration]]:
    """The narrations of some videos, in the order of the file."""
    rows, names = table.video.numpy(), table.videos
    order = np.argsort(rows, kind="stable")
    bounds = np.searchsorted(rows[order], np.arange(len(names) + 1))
    return {name: [Narration(table.text[int(row)], float(table.start[row]), float(table.end[row]))
                   for row in order[bounds[code] : bounds[code + 1]]]
            for code, name in enumerate(names) if name in videos}


def narrations_as_queries(clips: dict[str, list[NarratedClip]], narrations: dict[str, list[Narration]]) -> Queries:
    """Make an NLQ file of narrations: each in every clip of its video that holds its whole window.

    Args:
        clips: By video.
        narrations: By video.

    Returns:
        The content of the file; videos and clips without narrations are left out.
    """
    videos = []
    for video, of_video in clips.items():
        told = narrations.get(video, [])
        entries = [(clip, [row for row in told if clip.holds(row)]) for clip in of_video]
        if filled := [_clip(video, clip, rows) for clip, rows in entries if rows]:
            videos.append({"video_uid": video, "clips": filled, "split": "train"})
    return {"videos": videos}


def _clip(video: str, clip: NarratedClip, rows: list[Narration]) -> dict[str, Any]:
    queries = [{"clip_start_sec": row.start - clip.start, "clip_end_sec": row.end - clip.start,
                "video_start_sec": row.start, "video_end_sec": row.end, "video_start_frame": floor(_RATE * row.start),
                "video_end_frame": ceil(_RATE * row.end), "query": row.text} for row in rows]
    return {"clip_uid": clip.clip, "video_start_sec": clip.start, "video_end_sec": clip.end,
            "video_start_frame": floor(_RATE * clip.start), "video_end_frame": ceil(_RATE * clip.end),
            "annotations": [{"language_queries": queries, "annotation_uid": f"{video}_{clip.clip}"}]}


def merge(nlq: Queries, naq: Queries, source: str) -> Queries:
    """Append narrations to the annotations of an NLQ file; clips and videos that it lacks follow its own.

    Args:
        nlq: Content of the NLQ file.
        naq: Result of `narrations_as_queries`.
        source: Name of the NLQ file in error messages.

    Raises:
        ValueError: `nlq` is of another form.
    """
    asked = {clip.clip: clip for clip in official_clips(nlq, source)}  # checks it, too
    for video in nlq["videos"]:
        if video.get("split") not in (None, "train"):
            raise ValueError(f"{source}: the video {plain(video['video_uid'])} is of the split {video['split']}, whose "
                             "queries must not be trained on: give training queries")
    new = {clip["clip_uid"]: (video["video_uid"], clip) for video in naq["videos"] for clip in video["clips"]}
    for name, (_, clip) in new.items():
        if name in asked and asked[name].start is not None and abs(asked[name].start - clip["video_start_sec"]
                                                                   ) > _SHORTEST:
            raise ValueError(f"{source}: clip {plain(name)} begins at {asked[name].start:g} s of its video, and in "
                             f"--clips at {clip['video_start_sec']:g} s: give files of one version")
    videos = [{**video, "clips": [_with_annotations(clip, new.pop(clip["clip_uid"], None)) for clip in video["clips"]]}
              for video in nlq["videos"]]
    last = {video["video_uid"]: video for video in videos}  # a video may have several entries
    others: dict[str, list[dict[str, Any]]] = {}
    for name, clip in new.values():
        (last[name]["clips"] if name in last else others.setdefault(name, [])).append(clip)
    return {**nlq, "videos": [*videos, *({**video, "clips": others[video["video_uid"]]} for video in naq["videos"]
                                         if video["video_uid"] in others)]}


def _with_annotations(clip: dict[str, Any], more: tuple[str, dict[str, Any]] | None) -> dict[str, Any]:
    """A clip with the annotations of another entry of it, if there is one."""
    return {**clip, "annotations": [*clip.get("annotations", []), *([] if more is None else more[1]["annotations"])]}


def vslnet_form(queries: Queries) -> dict[str, Any]:
    """Convert an NLQ file to the form of VSLNet's `train.json`, by clip; windows of 1/30 s or less are left out."""
    found: dict[str, Any] = {}
    for clip, annotation, index, row in _annotated(queries):
        start, end = row.get("clip_start_sec"), row.get("clip_end_sec")
        if not row.get("query") or start is None or end is None or abs(end - start) <= _SHORTEST:
            continue
        if annotation is None or clip.get("video_start_sec") is None or clip.get("video_end_sec") is None:
            missing = "annotation_uid" if annotation is None else "video_start_sec or video_end_sec"
            raise ValueError(f"clip {plain(clip['clip_uid'])} of the NLQ file has no {missing}, which VSLNet's form "
                             "needs: give a complete file, or write the official form")
        seconds = clip["video_end_sec"] - clip["video_start_sec"]
        entry = found.setdefault(clip["clip_uid"], {
            "fps": _VSLNET_RATE, "num_frames": int(seconds * _VSLNET_RATE), "timestamps": [], "exact_times": [],
            "sentences": [], "annotation_uids": [], "query_idx": []})
        entry["timestamps"].append([int(time * _VSLNET_RATE) for time in (start, end)])
        entry["exact_times"].append([start, end])
        entry["sentences"].append(row["query"].strip().strip("?").lower() + "?")
        entry["annotation_uids"].append(annotation)
        entry["query_idx"].append(index)
    return found


def _count(queries: Queries) -> int:
    """The number of queries of an NLQ file."""
    return sum(1 for _ in _annotated(queries))


def _annotated(queries: Queries) -> Iterator[tuple[dict[str, Any], str | None, int, dict[str, Any]]]:
    """Each query of an NLQ file with its clip, annotation and place in the annotation."""
    for video in queries["videos"]:
        for clip in video["clips"]:
            for annotation in clip.get("annotations", []):
                for index, row in enumerate(annotation["language_queries"]):
                    yield clip, annotation.get("annotation_uid"), index, row


def jitter_span(text: str, span: tuple[int, int], num_features: int, expansion: float,
                uniform: Callable[[float, float], float]) -> tuple[int, int]:
    """Expand and shift the span of a narration at random, so that it holds the old one up to rounding.

    EgoClip's windows are guesses from the rate of narrations: the action may begin earlier and end later.

    Args:
        text: Of the query; those that don't begin with `#` are not narrations, and keep their span.
        span: First and last feature.
        num_features: Features of the clip.
        expansion: Largest factor of the span's length.
        uniform: Draws a number between two bounds; called for the factor and then for the shift.
    """
    if not text.startswith("#"):
        return span
    start, end = span
    width = end - start + 1
    new = uniform(1.0, expansion) * width
    room = (new - width) / 2
    centre = (start + end) / 2 + uniform(-room, room)
    return max(round(centre - new / 2), 0), min(round(centre + new / 2), num_features - 1)

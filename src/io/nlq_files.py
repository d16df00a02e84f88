"""Annotation files of Ego4D's natural language queries, official or VSLNet's."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from msgspec import Meta

from egovlpv2.io.annotations import Once
from egovlpv2.io.schema import Seconds, Words, check, check_entries, plain, read_json, shown

Window = tuple[float, float]  # start and end in seconds of the clip
_Index = Annotated[int, Meta(ge=0, lt=2**31)]
_Rate = Annotated[float, Meta(gt=0, le=1e9)]


@dataclass(frozen=True)
class AskedQuery:
    """A query as it is in its file."""

    annotation: str | None
    index: int  # position in its annotation
    text: str  # lower-case; empty where the file has none
    window: Window | None


class AskedClip(NamedTuple):
    """A clip and its queries; None for values that its file lacks."""

    clip: str
    video: str
    start: float | None  # seconds of the video
    end: float | None
    queries: list[AskedQuery]


@dataclass
class _Query:
    query: str | None = None
    clip_start_sec: Seconds | None = None
    clip_end_sec: Seconds | None = None


@dataclass
class _Annotation:
    language_queries: list[_Query]
    annotation_uid: Words | None = None


@dataclass
class _Clip:
    clip_uid: Words
    video_start_sec: Seconds | None = None
    video_end_sec: Seconds | None = None
    annotations: list[_Annotation] = field(default_factory=list)


@dataclass
class _Video:
    video_uid: Words
    clips: list[_Clip]


@dataclass
class _Official:
    videos: list[_Video]


@dataclass
class _VSLNetClip:
    sentences: list[str | None]
    fps: _Rate | None = None
    num_frames: _Rate | None = None
    annotation_uids: list[Words] | None = None
    query_idx: list[_Index] | None = None
    exact_times: list[tuple[Seconds, Seconds]] | None = None


def read_nlq(path: Path) -> list[AskedClip]:
    """Read the clips of an official `nlq_*.json` or of VSLNet's files.

    Raises:
        ValueError: The file can't be read or is of another form, or an id is repeated; names the place.
    """
    content = read_json(path, Any)
    if is_official(content):
        return official_clips(content, str(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path} is neither an official nlq_*.json nor one of VSLNet's: it should be an object")
    return vslnet_clips(content, str(path))


def is_official(content: Any) -> bool:
    """Tell if JSON is that of an official file, with its list of videos."""
    return isinstance(content, dict) and isinstance(content.get("videos"), list)


def official_clips(content: Any, source: str) -> list[AskedClip]:
    """Convert the JSON of an official file to clips; see `read_nlq`."""
    videos = check(content, _Official, f"{source}, which should be an official nlq_*.json").videos
    clips, annotations, found = Once(source, "clip_uid"), Once(source, "annotation_uid"), []
    for i, video in enumerate(videos):
        for j, clip in enumerate(video.clips):
            place = f"videos[{i}].clips[{j}]"
            clips.add(clip.clip_uid, place)
            for k, annotation in enumerate(clip.annotations):
                if annotation.annotation_uid is not None:
                    annotations.add(annotation.annotation_uid, f"{place}.annotations[{k}]")
            queries = [AskedQuery(annotation.annotation_uid, n, _text(row.query), _window(row, f"{source}, {place}"))
                       for annotation in clip.annotations for n, row in enumerate(annotation.language_queries)]
            found.append(AskedClip(clip.clip_uid, video.video_uid, clip.video_start_sec, clip.video_end_sec, queries))
    return found


def vslnet_clips(content: dict[str, Any], source: str) -> list[AskedClip]:
    """Convert the JSON of a VSLNet file to clips; see `read_nlq`."""
    entries = check_entries(content, _VSLNetClip, f"{source}, which should be VSLNet's: clip")
    return [_vslnet_clip(clip, entry, f"{source}: clip {plain(clip)}") for clip, entry in entries.items()]


def _vslnet_clip(clip: str, entry: _VSLNetClip, where: str) -> AskedClip:
    columns: dict[str, Sequence[Any] | None] = {name: getattr(entry, name)
                                                for name in ("annotation_uids", "query_idx", "exact_times")}
    count = len(entry.sentences)
    for name, column in columns.items():
        if column is not None and len(column) != count:
            raise ValueError(f"{where}: {name} has {len(column)} entries and sentences has {count}: give one for each")
    uids, places, windows = (column if column is not None else [None] * count for column in columns.values())
    queries = [AskedQuery(uid, place if place is not None else i, _text(text), window) for i, (uid, place, text, window)
               in enumerate(zip(uids, places, entry.sentences, windows, strict=True))]
    once = Once(where, "the query of annotation")
    for i, query in enumerate(queries):
        once.add(f"{query.annotation} {query.index}", f"sentences[{i}]")
    end = entry.num_frames / entry.fps if entry.fps is not None and entry.num_frames is not None else None
    return AskedClip(clip, clip, 0.0, end, queries)


def _window(row: _Query, where: str) -> Window | None:
    start, end = row.clip_start_sec, row.clip_end_sec
    if start is not None and end is not None:
        return start, end
    if start is None and end is None:
        return None
    raise ValueError(f"{where}: the query {shown(row.query)} has one of clip_start_sec and clip_end_sec: give both")


def _text(text: str | None) -> str:
    return (text or "").strip().lower()  # as in the released code; four of five official queries have capitals

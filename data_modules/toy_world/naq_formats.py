"""Narrations of the training rooms' long takes, for NaQ: EgoClip's format, and clips in that of Ego4D's VQ.

The takes are those of NLQ and others made of second chunks, which no other file has queries about: as in Ego4D, more of
the footage is narrated than queried. Rooms to validate and test on are not narrated.
"""

import csv
import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from egovlpv2.data_modules.toy_world.formats import COLUMNS, Row
from egovlpv2.data_modules.toy_world.retrieval_formats import link
from egovlpv2.data_modules.toy_world.script import Event, Video
from egovlpv2.data_modules.toy_world.takes import CHUNKS, takes

NAQ_FILES = ("naq/vq_train.json", "naq/egoclip.csv")
"""Files of the clips and of the narrations; the last one is written last."""

_SLACK = 0.05  # seconds by which a window may begin and end earlier or later than its event


class _Film(NamedTuple):
    """A long take, made of one chunk of each of several videos."""

    uid: str
    videos: list[Video]
    chunk: int


def write_narrations(videos: Sequence[Video], root: Path, chunk_seconds: int, write: Callable[[Path, str], None]
                     ) -> None:
    """Write `naq/egoclip.csv`, `naq/vq_train.json`, and the takes of the latter into `long/videos`.

    Args:
        videos: Of all splits.
        root: The toy world's folder.
        chunk_seconds: Length of a video's files.
        write: Writes a text into a file.
    """
    by_uid = {video.uid: video for video in videos}
    first = [_Film(take.uid, [by_uid[uid] for uid in take.videos], 0) for take in takes(videos, chunk_seconds)
             if take.split == "train"]
    second = list(_second_takes(videos, chunk_seconds))
    for film in second:
        for i, video in enumerate(film.videos):
            link(root / "videos" / video.uid / "1.mp4", root / "long" / "videos" / film.uid / f"{i}.mp4")
    write(root / NAQ_FILES[0], _clips(second, chunk_seconds))
    write(root / NAQ_FILES[1], _csv([*first, *second], chunk_seconds))


def _second_takes(videos: Sequence[Video], chunk_seconds: int) -> Iterator[_Film]:
    """Takes of the second chunks of those training videos that fill them."""
    long = [video for video in videos if video.split == "train" and video.duration >= 2 * chunk_seconds]
    rooms = groupby(sorted(long, key=lambda video: (video.scene, video.uid)), key=lambda video: video.scene)
    for scene, group in rooms:
        shown = list(group)
        for place, first in enumerate(range(0, len(shown), CHUNKS)):
            yield _Film(f"take-train-{scene:02d}-second-{place}", shown[first : first + CHUNKS], 1)


def _clips(films: Sequence[_Film], chunk_seconds: int) -> str:
    """The text of a file of clips that have no queries."""
    return json.dumps({"version": "1", "videos": [
        {"video_uid": film.uid, "split": "train", "clips": [
            {"clip_uid": f"{film.uid}-clip", "video_start_sec": 0.0,
             "video_end_sec": float(len(film.videos) * chunk_seconds), "annotations": []}]}
        for film in films]}, indent=1)


def _csv(films: Sequence[_Film], chunk_seconds: int) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    count = 0
    for film in films:
        draw = random.Random(f"naq-{film.uid}-{film.videos[0].seed}")
        for place, (offset, event) in enumerate(_events(film, chunk_seconds)):
            writer.writerow(_row(count, place, film, offset, event, chunk_seconds, draw))
            count += 1
    return text.getvalue()


def _events(film: _Film, chunk_seconds: int) -> Iterator[tuple[int, Event]]:
    """The events of all persons that lie whole in the take, with what is added to their times."""
    begin, end = film.chunk * chunk_seconds, (film.chunk + 1) * chunk_seconds
    for i, video in enumerate(film.videos):
        yield from (((i - film.chunk) * chunk_seconds, event) for event in video.events
                    if begin <= event.start and event.end <= end)


def _row(index: int, place: int, film: _Film, offset: int, event: Event, chunk_seconds: int, draw: random.Random
         ) -> Row:
    seconds = float(len(film.videos) * chunk_seconds)
    start = max(0.0, event.start + offset + draw.uniform(-_SLACK, _SLACK))
    end = min(seconds, event.end + offset + draw.uniform(-_SLACK, _SLACK))
    values = (index, film.uid, seconds, "narration_pass_1", place, round((event.start + event.end) / 2 + offset, 3),
              round(start, 3), round(end, 3), event.text, str(event.verb_ids), str(event.noun_ids))
    return dict(zip(COLUMNS, values, strict=True))

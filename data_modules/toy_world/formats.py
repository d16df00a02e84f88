"""The events of a script in the formats of EgoClip and EgoMCQ."""

import csv
import io
import json
import random
from collections.abc import Iterator
from typing import Any

from egovlpv2.data_modules.toy_world.script import Event, Split, Video

Row = dict[str, Any]

COLUMNS: tuple[str, ...] = (
    "clip_idx", "video_uid", "video_dur", "narration_source", "narration_ind", "narration_time", "clip_start",
    "clip_end", "clip_text", "tag_verb", "tag_noun",
)
"""The columns of `egoclip.csv`, and the keys of a row in `egomcq.json`."""

CHOICES = 5


def clip_rows(videos: list[Video]) -> list[list[Row]]:
    """EgoClip's rows, a list for each video, in the order of its events; `clip_idx` runs over all of them."""
    rows: list[list[Row]] = []
    count = 0
    for video in videos:
        dice = random.Random(f"clips-{video.uid}-{video.seed}")
        rows.append([_clip_row(count + i, i, video, event, dice) for i, event in enumerate(video.events)])
        count += len(video.events)
    return rows


def _clip_row(index: int, place: int, video: Video, event: Event, dice: random.Random) -> Row:
    start = max(0.0, event.start + dice.uniform(-0.05, 0.05))
    end = min(video.duration, event.end + dice.uniform(-0.05, 0.05))
    values = (
        index, video.uid, video.duration, "narration_pass_1", place,
        round((event.start + event.end) / 2 + dice.uniform(-0.2, 0.2), 3), round(start, 3), round(end, 3),
        event.text, str(event.verb_ids), str(event.noun_ids),
    )
    return dict(zip(COLUMNS, values, strict=True))


def egoclip_csv(videos: list[Video]) -> str:
    """The text of `egoclip.csv`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for rows in clip_rows(videos) for row in rows)
    return text.getvalue()


def _meaning(video: Video, row: Row) -> tuple[str, str]:
    """Verb and noun: clips that share both can't be distinguished by their texts."""
    event = video.events[row["narration_ind"]]
    return event.verb, event.noun


def _inter_choices(videos: list[Video], rows: list[list[Row]], dice: random.Random) -> Iterator[list[Row]]:
    """An endless iterator over five clips of five videos, no two of the same verb and noun."""
    while True:
        places = dice.sample([i for i, of_video in enumerate(rows) if of_video], CHOICES)
        chosen = {(i, dice.randrange(len(rows[i]))) for i in places}
        if len({_meaning(videos[i], rows[i][j]) for i, j in chosen}) == CHOICES:
            yield [rows[i][j] for i, j in sorted(chosen)]


def _intra_windows(video: Video, rows: list[Row]) -> list[list[Row]]:
    """Runs of neighbouring clips; a clip that repeats verb and noun of an earlier one in the run is skipped."""
    windows: list[list[Row]] = []
    for first in range(len(rows)):
        run: dict[tuple[str, str], Row] = {}
        for row in rows[first:]:
            run.setdefault(_meaning(video, row), row)
            if len(run) == CHOICES:
                windows.append(list(run.values()))
                break
    return windows


def _intra_choices(videos: list[Video], rows: list[list[Row]], dice: random.Random) -> Iterator[list[Row]]:
    """An endless iterator over five neighbouring clips of one video; a run repeats only after all others."""
    windows = [run for video, of_video in zip(videos, rows, strict=True) for run in _intra_windows(video, of_video)]
    if not windows:
        raise ValueError("No video has five different events: make the videos of val and test longer.")
    while True:
        yield from dice.sample(windows, len(windows))


def _question(kind: int, choices: list[Row], answer: int, dice: random.Random) -> dict[str, Any]:
    shuffled = dice.sample(choices, CHOICES)
    texts = {row["clip_text"] for row in choices}
    assert len(texts) == CHOICES
    by_number = {str(i): row for i, row in enumerate(shuffled)}
    return {"answer": answer, "query": shuffled[answer], "choices": by_number, "types": kind}


def egomcq_json(videos: list[Video], split: Split, count: int, seed: int) -> str:
    """The text of `egomcq.json` for a split.

    Args:
        videos: The videos of the split, at least five.
        split: Name of the split.
        count: Questions of each type.
        seed: Seed of the draw.
    """
    if len(videos) < CHOICES:
        raise ValueError(f"An inter-video question needs {CHOICES} videos, {split} has {len(videos)}.")
    dice, rows = random.Random(f"mcq-{split}-{seed}"), clip_rows(videos)
    kinds = ((1, _inter_choices(videos, rows, dice)), (2, _intra_choices(videos, rows, dice)))
    questions: list[dict[str, Any]] = []
    for kind, choices in kinds:
        answers = dice.sample([i % CHOICES for i in range(count)], count)
        questions += [_question(kind, next(choices), answer, dice) for answer in answers]
    return json.dumps({str(i): question for i, question in enumerate(questions)}, indent=1)

"""Times of the videos of an index: those of a table, or else those of their files."""

import csv
import io
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from egovlpv2.io.files import refuse_unreadable
from egovlpv2.io.schema import read_text, shown
from egovlpv2.search.manifest import VideoEntry


def videos_between(videos: Mapping[str, VideoEntry], after: str | None, before: str | None, table: str | None
                   ) -> list[str]:
    """Find the videos of a span of time.

    Args:
        videos: The videos by name.
        after: The earliest time, as `2026-05-01` or `2026-05-01 14:30`; None for any.
        before: A time that is too late; None for none.
        table: A CSV file with the columns `video` and `time`; videos that it doesn't name are left out. None: the time
            at which a video's files were last written to.

    Returns:
        Their names.

    Raises:
        ValueError: A time can't be read, the table can't be read, or no video is of that span.
    """
    first = None if after is None else read_time(after, "--after")
    end = None if before is None else read_time(before, "--before")
    if table is None:
        times = {name: entry.modified for name, entry in videos.items()}
    else:
        times = read_times(Path(table))
        if not times.keys() & videos.keys():
            raise ValueError(f"{table} names none of the {len(videos)} videos of the index, such as "
                             f"{shown(min(videos))}; it names {shown(min(times))}")
    found = [name for name in videos if name in times and (first is None or times[name] >= first)
             and (end is None or times[name] < end)]
    if not found:
        span = " ".join(f"{option} {given}" for option, given in (("--after", after), ("--before", before)) if given)
        raise ValueError(f"no video is of that time ({span}): those of the index are of {_day(min(times.values()))} to "
                         f"{_day(max(times.values()))}")
    return found


def read_times(path: Path) -> dict[str, float]:
    """Read the times of videos, in seconds since 1970, from a CSV file with the columns `video` and `time`.

    Raises:
        ValueError: The file is missing or damaged, lacks a column or rows, or a time can't be read; names the line.
    """
    refuse_unreadable(path, "a CSV file with the columns video and time")
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    times: dict[str, float] = {}
    try:
        if missing := {"video", "time"} - set(rows.fieldnames or ()):
            raise ValueError(f"{path} has no column {min(missing)}: it has {', '.join(rows.fieldnames or ['none'])}")
        for row in rows:
            times[row["video"]] = read_time(row["time"] or "", f"{path}, line {rows.line_num}: time")
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num}: not a row of a CSV file ({error})") from error
    if not times:
        raise ValueError(f"{path} has no rows")
    return times


def read_time(text: str, where: str) -> float:
    """Read a date, or a date with a time, in local time unless it says otherwise: -> seconds since 1970.

    Raises:
        ValueError: It is none; names where it was given.
    """
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(f"{where} {shown(text)}: give a date such as 2026-05-01 or '2026-05-01 14:30'") from error


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "minutes")

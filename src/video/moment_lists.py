"""Lists of moments as text: CSV, JSON, subtitles (SRT, WebVTT) and edit decision lists (CMX3600)."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from egovlpv2.command.errors import one_line
from egovlpv2.video.collection import VideoSource


@dataclass(frozen=True)
class FoundMoment:
    """A moment of a video that a command has found.

    Args:
        source: The video.
        chunk_seconds: Length of its files, if it is a folder of chunks.
        start: Seconds of the video.
        end: Seconds of the video.
        label: What was found there: a query or an activity.
        score: How well it fits; higher is better.
    """

    source: VideoSource
    chunk_seconds: float
    start: float
    end: float
    label: str
    score: float

    def row(self) -> dict[str, Any]:
        """Plain values by name."""
        return {"video": self.source.name, "file": str(self.source.place), "start": round(self.start, 3),
                "end": round(self.end, 3), "label": self.label, "score": round(self.score, 6)}


def as_csv(moments: Sequence[FoundMoment]) -> str:
    """A table with a header, one moment a row, in their order."""
    text = io.StringIO()
    table = csv.DictWriter(text, ["video", "file", "start", "end", "label", "score"])
    table.writeheader()
    table.writerows(moment.row() for moment in moments)
    return text.getvalue()


def as_json(moments: Sequence[FoundMoment]) -> str:
    """A list of objects, in their order."""
    return json.dumps([moment.row() for moment in moments], indent=1, allow_nan=False) + "\n"


def as_srt(moments: Sequence[FoundMoment]) -> str:
    """Subtitles for the video, in the order of time."""
    return "\n".join(f"{number}\n{_clock(moment.start, ',')} --> {_clock(moment.end, ',')}\n{_caption(moment)}\n"
                     for number, moment in enumerate(_by_time(moments), 1))


def as_vtt(moments: Sequence[FoundMoment]) -> str:
    """Subtitles for the video as WebVTT, in the order of time."""
    cues = (f"{_clock(moment.start, '.')} --> {_clock(moment.end, '.')}\n{_escaped(_caption(moment))}\n"
            for moment in _by_time(moments))
    return "\n".join(["WEBVTT\n", *cues])


def as_edl(moments: Sequence[FoundMoment]) -> str:
    """An edit decision list that plays the moments one after the other, in their order.

    It counts frames at the rate of the first moment's video, rounded to whole frames a second, without drop frames.
    """
    rate = max(round(moments[0].source.rate), 1) if moments else 25
    lines, played = ["TITLE: egovlpv2", "FCM: NON-DROP FRAME", ""], 0
    for number, moment in enumerate(moments, 1):
        first, end = round(moment.start * rate), round(moment.end * rate)
        end = max(end, first + 1)
        times = (first, end, played, played + end - first)
        lines += [f"{number:03}  AX       V     C        {' '.join(_timecode(frame, rate) for frame in times)}",
                  f"* FROM CLIP NAME: {one_line(moment.source.place.name)}", f"* COMMENT: {_caption(moment)}", ""]
        played += end - first
    return "\n".join(lines)


LISTS: dict[str, Callable[[Sequence[FoundMoment]], str]] = {
    ".csv": as_csv, ".json": as_json, ".srt": as_srt, ".vtt": as_vtt, ".edl": as_edl}
"""The formats by suffix."""
OF_ONE_VIDEO = (".srt", ".vtt")


def _by_time(moments: Sequence[FoundMoment]) -> list[FoundMoment]:
    return sorted(moments, key=lambda moment: (moment.start, moment.end))


def _caption(moment: FoundMoment) -> str:
    """A line without line breaks and `-->`, which would end a subtitle or begin the next."""
    return f"{one_line(moment.label).replace('-->', '->')} ({moment.score:.3f})"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    millis = round(seconds * 1000)
    return f"{millis // 3600000:02}:{millis // 60000 % 60:02}:{millis // 1000 % 60:02}{point}{millis % 1000:03}"


def _timecode(frame: int, rate: int) -> str:
    seconds = frame // rate
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}:{frame % rate:02}"

"""Exports of what was found: lists for tables, players and editors, and an archive of clips."""

import asyncio
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import IO, Literal, NamedTuple, cast

from fastapi import Response
from fastapi.responses import StreamingResponse

from egovlpv2.serve.errors import printable
from egovlpv2.serve.library import Video
from egovlpv2.serve.searching import Found
from egovlpv2.serve.workers import QueueFull
from egovlpv2.video.collection import VideoSource
from egovlpv2.video.container import VideoError
from egovlpv2.video.moment_lists import LISTS, OF_ONE_VIDEO, FoundMoment

ExportFormat = Literal["csv", "json", "srt", "vtt", "edl", "zip"]
TYPES: dict[str, str] = {"csv": "text/csv", "json": "application/json", "srt": "application/x-subrip",
                         "vtt": "text/vtt", "edl": "text/plain", "zip": "application/zip"}
_RETRY_SECONDS = 1.0
_LONGEST_NAME = 100  # characters of a video's name in a file's name
CutClip = Callable[[Video, float, float], Awaitable[Path]]


class _Named(NamedTuple):
    moment: FoundMoment
    video: Video


def as_list(found: Found, format: ExportFormat) -> Response:
    """Write moments as a list; subtitles of several videos become an archive with a file for each.

    Raises:
        VideoError: An edit list is of a video that can't be read.
    """
    suffix = f".{format}"
    moments = _moments(found, with_files=format == "edl")
    if suffix in OF_ONE_VIDEO and len({video.id for _, video in moments}) > 1:
        content, name, kind = _archive_of_lists(moments, suffix), f"moments-{format}.zip", TYPES["zip"]
    else:
        try:
            text = LISTS[suffix]([moment for moment, _ in moments])
        except VideoError as error:
            raise VideoError(moments[0].video.without_folders(str(error))) from error
        content, name, kind = text.encode("utf-8", "backslashreplace"), f"moments{suffix}", TYPES[format]
    return Response(content, media_type=kind, headers=_as_file(name))


def as_clips(found: Found, cut: CutClip) -> Response:
    """Write an archive with a clip of each moment, one after the other as they are encoded.

    A clip that can't be cut is named in `problems.txt` in the archive.

    Args:
        found: The moments.
        cut: Encodes a moment.
    """
    return StreamingResponse(_clips(_moments(found), cut), media_type=TYPES["zip"], headers=_as_file("moments.zip"))


def _as_file(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}


def _moments(found: Found, with_files: bool = False) -> list[_Named]:
    """The moments as they are exported: without folders, which are the server's own, unless files are read."""
    label = printable(found.query.title)
    return [_Named(FoundMoment(video.source if with_files else _without_folders(video), video.entry.chunk_seconds,
                               moment.start, moment.end, label, moment.score), video)
            for moment, video in found.moments]


def _without_folders(video: Video) -> VideoSource:
    source = video.source
    inside = source.place != source.files[0]
    files = tuple(Path(printable(file.parent.name), file.name) if inside else Path(printable(file.name))
                  for file in source.files[:1])
    return replace(source, name=video.title, files=files)


def _archive_of_lists(moments: Sequence[_Named], suffix: str) -> bytes:
    file = BytesIO()
    names = _Names()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for one in {video.id: video for _, video in moments}.values():
            some = [moment for moment, video in moments if video.id == one.id]
            archive.writestr(names.of(one.title, suffix), LISTS[suffix](some).encode("utf-8", "backslashreplace"))
    return file.getvalue()


class _Names:
    """Names of files that are valid on any system, and different from each other."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, title: str, suffix: str) -> str:
        safe = "".join(c if c.isalnum() or c in " .,-_()" else "_" for c in title)[:_LONGEST_NAME].strip(" .")
        name, number = f"{safe or 'video'}{suffix}", 1
        while name.lower() in self._taken:
            number += 1
            name = f"{safe or 'video'}-{number}{suffix}"
        self._taken.add(name.lower())
        return name


class _Pipe:
    """A file that can only be written to: what was written is taken out piece by piece."""

    def __init__(self) -> None:
        self._content = bytearray()

    def write(self, content: bytes) -> int:
        self._content += content
        return len(content)

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def take(self) -> bytes:
        content = bytes(self._content)
        self._content.clear()
        return content


async def _patient(cut: CutClip, video: Video, moment: FoundMoment) -> Path:
    """Cut a clip, once there is room in the queue: an answer that has begun can't be refused any more."""
    while True:
        try:
            return await cut(video, moment.start, moment.end)
        except QueueFull:
            await asyncio.sleep(_RETRY_SECONDS)


async def _clips(moments: Sequence[_Named], cut: CutClip) -> AsyncIterator[bytes]:
    pipe, problems, names = _Pipe(), list[str](), _Names()
    with zipfile.ZipFile(cast(IO[bytes], pipe), "w", zipfile.ZIP_STORED) as archive:
        for rank, (moment, video) in enumerate(moments, 1):
            name = names.of(f"{rank:03}-{video.title[:_LONGEST_NAME // 2]}-{moment.start:.1f}-{moment.end:.1f}", ".mp4")
            try:
                archive.write(await _patient(cut, video, moment), name)
            except (VideoError, OSError) as error:
                problems.append(f"{name}: {printable(str(error))}\n")
            yield pipe.take()
        if problems:
            archive.writestr("problems.txt", "".join(problems))
    yield pipe.take()

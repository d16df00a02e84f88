"""A folder of chunks that `egovlpv2 prepare` writes: whose it is, who is at it, and what may be removed from it.

At any time chunks lie beside the label that says from what and how they were made: `started.json`, or `prepared.json`
once all are there. Nothing is removed from a folder without a label, or with one that can't be read.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import av
import msgspec

from egovlpv2.io.files import NO_ROOM, is_at, try_lock, write_json
from egovlpv2.io.schema import read_json
from egovlpv2.video.container import VideoError, stat_file
from egovlpv2.video.encode import Settings, encode_video

VERSION = 2
"""Raise it when the same settings no longer give the same files."""
STARTED, PREPARED = "started.json", "prepared.json"
_LOCK = ".prepare.lock"
_CHUNK = re.compile(r"(0|[1-9][0-9]*)\.mp4")
_DRAFT = re.compile(rf"({_CHUNK.pattern}|{re.escape(STARTED)}|{re.escape(PREPARED)})\.[0-9a-f]+\.tmp")
_Count = Annotated[int, msgspec.Meta(ge=0)]


class BusyError(Exception):
    """Another process writes to a folder."""


@dataclass(frozen=True)
class SourceFile:
    """A video as it was when it was prepared."""

    name: str
    bytes: int
    modified_ns: int


@dataclass(frozen=True)
class Label:
    """From what and how the chunks in a folder are made."""

    version: int  # of the program
    source: SourceFile
    settings: dict[str, float]


@dataclass(frozen=True)
class Prepared(Label):
    """A label of a folder whose chunks are all there."""

    seconds: Annotated[float, msgspec.Meta(ge=0)]
    chunks: _Count
    frames: _Count  # in all chunks
    bytes: _Count  # of all chunks

    @property
    def facts(self) -> dict[str, float]:
        """The figures, by name."""
        return {name: value for name, value in asdict(self).items() if name not in Label.__dataclass_fields__}


def as_text(name: str) -> str:
    """A file's name as text that JSON can hold: `\\xe9` for bytes that are not UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def read_label(folder: Path) -> Label | None:
    """From what and how the chunks in a folder are made; None if not by this program.

    Raises:
        ValueError: The label can't be read; says what to do.
    """
    for name, shape in ((PREPARED, Prepared), (STARTED, Label)):
        if os.path.lexists(folder / name):
            try:
                return read_json(folder / name, shape)
            except ValueError as error:
                raise ValueError(f"{error}: delete {folder} if `egovlpv2 prepare` wrote it, or choose another --out"
                                 ) from error
    return None


def find_prepared(folder: Path, label: Label) -> Prepared | None:
    """What is prepared in a folder, if all of it is there and has that label.

    Raises:
        ValueError: As `read_label`.
    """
    done = read_label(folder)
    if isinstance(done, Prepared) and differences(done, label) == []:
        return done if all((folder / f"{k}.mp4").is_file() for k in range(done.chunks)) else None
    return None


def differences(one: Label, other: Label) -> list[str]:
    """Names of what two labels don't share."""
    return [name for name in Label.__dataclass_fields__ if getattr(one, name) != getattr(other, name)]


def has_chunks(folder: Path) -> bool:
    """Whether a folder holds files of a chunk's name, whoever wrote them."""
    return folder.is_dir() and any(map(_CHUNK.fullmatch, os.listdir(folder)))


def clear(folder: Path, drafts_only: bool = False) -> None:
    """Remove what was written to a folder that one holds; its label goes last, as it tells whose the chunks are.

    Args:
        folder: One that has a label, or no chunks.
        drafts_only: Removes what killed runs left and keeps chunks and label.
    """
    names = os.listdir(folder) if folder.is_dir() else []
    removed = [name for name in names if _DRAFT.fullmatch(name)]
    if not drafts_only:
        removed += [*filter(_CHUNK.fullmatch, names), PREPARED, STARTED]
    for name in removed:
        (folder / name).unlink(missing_ok=True)


def remove_left(folder: Path) -> None:
    """Remove what killed runs left in a prepared folder, unless another process is at it."""
    if any(name == _LOCK or _DRAFT.fullmatch(name) for name in os.listdir(folder)):
        with suppress(BusyError), hold(folder):
            clear(folder, drafts_only=True)


@contextmanager
def hold(folder: Path, pause: Callable[[], None] | None = None) -> Iterator[None]:
    """A context in which no other process writes to a folder. It is made, and removed at the end if nothing is in it.

    The lock is one of the operating system's and ends with its process, even with a killed one.

    Args:
        folder: The folder.
        pause: Called again and again until another process is done with the folder; None: it is not waited for.

    Raises:
        BusyError: Another process is at it, and isn't waited for.
        OSError: Nothing can be written there.
    """
    lock = _take(folder, pause)
    try:
        yield
    finally:
        Path(lock.name).unlink(missing_ok=True)  # while it is held: who has opened it finds it gone and tries anew
        lock.close()
        with suppress(OSError):  # something is in it
            folder.rmdir()


def _take(folder: Path, pause: Callable[[], None] | None) -> BinaryIO:
    path = folder / _LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process has just removed the empty folder
            lock = path.open("ab")
            if not try_lock(lock):
                lock.close()
                if pause is None:
                    raise BusyError(f"another process writes to {folder}")
                pause()
            elif is_at(lock, path):
                return lock
            else:
                lock.close()  # another process has just removed it


def make_label(path: Path, settings: Settings) -> Label:
    """The label of the chunks of a video as it is now.

    Raises:
        VideoError: The video is missing, empty or can't be reached, or its name can't be that of a folder.
    """
    if path.stem in (".", ".."):
        raise VideoError(f"{path} would be written to a folder named {path.stem!r}: rename it")
    state = stat_file(path)
    return Label(VERSION, SourceFile(as_text(path.name), state.st_size, state.st_mtime_ns), asdict(settings))


def prepare_video(path: Path, folder: Path, settings: Settings, threads: int = 1,
                  on_progress: Callable[[float], None] = lambda seconds: None,
                  pause: Callable[[], None] | None = None) -> dict[str, Any]:
    """Prepare one video; what an interrupted run of the same settings has finished is kept.

    Args:
        path: The video.
        folder: Of its chunks.
        settings: What the chunks are like.
        threads: Of the decoder.
        on_progress: Gets the seconds done, often.
        pause: As for `hold`.

    Returns:
        `seconds` of video, number of `chunks`, of `frames` and of `bytes` in them.

    Raises:
        VideoError: The video can't be decoded unharmed to its end. No chunk of it is left.
        ValueError: The folder holds files of others.
        OSError: The folder can't be written to. If the disk is full, the chunks that are finished stay.
        BusyError: As `hold`.
    """
    label = make_label(path, settings)
    with hold(folder, pause):
        if done := find_prepared(folder, label):
            clear(folder, drafts_only=True)
            return done.facts
        old = read_label(folder)
        if old is None and has_chunks(folder):
            raise ValueError(f"{folder} holds videos that this command did not write: choose another --out")
        try:
            if (folder / PREPARED).exists():
                os.replace(folder / PREPARED, folder / STARTED)
            clear(folder, drafts_only=old is not None and not differences(old, label))
            return _encode(path, folder, settings, label, threads, on_progress)
        except (ValueError, OSError, av.FFmpegError) as error:
            clear(folder, drafts_only=getattr(error, "errno", None) in NO_ROOM and has_chunks(folder))
            raise


def _encode(path: Path, folder: Path, settings: Settings, label: Label, threads: int,
            on_progress: Callable[[float], None]) -> dict[str, Any]:
    """Write the chunks that are not there yet, with the labels."""
    write_json(folder / STARTED, asdict(label))
    facts = encode_video(path, folder, settings, threads, on_progress)
    facts["bytes"] = sum((folder / f"{k}.mp4").stat().st_size for k in range(facts["chunks"]))
    write_json(folder / PREPARED, asdict(label) | facts)
    (folder / STARTED).unlink()
    return facts

"""The folder of chunks that `egovlpv2 prepare` writes for a video: its label, its lock, and its removal.

Chunks always have a label beside them that records their source and settings: `started.json`, or `prepared.json` once
all are there. Nothing is removed from a folder without a label, or with one that can't be read.
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
"""Version of the format; to be raised when the same settings no longer give the same files."""
STARTED, PREPARED = "started.json", "prepared.json"
_LOCK = ".prepare.lock"
_CHUNK = re.compile(r"(0|[1-9][0-9]*)\.mp4")
_DRAFT = re.compile(rf"({_CHUNK.pattern}|{re.escape(STARTED)}|{re.escape(PREPARED)})\.[0-9a-f]+\.tmp")
_Count = Annotated[int, msgspec.Meta(ge=0)]


class BusyError(Exception):
    """An error for a folder that another process writes to."""


@dataclass(frozen=True)
class SourceFile:
    """State of a video when it was prepared."""

    name: str
    bytes: int
    modified_ns: int


@dataclass(frozen=True)
class Label:
    """Source and settings of the chunks in a folder."""

    version: int  # of the program
    source: SourceFile
    settings: dict[str, float]


@dataclass(frozen=True)
class Prepared(Label):
    """The label of a folder that is complete."""

    seconds: Annotated[float, msgspec.Meta(ge=0)]
    chunks: _Count
    frames: _Count  # in all chunks
    bytes: _Count  # of all chunks

    @property
    def facts(self) -> dict[str, float]:
        """The figures, by name."""
        return {name: value for name, value in asdict(self).items() if name not in Label.__dataclass_fields__}


def as_text(name: str) -> str:
    """Convert a file's name to text that JSON can hold: `\\xe9` for bytes that are not UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def read_label(folder: Path) -> Label | None:
    """Read the label of a folder; None if it has none.

    Raises:
        ValueError: The label can't be read.
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
    """Read the label of a folder if its chunks are complete and made as `label` says; else None.

    Raises:
        ValueError: As `read_label`.
    """
    done = read_label(folder)
    if isinstance(done, Prepared) and differences(done, label) == []:
        return done if all((folder / f"{k}.mp4").is_file() for k in range(done.chunks)) else None
    return None


def differences(one: Label, other: Label) -> list[str]:
    """List the fields in which two labels differ."""
    return [name for name in Label.__dataclass_fields__ if getattr(one, name) != getattr(other, name)]


def has_chunks(folder: Path) -> bool:
    """Tell if a folder holds files with a chunk's name, of this program or not."""
    return folder.is_dir() and any(map(_CHUNK.fullmatch, os.listdir(folder)))


def clear(folder: Path, drafts_only: bool = False) -> None:
    """Remove chunks, drafts and labels from a folder held by `hold`; labels last, as they identify the chunks.

    Args:
        folder: A folder that has a label, or no chunks.
        drafts_only: Remove the drafts of killed runs, and keep chunks and label.
    """
    names = os.listdir(folder) if folder.is_dir() else []
    removed = [name for name in names if _DRAFT.fullmatch(name)]
    if not drafts_only:
        removed += [*filter(_CHUNK.fullmatch, names), PREPARED, STARTED]
    for name in removed:
        (folder / name).unlink(missing_ok=True)


def remove_left(folder: Path) -> None:
    """Remove the drafts of killed runs from a prepared folder, unless another process writes to it."""
    if any(name == _LOCK or _DRAFT.fullmatch(name) for name in os.listdir(folder)):
        with suppress(BusyError), hold(folder):
            clear(folder, drafts_only=True)


@contextmanager
def hold(folder: Path, pause: Callable[[], None] | None = None) -> Iterator[None]:
    """Make a folder and lock it against other processes; it is removed at the end if it is empty.

    The lock is the operating system's and ends with its process, even if that is killed.

    Args:
        folder: The folder.
        pause: Called again and again while another process holds the folder; None raises `BusyError` instead.

    Raises:
        BusyError: Another process holds it, and `pause` is None.
        OSError: The folder can't be written to.
    """
    lock = _take(folder, pause)
    try:
        yield
    finally:
        Path(lock.name).unlink(missing_ok=True)  # while locked: a process that has opened it finds it gone, and retries
        lock.close()
        with suppress(OSError):  # it isn't empty
            folder.rmdir()


def _take(folder: Path, pause: Callable[[], None] | None) -> BinaryIO:
    # Not `filelock`: the lock's file is removed with the empty folder, and a file system without locks is allowed.
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
    """Make the label for chunks of a video in its present state.

    Raises:
        VideoError: The video is missing, empty or can't be reached, or its name can't be a folder's.
    """
    if path.stem in (".", ".."):
        raise VideoError(f"{path} would be written to a folder named {path.stem!r}: rename it")
    state = stat_file(path)
    return Label(VERSION, SourceFile(as_text(path.name), state.st_size, state.st_mtime_ns), asdict(settings))


def prepare_video(path: Path, folder: Path, settings: Settings, threads: int = 1,
                  on_progress: Callable[[float], None] = lambda seconds: None,
                  pause: Callable[[], None] | None = None) -> dict[str, Any]:
    """Prepare one video; chunks that an interrupted run with the same settings has finished are kept.

    Args:
        path: The video.
        folder: The folder of its chunks.
        settings: Of the chunks.
        threads: Number of threads of the decoder.
        on_progress: Called often with the seconds done.
        pause: As for `hold`.

    Returns:
        `seconds` of video, number of `chunks`, of `frames` and of `bytes` in them.

    Raises:
        VideoError: The video can't be decoded to its end without damage. Its chunks are removed.
        ValueError: The folder holds chunks that this command did not write.
        OSError: The folder can't be written to. If the disk is full, finished chunks stay.
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

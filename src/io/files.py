"""Atomic writing of files: they are complete or absent, whatever happens meanwhile."""

import errno
import fcntl
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

_DRAFT = re.compile(r".+\.[0-9a-f]{32}\.tmp", re.DOTALL)
_LONGEST_NAME = 255 - 37  # bytes that a draft's name may have before its unique part
NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))  # finished files stay, and the work may continue
_OF_WRITING = NO_ROOM | {errno.EROFS, errno.EIO}


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary file, and rename it to `path` on success, once it is on the disk.

    The temporary file lies beside `path` under a unique name that ends in `.tmp`, so that no two processes, on one
    machine or on several, write to the same one. It is locked while it is written; unlocked ones in the folder, left by
    killed processes, are removed first.

    Args:
        path: The file. Its folder is created. The temporary file must not be replaced, as its lock would be lost.

    Raises:
        ValueError: There is a folder or a device of that name, which would be replaced.
        OSError: The file can't be written; names it. An existing file stays unchanged.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the name of a file")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is a device or a pipe, which would be replaced: give the name of a file")
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_drafts(path.parent, _DRAFT)
    draft = path.with_name(f"{os.fsdecode(os.fsencode(path.name)[:_LONGEST_NAME])}.{uuid4().hex}.tmp")
    try:  # before the file exists, as a signal may end the process at any line
        with _naming(path), _create(draft):
            yield draft
            sync(draft)
            os.replace(draft, path)
            sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write plain values, with finite numbers only, as a JSON file; see `atomic_write`."""
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write_report(path: Path, content: Any) -> None:
    """Write a JSON file and print its path; see `atomic_write`.

    Args:
        path: The file.
        content: Plain values; NaN and infinite numbers become null.
    """
    write_json(path, finite(content))
    print(f"written: {path}")


def sha256(path: str | os.PathLike[str]) -> str:
    """Compute the SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def finite(content: Any) -> Any:
    """Replace numbers that aren't finite by None, in plain values."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def make_folder(out: Path) -> None:
    """Make a folder to write to.

    Raises:
        ValueError: It can't be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"the folder {out} can't be made ({error.strerror}): give another one") from error
    if not os.access(out, os.W_OK):
        raise ValueError(f"the folder {out} can't be written to: give another one, or change its permissions")


def require_suffix(out: Path, suffix: str, what: str) -> None:
    """Refuse the name of another kind of file, such as of an input that would be overwritten.

    Raises:
        ValueError: The name has another suffix.
    """
    if out.suffix.lower() != suffix:
        raise ValueError(f"--out {out}: {what} is a {suffix}, so give it such a name")


def make_folder_of(file: Path) -> None:
    """Make the folder of a file to write.

    Raises:
        ValueError: It can't be made or written to, or the file is a folder itself.
    """
    if file.is_dir():
        raise ValueError(f"--out {file} is a folder: give the name of a file")
    make_folder(file.parent)


def _create(draft: Path) -> BinaryIO:
    """Create a temporary file, locked if the file system has locks."""
    while True:
        held = draft.open("xb")
        with suppress(OSError):  # no locks here: then no process can lock it, and so none removes it
            fcntl.flock(held, fcntl.LOCK_EX)
        if is_at(held, draft):
            return held
        held.close()  # removed by another process before it was locked


def remove_drafts(folder: Path, pattern: re.Pattern[str]) -> None:
    """Remove the temporary files that killed processes left in a folder, which no process has locked.

    Args:
        folder: The folder; inner folders are not searched.
        pattern: Pattern of the whole name of a temporary file.
    """
    for name in filter(pattern.fullmatch, os.listdir(folder)):
        draft = folder / name
        with suppress(OSError), draft.open("r+b") as left:  # removed, another user's, locked, or no locks here
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(left, draft):
                draft.unlink()


def try_lock(file: BinaryIO) -> bool:
    """Lock a file opened for writing; False if another process has, True also if the file system has no locks.

    The lock is the operating system's and ends with its process, even if that is killed.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here
        return True
    return True


def refuse_unreadable(path: Path, wanted: str, may_be_empty: bool = False) -> None:
    """Refuse a path at which something other than a readable file with content lies.

    A path at which nothing lies is left to the caller, whose message says where such files come from.

    Args:
        path: What was given.
        wanted: What to give, such as "a weights file", for the message.
        may_be_empty: Accept an empty file, of which the caller's message says more.

    Raises:
        ValueError: It is a folder, a device, an empty file or a link to nothing, or can't be read; says which.
    """
    try:
        state = path.stat()
        if stat.S_ISREG(state.st_mode):
            path.open("rb").close()  # more than `os.access` knows of, such as a network's permissions
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_symlink():
            raise ValueError(f"{path} is a link to {os.readlink(path)}, which is missing: give {wanted}") from error
        return
    except OSError as error:
        hint = "change its permissions" if isinstance(error, PermissionError) else f"give {wanted}"
        raise ValueError(f"{path} can't be read ({error.strerror}): {hint}") from error
    if not stat.S_ISREG(state.st_mode):
        kind = "a folder" if stat.S_ISDIR(state.st_mode) else "a device or a pipe"
        raise ValueError(f"{path} is {kind}: give {wanted}")
    if not state.st_size and not may_be_empty:
        raise ValueError(f"{path} is an empty file (0 bytes): fetch or write it again")


def require_file(file: Path, kind: str) -> None:
    """Refuse an input file that is missing.

    Args:
        file: The file.
        kind: Description of what it holds, for the error message.

    Raises:
        ValueError: It is missing.
    """
    if not file.exists():
        raise ValueError(f"{file} is missing: put {kind} there, or name another file")


def require_folder(folder: Path) -> None:
    """Refuse a path at which something other than a readable folder lies; one at which nothing lies is accepted.

    Raises:
        ValueError: It is a file, a link to nothing, or a folder that can't be read; says which.
    """
    try:
        os.scandir(folder).close()
    except FileNotFoundError as error:
        if folder.is_symlink():
            raise ValueError(f"{folder} is a link to {os.readlink(folder)}, which is missing: give a folder") from error
    except OSError as error:
        hint = "change its permissions" if isinstance(error, PermissionError) else "give a folder"
        raise ValueError(f"{folder} can't be read ({error.strerror}): {hint}") from error


def is_at(file: BinaryIO, path: Path) -> bool:
    """Tell if an open file is still at its path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if path.is_file():  # some file systems can't flush a folder
            raise
    finally:
        os.close(handle)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Make errors of writing, such as a full disk, name the final file."""
    try:
        yield
    except OSError as error:
        nameless = error.filename is None and error.errno in _OF_WRITING
        if not nameless and not _is_draft_of(path, error.filename):
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def _is_draft_of(path: Path, name: object) -> bool:
    draft = Path(os.fsdecode(name)) if isinstance(name, str | bytes) else Path()
    return draft.parent == path.parent and _DRAFT.fullmatch(draft.name) is not None

"""Atomic writing of folders: they are complete or absent, whatever happens meanwhile."""

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from egovlpv2.io.files import make_folder, sync

_DRAFT = re.compile(r"\.[^/]+\.[0-9a-f]{32}\.tmp", re.DOTALL)


def require_new_folder(folder: Path) -> None:
    """Refuse a path at which a folder with content, or anything else, lies already.

    Raises:
        ValueError: It does, or the folder that is to hold it can't be made or written to.
    """
    if folder.is_dir() and not folder.is_symlink():
        if next(os.scandir(folder), None) is not None:
            raise ValueError(f"the folder {folder} is not empty: give a new one, or remove it")
    elif os.path.lexists(folder):
        raise ValueError(f"{folder} is a file or a link: give the name of a new folder")
    make_folder(folder.absolute().parent)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, and rename it to `folder` on success, once its files are on the disk.

    The temporary folder lies beside `folder` under a hidden name that ends in `.tmp`. It is locked while it is written;
    unlocked ones, left by killed processes, are removed first.

    Args:
        folder: A new or an empty folder, see `require_new_folder`.

    Raises:
        ValueError: There is a folder with content, or something else, of that name.
        OSError: The folder can't be written.
    """
    require_new_folder(folder)
    folder = folder.absolute()
    _remove_drafts(folder.parent)
    draft = folder.with_name(f".{folder.name[:100]}.{uuid4().hex}.tmp")
    try:  # before the folder exists, as a signal may end the process at any line
        with _create(draft):
            yield draft
            for file in [*draft.rglob("*"), draft]:
                sync(file)
            os.replace(draft, folder)
            sync(folder.parent)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise ValueError(f"the folder {folder} was written by another process meanwhile: give a new one") from error
        if error.filename is None:
            raise type(error)(error.errno, error.strerror, str(folder)) from error
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _create(draft: Path) -> Iterator[None]:
    """Create a temporary folder, locked within the context if the file system has locks."""
    while True:
        draft.mkdir()
        try:
            held = os.open(draft, os.O_RDONLY)
        except FileNotFoundError:  # removed by another process before it was locked
            continue
        try:
            with suppress(OSError):  # no locks here: then no process can lock it, and so none removes it
                fcntl.flock(held, fcntl.LOCK_EX)
            if draft.exists():
                yield
                return
        finally:
            os.close(held)


def _remove_drafts(parent: Path) -> None:
    """Remove the temporary folders that killed processes left, which no process has locked."""
    for name in filter(_DRAFT.fullmatch, os.listdir(parent)):
        with suppress(OSError):  # removed, another user's, locked, or no locks here
            held = os.open(parent / name, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(parent / name)
            finally:
                os.close(held)

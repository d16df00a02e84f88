"""The folder of a run: one process at a time writes into it, and none over an earlier run."""

import errno
import fcntl
import os
from pathlib import Path
from typing import BinaryIO

LOCK = ".lock"
_HELD: dict[Path, BinaryIO] = {}  # to the end of the process
_TRACES = ("checkpoints", "config.yaml", "metrics.json", "predictions.json")  # of a run that has begun


def take_folder(folder: Path, keep: bool) -> None:
    """Claim the folder of a run for this process, and set an earlier run in it aside.

    A finished or broken-off run of the same name moves to `<folder>.1`, `.2`, ...

    Args:
        folder: The folder, which is made.
        keep: Whether this is the earlier run, which goes on.

    Raises:
        ValueError: Another process is at work in it.
        OSError: It can't be made or written; names it.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        held = _lock(folder)
        if held is not None:
            break
    if keep or not any((folder / name).exists() for name in _TRACES):
        _HELD[folder.absolute()] = held
        return
    aside = _set_aside(folder)
    held.close()
    print(f"{folder} held an earlier run: it is now {aside}")
    take_folder(folder, keep=True)


def _lock(folder: Path) -> BinaryIO | None:
    """The folder's lock, held by this process; None if the folder has moved meanwhile.

    Raises:
        ValueError: Another process holds it.
    """
    path = folder / LOCK
    if (already := _HELD.pop(folder.absolute(), None)) is not None:
        already.close()
    try:
        held = path.open("ab")
    except FileNotFoundError:
        return None
    try:
        fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of the process: its loaders' workers don't keep it
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            held.close()
            raise ValueError(f"{folder} is in use by another run: wait for its end, or give this one another "
                             "trainer.logger.init_args.name") from error
        # No locks on this file system: go on without.
    try:
        same = os.path.samestat(os.fstat(held.fileno()), path.stat())
    except FileNotFoundError:
        same = False
    if not same:
        held.close()
        return None
    return held


def _set_aside(folder: Path) -> Path:
    """Rename a folder to the first free `<folder>.N`."""
    for number in range(1, 100_000):
        aside = Path(f"{folder}.{number}")
        if aside.exists():
            continue
        try:
            folder.rename(aside)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
        else:
            return aside
    raise ValueError(f"{folder} has more than 99,999 earlier runs beside it: remove some")

"""Exclusive use of a run's folder, without overwriting earlier runs."""

import errno
import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

LOCK = ".lock"
_HELD: dict[Path, BinaryIO] = {}  # locks, held until the process ends
_TRACES = ("checkpoints", "config.yaml", "metrics.json", "predictions.json")  # present once a run has begun
_RESULTS = ("checkpoints", "metrics.json", "predictions.json")  # present once a run has led to anything


def take_folder(folder: Path, keep: bool) -> Path | None:
    """Lock the folder of a run for this process, and move an earlier run in it aside, to `<folder>.1`, `.2`, ...

    Args:
        folder: The folder, which is created.
        keep: True if the earlier run is being resumed, so that it stays.

    Returns:
        Where the earlier run is now; None if there was none, or if it stays.

    Raises:
        ValueError: Another process uses the folder.
        OSError: It can't be created or written; names it.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        held = _lock(folder)
        if held is not None:
            break
    if keep or not any((folder / name).exists() for name in _TRACES):
        _HELD[folder.absolute()] = held
        return None
    aside = _move_aside(folder)
    held.close()
    print(f"{folder} held an earlier run: it is now {aside}")
    take_folder(folder, keep=True)
    return aside


def give_back(folder: Path, aside: Path) -> None:
    """Put an earlier run back into its folder, if the run that took its place was refused before it led to anything.

    Args:
        folder: The folder, which this process has taken.
        aside: Where `take_folder` has moved the earlier run.
    """
    if any((folder / name).exists() for name in _RESULTS):
        return
    shutil.rmtree(folder, ignore_errors=True)  # the log of TensorBoard, and the lock
    with suppress(OSError):  # another process has the folder by now
        aside.rename(folder)
        print(f"nothing was run: the earlier run is in {folder} again")


def _lock(folder: Path) -> BinaryIO | None:
    """Acquire the folder's lock; None if another process has just moved the folder.

    Raises:
        ValueError: Another process holds the lock.
    """
    path = folder / LOCK
    if (already := _HELD.pop(folder.absolute(), None)) is not None:
        already.close()
    try:
        held = path.open("ab")
    except FileNotFoundError:
        return None
    try:
        # Not `filelock`, whose flock is inherited by the loaders' workers and would outlive a killed run with them.
        fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            held.close()
            raise ValueError(f"{folder} is in use by another run: wait for its end, or give this one another "
                             "trainer.logger.init_args.name") from error
        # This file system has no locks: continue without one.
    try:
        same = os.path.samestat(os.fstat(held.fileno()), path.stat())
    except FileNotFoundError:
        same = False
    if not same:
        held.close()
        return None
    return held


def _move_aside(folder: Path) -> Path:
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

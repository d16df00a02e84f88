"""Several processes share one list of files to write: each takes what none has, and a killed one leaves nothing taken.

A lock of the operating system is tied to its process: `kill -9` frees it.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


class Claim:
    """The right to write a file, which gets its name once it is complete.

    Args:
        path: The file.
        draft: What is written to, locked.
    """

    def __init__(self, path: Path, draft: BinaryIO) -> None:
        self.path, self.draft = path, draft

    def finish(self) -> None:
        """Gives the file its name."""
        self.draft.flush()
        os.fsync(self.draft.fileno())
        os.replace(self.draft.name, self.path)
        self.draft.close()

    def drop(self) -> None:
        """Leaves nothing."""
        Path(self.draft.name).unlink(missing_ok=True)
        with suppress(OSError):  # what is buffered may not fit a full disk
            self.draft.close()


def claim(path: Path) -> Claim | None:
    """The right to write a file; None if it is there, or if another process writes it."""
    name = path.with_name(f"{path.name}.partial")
    while not path.exists():
        draft = name.open("ab")
        try:
            fcntl.flock(draft, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            draft.close()
            return None
        if not _is_at(draft, name):
            draft.close()  # the other process finished it, or dropped it, between our two looks
        elif path.exists():
            Claim(path, draft).drop()  # the other process finished it before we opened the draft
        else:
            draft.truncate(0)  # of a process that was killed
            return Claim(path, draft)
    return None


def _is_at(draft: BinaryIO, name: Path) -> bool:
    """Whether a name is still that of an open file."""
    try:
        return os.path.samestat(os.fstat(draft.fileno()), name.stat())
    except FileNotFoundError:
        return False

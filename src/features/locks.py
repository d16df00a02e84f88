"""Several processes share one list of files to write: each takes what none has, and a killed one leaves nothing taken.

A lock of the operating system is tied to its process: `kill -9` frees it.
"""

import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from egovlpv2.features.files import SUFFIX
from egovlpv2.io.files import is_at, remove_drafts, sync, try_lock

_DRAFT = re.compile(rf".+{re.escape(SUFFIX)}\.partial", re.DOTALL)


class Claim:
    """The right to write a file, which gets its name once it is complete.

    Args:
        path: The file.
        draft: What is written to, locked.
    """

    def __init__(self, path: Path, draft: BinaryIO) -> None:
        self.path, self.draft = path, draft

    def finish(self) -> None:
        """Give the file its name.

        Raises:
            OSError: What was written doesn't fit the disk; names the file.
        """
        try:
            self.draft.flush()
            os.fsync(self.draft.fileno())
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(self.path)) from error
        os.replace(self.draft.name, self.path)
        sync(self.path.parent)
        self.draft.close()

    def release(self) -> None:
        """Leave nothing."""
        Path(self.draft.name).unlink(missing_ok=True)
        with suppress(OSError):  # what is buffered may not fit a full disk
            self.draft.close()


def claim(path: Path) -> Claim | None:
    """The right to write a file; None if it is there, or if another process writes it."""
    name = path.with_name(f"{path.name}.partial")
    while not path.exists():
        draft = name.open("ab")
        if not _lock(draft):
            draft.close()
            return None
        if not is_at(draft, name):
            draft.close()  # the other process finished it, or dropped it, between our two looks
        elif path.exists():
            Claim(path, draft).release()  # the other process finished it before we opened the draft
        else:
            draft.truncate(0)  # of a process that was killed
            return Claim(path, draft)
    return None


def _lock(draft: BinaryIO) -> bool:
    """Lock a draft, unless another process writes it; one that only looks whether it is left over lets go at once."""
    for pause in (0.01, 0.0):
        if try_lock(draft):
            return True
        time.sleep(pause)
    return False


def remove_left(folder: Path) -> None:
    """Remove the drafts of feature files that killed processes left in a folder and nobody writes any more."""
    remove_drafts(folder, _DRAFT)

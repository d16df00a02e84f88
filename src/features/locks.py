"""File locks that let several processes share one list of files to write. A lock ends with its process.

The draft of a file is its own lock, which `filelock` can't do: it locks a separate file, which would have to be removed
without a race against other processes once the draft is renamed.
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
    """The exclusive right to write a file, which gets its name once it is complete.

    Args:
        path: The file.
        draft: The locked draft to write to.
    """

    def __init__(self, path: Path, draft: BinaryIO) -> None:
        self.path, self.draft = path, draft

    def finish(self) -> None:
        """Flush the draft to the disk and give it the file's name.

        Raises:
            OSError: The disk is full or fails; names the file.
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
        """Remove the draft."""
        Path(self.draft.name).unlink(missing_ok=True)
        with suppress(OSError):  # buffered data may not fit a full disk
            self.draft.close()


def claim(path: Path) -> Claim | None:
    """Acquire the right to write a file; None if it is there, or if another process writes it."""
    name = path.with_name(f"{path.name}.partial")
    while not path.exists():
        draft = name.open("ab")
        if not _lock(draft):
            draft.close()
            return None
        if not is_at(draft, name):
            draft.close()  # another process has just renamed or removed it
        elif path.exists():
            Claim(path, draft).release()  # another process finished it before the draft was opened
        else:
            draft.truncate(0)  # remove what a killed process wrote
            return Claim(path, draft)
    return None


def _lock(draft: BinaryIO) -> bool:
    """Lock a draft unless another process writes it; tries twice, as `remove_left` locks drafts for a moment."""
    for pause in (0.01, 0.0):
        if try_lock(draft):
            return True
        time.sleep(pause)
    return False


def remove_left(folder: Path) -> None:
    """Remove the drafts of feature files that killed processes left in a folder."""
    remove_drafts(folder, _DRAFT)

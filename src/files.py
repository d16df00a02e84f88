"""Files that are whole or absent, whatever happens while they are written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives a name to write to; the file gets its own name only once it is complete.

    The name ends in `.tmp` and is new each time: neither a process that outlives a killed run by a moment nor one on
    another machine writes into the same file.

    Raises:
        ValueError: There is a folder of that name.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)

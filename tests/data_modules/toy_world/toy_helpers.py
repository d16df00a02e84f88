"""Settings of a toy world that is rendered in seconds, and its files."""

from pathlib import Path
from typing import Any

SMALL: dict[str, Any] = {
    "train_videos": 2, "val_videos": 5, "test_videos": 5, "val_questions": 5, "test_questions": 10,
    "shortest_video": 12.0, "longest_video": 13.0, "chunk_seconds": 7,
}


def files_of(root: Path, *suffixes: str) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.suffix in suffixes}

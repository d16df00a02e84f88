"""Settings of a toy world that is rendered in seconds, and its files."""

import json
from pathlib import Path
from typing import Any

import pytest

from egovlpv2.data_modules.toy_world import write
from egovlpv2.data_modules.toy_world.script import Video, video_from_dict

SMALL: dict[str, Any] = {
    "train_videos": 2, "val_videos": 5, "test_videos": 5, "val_questions": 5, "test_questions": 10,
    "shortest_video": 12.0, "longest_video": 13.0, "chunk_seconds": 7,
}


def render(tmp_path_factory: pytest.TempPathFactory, sizes: dict[str, Any]) -> Path:
    """Render a toy world into a new folder."""
    root = tmp_path_factory.mktemp("toy")
    write.generate(root, num_workers=2, **sizes)
    return root


def read_videos(world: Path) -> list[Video]:
    """The videos of a toy world, as its script has them."""
    return [video_from_dict(data) for data in json.loads((world / "script.json").read_text())]


def files_of(root: Path, *suffixes: str) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.suffix in suffixes}

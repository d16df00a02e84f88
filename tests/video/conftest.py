"""Fixtures shared by the tests of the reader."""

from pathlib import Path

import pytest
from numbered_videos import write_video


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Two seconds, 60 frames, a keyframe every 12."""
    return write_video(tmp_path / "plain.mp4")

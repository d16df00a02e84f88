"""A toy world that is rendered in seconds."""

from pathlib import Path

import pytest
from toy_helpers import SMALL, read_videos, render

from egovlpv2.data_modules.toy_world.script import Video


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy world with `SMALL`, which no test changes."""
    return render(tmp_path_factory, SMALL)


@pytest.fixture(scope="session")
def videos(world: Path) -> list[Video]:
    """The world's videos, as its script has them."""
    return read_videos(world)

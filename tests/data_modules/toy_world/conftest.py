"""A toy world that is rendered in seconds."""

import json
from pathlib import Path

import pytest
from toy_helpers import SMALL

from egovlpv2.data_modules.toy_world import write
from egovlpv2.data_modules.toy_world.script import Video, video_from_dict


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy world with `SMALL`, which no test changes."""
    root = tmp_path_factory.mktemp("toy")
    write.generate(root, num_workers=2, **SMALL)
    return root


@pytest.fixture(scope="session")
def videos(world: Path) -> list[Video]:
    """The world's videos, as its script has them."""
    return [video_from_dict(data) for data in json.loads((world / "script.json").read_text())]

"""Small videos, and an index of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from features.test_extract import write
from search.searching import index

from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.model.backbone import Backbone


@pytest.fixture
def backbone(make_backbone: Callable[..., Backbone], tokenizer: str) -> Backbone:
    return make_backbone(tokenizer=tokenizer)


@pytest.fixture
def weights(backbone: Backbone, tmp_path: Path) -> Path:
    save_backbone(backbone, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for name, first, count in (("a", 0, 60), ("b", 130, 45), ("c", 300, 15)):
        write(tmp_path / "in" / f"{name}.mp4", first, count)
    return tmp_path / "in"


@pytest.fixture
def made(videos: Path, weights: Path, tmp_path: Path) -> Path:
    index(videos, weights, tmp_path / "index")
    return tmp_path / "index"

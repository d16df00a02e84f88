"""A small model and its weights file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.model.backbone import Backbone


@pytest.fixture
def backbone(make_backbone: Callable[..., Backbone]) -> Backbone:
    return make_backbone()


@pytest.fixture
def weights(backbone: Backbone, tmp_path: Path) -> Path:
    save_backbone(backbone, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"

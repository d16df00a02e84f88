"""Shared fixtures: a small toy world, a small model and their tokenizer."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import WORDS, draw_parameters, make_config

from egovlpv2.bench.made_up import made_up_tokenizer
from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.data_modules.toy_world.write import generate
from egovlpv2.model.backbone import Backbone
from egovlpv2.model.config import BackboneConfig


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Processes beside each other on few cores would wait for each other's threads; OMP_NUM_THREADS asks for more."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session", autouse=True)
def no_variables_of_make() -> None:
    """Configs are read as without `make`, which sets these."""
    for name in ("EGO_RUN", "EGO_WEIGHTS", "EGO_VIDEOS"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session", autouse=True)
def usual_signals() -> None:
    """The signals that a terminal sends end a process, also where the tests run under `nohup` or in the background."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy world of a few short videos."""
    root = tmp_path_factory.mktemp("toy")
    generate(root, num_workers=1, train_videos=6, val_videos=5, test_videos=5, val_questions=6, test_questions=6,
             shortest_video=18.0, longest_video=20.0, chunk_seconds=8, fps=8)
    return root


@pytest.fixture(scope="session")
def small_config() -> Callable[..., BackboneConfig]:
    """A function that makes a configuration of a model of some 100 k parameters."""
    return make_config


@pytest.fixture
def make_backbone() -> Callable[..., Backbone]:
    """A function that makes a small backbone in eval mode, with every parameter drawn, gates included."""

    def make(**changes: Any) -> Backbone:
        torch.manual_seed(0)
        backbone = Backbone(make_config(**changes)).eval()
        draw_parameters(backbone)
        return backbone

    return make


@pytest.fixture(params=["backbone", "stacked"])
def fusion(request: pytest.FixtureRequest) -> str:
    """Both places where video and text may meet, for tests that don't concern the gate."""
    return request.param


@pytest.fixture
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tokenizer with `WORDS` words."""
    return made_up_tokenizer(tmp_path_factory.mktemp("tokenizer"), WORDS)


@pytest.fixture
def weights(make_backbone: Callable[..., Backbone], tokenizer: str, tmp_path: Path) -> Path:
    """A file of the small model's weights, which knows its tokenizer."""
    save_backbone(make_backbone(tokenizer=tokenizer), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"

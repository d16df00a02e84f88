"""The files of EgoTaskQA, and its data module on them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from taskqa_world import make_module, write_world

from egovlpv2.data_modules.taskqa import TaskQADataModule


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_world(tmp_path)
    return tmp_path


@pytest.fixture
def make(root: Path, tokenizer: str) -> Callable[..., TaskQADataModule]:
    return partial(make_module, root, tokenizer)

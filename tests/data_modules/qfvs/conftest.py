"""The files of QFVS, and its data module on them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from qfvs_world import make_module, write_annotations

from egovlpv2.data_modules.qfvs import QFVSDataModule


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of the annotations."""
    write_annotations(tmp_path)
    return tmp_path


@pytest.fixture
def make(root: Path) -> Callable[..., QFVSDataModule]:
    return partial(make_module, root)

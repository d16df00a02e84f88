"""The device of the GPU tests."""

import os

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    """CUDA; the test is skipped without it, or runs on the CPU where EGOVLPV2_GPU_TESTS_ON is `cpu`."""
    if os.environ.get("EGOVLPV2_GPU_TESTS_ON") == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions multiply in float32, not in TF32 as they do by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)

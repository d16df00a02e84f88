"""Precision is chosen in one place, by the device."""

from pathlib import Path

import pytest
import torch

from egovlpv2 import device
from egovlpv2.device import autocast, choose_precision, pick_device

CPU = torch.device("cpu")


@pytest.mark.parametrize("flags, expected", [("fpu avx2 avx512f", "32"), ("fpu avx512_bf16", "bf16"),
                                             ("amx_tile amx_bf16", "bf16"), (None, "32")])
def test_auto_is_bf16_where_the_cpu_multiplies_in_it(flags: str | None, expected: str, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"model name\t: A CPU\nflags\t\t: {flags}\n")
    monkeypatch.setattr(device, "_CPUINFO", tmp_path / "cpuinfo")
    assert choose_precision("auto", CPU) == expected
    assert choose_precision("32", CPU) == "32" and choose_precision("bf16", CPU) == "bf16"
    for supported, expected in ((True, "bf16"), (False, "32")):  # such as on a V100
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported, **_: supported)
        assert choose_precision("auto", torch.device("cuda")) == expected


def test_autocast_follows_the_precision() -> None:
    x = torch.ones(2, 2)
    for precision, dtype in (("bf16", torch.bfloat16), ("32", torch.float32), (None, torch.float32)):
        with autocast(precision, CPU):
            assert (x @ x).dtype == dtype


def test_a_device_that_is_not_there_is_named() -> None:
    for name in ("toaster", "CUDA", "gpu", "cuda:x", "mps", "0", ""):
        with pytest.raises(ValueError, match=f"^--device {name}: give cuda, cuda:0 and the like, or cpu"):
            pick_device(name)
    assert pick_device("cpu") == pick_device(CPU) == CPU
    with pytest.raises(ValueError, match="^--device meta: give cuda"):
        pick_device(torch.device("meta"))

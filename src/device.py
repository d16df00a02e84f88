"""Device and precision: the one place that chooses them."""

import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from egovlpv2.types import Precision, PrecisionChoice

PRECISION_HELP = ("precision where trainer.precision is not given: auto takes bf16 where the device multiplies in it "
                  "(an Ampere GPU or a later one, a CPU with AVX512-BF16 or AMX), else 32; on the command line it "
                  "wins over trainer.precision of a config")
_CPUINFO = Path("/proc/cpuinfo")  # torch has no public query for these
_CPU_FLAGS = ("avx512_bf16", "amx_bf16")


def pick_device(name: str | torch.device | None) -> torch.device:
    """Choose a device by name; without a name, CUDA where there is one.

    Raises:
        ValueError: There is no such device.
    """
    if name is not None and not re.fullmatch(r"cuda(:[0-9]{1,3})?|cpu", str(name)):
        raise ValueError(f"--device {name}: give cuda, cuda:0 and the like, or cpu, in small letters")
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices here; leave the option "
                         "out for the first, or for the CPU where there is none")
    return device


def autocast(precision: Precision | None, device: torch.device) -> AbstractContextManager[None]:
    """Make a context in which a model runs in a precision; it can be entered many times.

    Args:
        precision: None: bfloat16 on a GPU, else float32.
        device: Where the model is.
    """
    bf16 = precision == "bf16" or (precision is None and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


def choose_precision(choice: PrecisionChoice, device: torch.device) -> Precision:
    """Resolve `auto`: bf16 where the device multiplies in it, else 32.

    Args:
        choice: Other choices stay as they are.
        device: A GPU or a CPU; it multiplies in bf16 if it has instructions for that.
    """
    if choice != "auto":
        return choice
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    return "bf16" if _cpu_multiplies_in_bf16() else "32"


def _cpu_multiplies_in_bf16() -> bool:
    flags = _CPUINFO.read_text().split() if _CPUINFO.exists() else []
    return any(flag in flags for flag in _CPU_FLAGS)

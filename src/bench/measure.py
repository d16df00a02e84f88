"""Timing, memory and device speed for the benchmarks."""

import platform
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch

from egovlpv2.command.cores import usable_cores
from egovlpv2.types import EmbeddingKind, Precision, StepVariant

# TFLOP/s of dense bfloat16, by a part of the device's name; the first that fits counts.
PEAK_TFLOPS = {"H100 NVL": 835.0, "H200 NVL": 835.0, "H100 PCIe": 756.0, "H100": 989.0, "H200": 989.0, "A100": 312.0}
UTILISATION = "model FLOPs of the step, share of the device's peak"  # a figure that `egovlpv2 cost` looks for
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class BenchOptions:
    """Options of the parts; see `egovlpv2.bench.run.run_benchmarks`."""

    config: Path = Path("conf/model/base.yaml")
    device: str = "cpu"
    precision: Precision = "32"
    batch_size: Sequence[int] = (2,)
    contrastive_batch: int | None = None
    repeats: int = 2
    variants: Sequence[StepVariant] = ("unshared",)
    peak_tflops: float | None = None
    file: Path | None = None
    videos: Path | None = None
    hours: float = 100.0
    every: float = 1.0
    widths: Sequence[int] = (256,)
    index_files: int = 200
    store: EmbeddingKind = "float16"
    folder: Path | None = None


class Figure(NamedTuple):
    """Something measured, a row of the table."""

    part: str  # of the bench
    what: str
    value: float
    unit: str
    bound: str = ""  # what limits it (decode, matmul, memory, one core), and the figure it is set against
    ratio: float | None = None  # this figure over that one


def alone(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls a function in a new process, whose memory is its own and is given back at the end."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def in_turn(calls: Sequence[Callable[[], Any]], rounds: int = 3, repeats: int = 1,
            device: torch.device | None = None) -> list[float]:
    """Seconds of each call, the best of some rounds in which they take turns: other work then falls on all of them.

    Args:
        calls: What to time; nothing is warmed up.
        rounds: Each call's turns.
        repeats: Calls in a turn, of which the mean is taken.
        device: Where they run; the clock is read when all of its work has ended.
    """
    best = [float("inf")] * len(calls)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            _wait_for(device)
            begin = time.perf_counter()
            for _ in range(repeats):
                call()
            _wait_for(device)
            best[i] = min(best[i], (time.perf_counter() - begin) / repeats)
    return best


def _wait_for(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gb(device: torch.device | None = None) -> float:
    """The most memory that this process has held, GB: on a GPU what its tensors took there, else what is resident."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    if not status.exists():  # macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
    lines = status.read_text().splitlines()  # Linux's `getrusage` would count the process that started it
    return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM:"))


def matmul_speed(device: torch.device, precision: str) -> float:
    """FLOP/s of one large matrix product, shaped as those of a transformer's MLP: what bounds a model's speed."""
    on_gpu = device.type == "cuda"
    rows, width, repeats = (65536, 768, 50) if on_gpu else (4096, 768, 2)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    x, weight = (torch.randn(shape, device=device, dtype=kind) for shape in ((rows, width), (width, 4 * width)))
    in_turn([lambda: x @ weight], 1, repeats, device)  # warms up
    return 2 * rows * width * 4 * width / in_turn([lambda: x @ weight], 5, repeats, device)[0]


def training_flops(gmacs: float) -> float:
    """Model FLOPs of a training step whose forward pass has so many billions of multiply-accumulates.

    Two operations for each, and the backward pass has twice the forward's. What is computed anew to save memory does
    not count.
    """
    return 3 * 2 * gmacs * 1e9


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's and how many cores this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {usable_cores()} cores"


def peak_tflops(options: "BenchOptions", device: torch.device) -> float | None:
    """TFLOP/s of `--peak-tflops`, or in dense bfloat16 of the device by its name.

    Returns:
        None if the peak isn't known, as of a part of a GPU (MIG) or in float32.
    """
    if options.peak_tflops is not None:
        return options.peak_tflops
    name = device_name(device) if device.type == "cuda" and options.precision == "bf16" else ""
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name and "MIG" not in name), None)


def precision_name(precision: str) -> str:
    """As a table says it."""
    return "bfloat16" if precision == "bf16" else "float32"

"""`egovlpv2 bench`: the hot paths against what bounds them, in one table. Every ratio is measured within one run."""

import argparse
import platform
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from egovlpv2.border import CommandParser
from egovlpv2.cores import usable_cores
from tqdm import tqdm

# `add_options(parser)` of each module says what may be changed, `measure(args)` gives its figures.
PARTS = {
    "reader": ("egovlpv2.video.bench", "reading a clip against bare seek and decode"),
    "forward": ("egovlpv2.tasks.bench_forward", "trunk and top, EgoMCQ and answers, against their matrix products"),
    "step": ("egovlpv2.tasks.bench", "a pre-training step against one that shares nothing"),
    "moments": ("egovlpv2.metrics.bench", "scoring Ego4D NLQ and MQ against loops"),
    "summary": ("egovlpv2.metrics.bench_summary", "cutting and scoring a QFVS video against graph matching"),
    "retrieval": ("egovlpv2.data_modules.bench", "evaluating EPIC-Kitchens-100 at full size against a plain loop"),
    "search": ("egovlpv2.search.bench", "searching 100 hours of made-up embeddings against reading them once"),
}
_WITH_MODEL = {"forward", "step"}
_COLUMNS = ("part", "what", "figure", "unit", "bound by: against", "ratio")
# TFLOP/s of dense bfloat16, by a part of the device's name; the first that fits counts.
PEAK_TFLOPS = {"H100 NVL": 835.0, "H200 NVL": 835.0, "H100 PCIe": 756.0, "H100": 989.0, "H200": 989.0, "A100": 312.0}
UTILISATION = "model FLOPs of the step, share of the device's peak"  # a figure that `egovlpv2 cost` looks for

P = ParamSpec("P")
R = TypeVar("R")


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


def peak_tflops(args: argparse.Namespace, device: torch.device) -> float | None:
    """TFLOP/s of `--peak-tflops`, or in dense bfloat16 of the device by its name; None if nobody knows, as of a part of
    a GPU (MIG) or in float32.
    """
    if args.peak_tflops is not None:
        return args.peak_tflops
    name = device_name(device) if device.type == "cuda" and args.precision == "bf16" else ""
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name and "MIG" not in name), None)


def precision_name(precision: str) -> str:
    """As a table says it."""
    return "bfloat16" if precision == "bf16" else "float32"


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options of the parts that run a model."""
    parser.add_argument("--config", type=Path, default=Path("conf/model/base.yaml"), help="the model")
    parser.add_argument("--device", help="cuda or cpu; cuda where there is one")
    parser.add_argument("--precision", choices=("32", "bf16"), help="bf16 on a GPU if not given, else 32")
    parser.add_argument("--batch-size", "--clips", type=int, nargs="+", metavar="CLIPS",
                        help="clips of a step, the best of several is reported (default: 2; on a GPU 16 32 48)")
    parser.add_argument("--repeats", type=int, help="rounds to take the fastest of (default: 2; on a GPU 5)")
    parser.add_argument("--peak-tflops", type=float,
                        help="of the device at --precision, to tell the share of it that a step makes use of")


def fill_model_options(args: argparse.Namespace) -> argparse.Namespace:
    """What a user left open, for the device that there is.

    Raises:
        ValueError: There is no such device or model, or a number isn't above 0.
    """
    from egovlpv2.features.options import pick_device, require_positive  # late, as its memory would count as a part's

    device = pick_device(args.device)
    on_gpu = device.type == "cuda"
    if not args.config.is_file():
        raise ValueError(f"--config {args.config} is missing: give a conf/model/*.yaml")
    filled = {"device": str(device), "precision": args.precision or ("bf16" if on_gpu else "32"),
              "batch_size": args.batch_size or ([16, 32, 48] if on_gpu else [2]),
              "repeats": (5 if on_gpu else 2) if args.repeats is None else args.repeats}
    args = argparse.Namespace(**(vars(args) | filled))
    require_positive(args, "repeats", *(["peak_tflops"] if args.peak_tflops is not None else []))
    if min(args.batch_size) < 1:
        raise ValueError(f"--batch-size {min(args.batch_size)}: give 1 clip or more")
    return args


def table(figures: Sequence[Figure]) -> str:
    """All figures as text, in columns."""
    rows = [_COLUMNS, *((f.part, f.what, _plain(f.value), f.unit, f.bound, _ratio(f.ratio)) for f in figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.rjust(width) if i in (2, 5) else text.ljust(width)
                       for i, (text, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _ratio(ratio: float | None) -> str:
    """A tenth and less is easier to read as a fraction."""
    return "" if ratio is None else f"1/{1 / ratio:.0f}" if 0 < ratio < 0.1 else f"{ratio:.2f}"


def main(argv: Sequence[str] | None = None) -> None:
    """`egovlpv2 bench [PART] [OPTIONS]`."""
    from egovlpv2.callbacks import write_json  # late, as its memory would count as a part's

    argv = list(argv or [])
    if argv and not argv[0].startswith("-") and argv[0] not in PARTS:
        raise ValueError(f"there is no part `{argv[0]}`: give one of {', '.join(PARTS)}, or none for all")
    names = argv[:1] if argv and argv[0] in PARTS else list(PARTS)
    args = _parser(names).parse_args(argv[1:] if len(names) == 1 else argv)
    if args.out.is_dir():
        raise ValueError(f"--out {args.out} is a folder: give the name of a file")
    if _WITH_MODEL.intersection(names):
        args = fill_model_options(args)
    figures, failed = _measure(names, args)
    print(f"\n{table(figures)}\n\nratio: the figure over what it is set against")
    device = torch.device(getattr(args, "device", "cpu"))
    told = {"device": device_name(device), "precision": getattr(args, "precision", None), "torch": torch.__version__,
            "threads": torch.get_num_threads(), "date": time.strftime("%Y-%m-%d %H:%M")}
    print(", ".join(f"{name} {value}" for name, value in told.items() if value))
    write_json(args.out, told | {"figures": [figure._asdict() for figure in figures]})
    if failed:
        raise ValueError(f"{args.out} lacks what failed: {'; '.join(failed)}")


def _measure(names: Sequence[str], args: argparse.Namespace) -> tuple[list[Figure], list[str]]:
    """Figures of some parts, and which of several have failed: the others' minutes are not lost to it."""
    figures: list[Figure] = []
    failed: list[str] = []
    bar = tqdm(names, unit="part")
    for name in bar:
        bar.set_description(name)
        try:
            figures += import_module(PARTS[name][0]).measure(args)
        except (ValueError, torch.OutOfMemoryError) as error:
            problem = f"{name}: {error}"
            if len(names) == 1:
                raise ValueError(problem) from error
            failed.append(problem)
    return figures, failed


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    """The options of some parts; those of all parts are there when all run."""
    parts = "\n".join(f"  {name:<11}{text}" for name, (_, text) in PARTS.items())
    all_parts = f"Hot paths against their bounds. All parts, or one, named first:\n\n{parts}"
    one = names[0] if len(names) == 1 else ""
    parser = CommandParser(
        f"egovlpv2 bench {one or '[PART]'}", formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{PARTS[one][1]}." if one else all_parts)
    parser.add_argument("--out", type=Path, default=Path("runs", f"bench-{one}.json" if one else "bench.json"),
                        help="JSON to write the figures to (default: %(default)s)")
    if _WITH_MODEL.intersection(names):
        add_model_options(parser)
    for name in names:
        import_module(PARTS[name][0]).add_options(parser)
    return parser

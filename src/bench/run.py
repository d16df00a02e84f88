"""`egovlpv2 bench`: the hot paths against what bounds them, in one table. Every ratio is measured within one run."""

import argparse
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from tqdm import tqdm

from egovlpv2.bench.measure import Figure, device_name
from egovlpv2.command.parser import CommandParser

# `add_options(parser)` of each module says what may be changed, `measure(args)` gives its figures.
PARTS = {
    "reader": ("egovlpv2.bench.reader", "reading a clip against bare seek and decode"),
    "forward": ("egovlpv2.tasks.bench_forward", "trunk and top, EgoMCQ and answers, against their matrix products"),
    "step": ("egovlpv2.tasks.bench_step", "a pre-training step against one that shares nothing"),
    "moments": ("egovlpv2.bench.moments", "scoring Ego4D NLQ and MQ against loops"),
    "summary": ("egovlpv2.bench.summary", "cutting and scoring a QFVS video against graph matching"),
    "retrieval": ("egovlpv2.bench.retrieval", "evaluating EPIC-Kitchens-100 at full size against a plain loop"),
    "search": ("egovlpv2.bench.search", "searching 100 hours of made-up embeddings against reading them once"),
}
_WITH_MODEL = {"forward", "step"}
_COLUMNS = ("part", "what", "figure", "unit", "bound by: against", "ratio")


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
    from egovlpv2.io.files import write_report  # late, as its memory would count as a part's

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
    write_report(args.out, told | {"figures": [figure._asdict() for figure in figures]})
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

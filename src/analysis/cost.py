"""`egovlpv2 cost`: the full pre-training run on paper: GPU-hours, decoding, storage and network, and what binds.

Everything is arithmetic on a few inputs. Each is printed with its unit and where it comes from: counted, measured,
published, assumed, or given as an option.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from egovlpv2.analysis.complexity import complexity, read_model_config
from egovlpv2.bench.measure import PEAK_TFLOPS, UTILISATION, training_flops
from egovlpv2.bench.reader import OPENED, READ, STORED
from egovlpv2.command.parser import CommandParser
from egovlpv2.io.annotations import Once
from egovlpv2.io.schema import read_json

PAPER_GPU_HOURS = 3840.0  # 5 days on 32 A100 (paper, D.1)
_GPUS = {"a100": PEAK_TFLOPS["A100"], "h100": PEAK_TFLOPS["H100"]}
_MEASURED = "measured on an AMD EPYC (Zen 5): docs/cost.md"
_GRADIENT_BYTES = 4  # of a parameter: DDP sums gradients in float32, under bf16-mixed too


class Input(NamedTuple):
    """A number that the cost depends on."""

    value: float
    unit: str
    source: str


class Plan(NamedTuple):
    """The run on some GPUs. Reading, computing and exchanging gradients overlap: the longest of them is the run."""

    gpus: int
    nodes: int
    computing_hours: float
    decoding_hours: float
    reading_hours: float
    exchanging_hours: float
    hours: float
    gpu_hours: float
    bottleneck: str  # `computing`, `decoding`, `reading` or `exchanging`
    clips_per_second: float  # that the GPUs take while they compute
    cores_per_gpu: float  # that decode as fast
    read_gb_per_second: float  # of all nodes, at that speed
    exchange_gbit_per_second: float  # into and out of each node, at that speed


DEFAULTS = {
    "clips": Input(3.8e6, "clips", "published: rows of EgoClip"),
    "epochs": Input(20, "epochs", "published: the paper's Table D.1"),
    "rows": Input(256, "rows a step, on all GPUs", "published: the same"),
    "video_hours": Input(2900, "hours of video", "published: EgoClip, Lin et al. 2022"),
    "clips_per_core": Input(100, "clips/s a core", _MEASURED),
    "kb_per_clip": Input(280, "kB read a clip", _MEASURED),
    "mb_per_hour": Input(270, "MB of an hour, prepared", _MEASURED),
    "mfu": Input(0.35, "of the GPU's peak", "ASSUMED: no GPU was at hand"),
    "cores_per_gpu": Input(12, "cores a GPU for decoding", "assumed: 96 of a node's cores"),
    "gpus_per_node": Input(8, "GPUs a node", "assumed"),
    "storage_gbit": Input(10, "Gbit/s from storage to each node", "assumed"),
    "network_gbit": Input(400, "Gbit/s between nodes, each", "assumed: as clouds rent A100 nodes"),
}
_FROM_BENCH = {"clips_per_core": (OPENED, 1.0), "kb_per_clip": (READ, 1.0), "mb_per_hour": (STORED, 1.0),
               "mfu": (UTILISATION, 0.01)}
_MEASURES = {what for what, _ in _FROM_BENCH.values()}


@dataclass
class _Figure:
    what: str
    value: float


@dataclass
class _Bench:
    """What a JSON of `egovlpv2 bench` tells of itself."""

    figures: list[_Figure]
    date: str
    device: str


def read_bench(path: Path, gpu: str) -> dict[str, Input]:
    """The inputs that a JSON of `egovlpv2 bench` has measured; the share of the peak only if it was this `gpu`'s.

    Raises:
        ValueError: It is no such file, or measured nothing of use.
    """
    try:
        content = read_json(path, _Bench)
    except ValueError as error:
        raise ValueError(f"--bench: {error} (give a JSON of `egovlpv2 bench`)") from error
    once = Once(f"--bench {path}", "what")
    for i, row in enumerate(content.figures):
        if row.what in _MEASURES:
            once.add(row.what, f"figures[{i}]")
    figures = {row.what: row.value for row in content.figures}
    source = f"measured: {path} of {content.date}, {content.device}"
    if gpu.upper() not in content.device:
        figures.pop(UTILISATION, None)
    found = {name: DEFAULTS[name]._replace(value=figures[what] * factor, source=source)
             for name, (what, factor) in _FROM_BENCH.items() if what in figures}
    if not found:
        raise ValueError(f"--bench {path} has none of the figures that count: give the JSON of `egovlpv2 bench`, or of "
                         "its part reader")
    return found


def gpu_hours(clips: float, gmacs: float, mfu: float, peak_tflops: float) -> float:
    """GPU-hours of training on so many clips.

    Args:
        clips: All that are read, in all epochs.
        gmacs: Of the forward pass of one.
        mfu: Share of the peak, 0 to 1.
        peak_tflops: Of the GPU.
    """
    return clips * training_flops(gmacs) / (mfu * peak_tflops * 1e12) / 3600


def utilisation(clips: float, gmacs: float, hours: float, peak_tflops: float) -> float:
    """The share of the peak that so many GPU-hours make use of: the inverse of `gpu_hours`."""
    return gpu_hours(clips, gmacs, 1.0, peak_tflops) / hours


def plan(gpus: int, inputs: Mapping[str, Input], gmacs: float, parameters: float, peak_tflops: float) -> Plan:
    """What the run takes on some GPUs."""
    x = {name: entry.value for name, entry in inputs.items()}
    clips = 2 * x["clips"] * x["epochs"]  # each row brings a negative of its own
    nodes = max(-(-gpus // int(x["gpus_per_node"])), 1)
    seconds = 3600 * gpu_hours(clips, gmacs, x["mfu"], peak_tflops) / gpus
    gigabytes = clips * x["kb_per_clip"] / 1e6
    # A ring through all nodes: each sends, and receives, twice the gradients less its own share.
    steps = x["clips"] * x["epochs"] / x["rows"]
    exchanged = steps * 2 * (nodes - 1) / nodes * parameters * _GRADIENT_BYTES * 8 / 1e9  # Gbit, in and out of each
    taken = {"computing": seconds, "decoding": clips / (x["clips_per_core"] * x["cores_per_gpu"] * gpus),
             "reading": gigabytes * 8 / (x["storage_gbit"] * nodes), "exchanging": exchanged / x["network_gbit"]}
    slowest = max(taken, key=taken.__getitem__)
    hours = {f"{name}_hours": value / 3600 for name, value in taken.items()}
    return Plan(gpus=gpus, nodes=nodes, **hours, hours=taken[slowest] / 3600, gpu_hours=gpus * taken[slowest] / 3600,
                bottleneck=slowest, clips_per_second=clips / seconds,
                cores_per_gpu=clips / seconds / x["clips_per_core"] / gpus, read_gb_per_second=gigabytes / seconds,
                exchange_gbit_per_second=exchanged / seconds)


def cost(inputs: Mapping[str, Input], model: Mapping[str, Any], gpus: Sequence[int], gpu: str) -> dict[str, Any]:
    """The whole report.

    Args:
        inputs: `DEFAULTS`, or others of these names.
        model: What `complexity` says of it.
        gpus: Numbers of GPUs.
        gpu: `a100` or `h100`.
    """
    macs, clips = model["gmacs"], 2 * inputs["clips"].value * inputs["epochs"].value
    shared = {"clips_read": clips, "gpu": gpu, "peak_tflops": _GPUS[gpu], "parameters": model["parameters"],
              "gmacs": {name: macs[name] for name in ("ours", "unshared")}, "words": model["words"],
              "stored_tb": inputs["video_hours"].value * inputs["mb_per_hour"].value / 1e6,
              "read_tb": clips * inputs["kb_per_clip"].value / 1e9}
    paper = utilisation(clips, macs["unshared"], PAPER_GPU_HOURS, _GPUS["a100"])
    return shared | {
        "plans": [plan(n, inputs, macs["ours"], model["parameters"], _GPUS[gpu])._asdict() for n in gpus],
        "paper": {"gpu_hours": PAPER_GPU_HOURS, "mfu_unshared": paper, "with_recomputation": paper * 4 / 3,
                  "ours_at_that_mfu": gpu_hours(clips, macs["ours"], paper, _GPUS["a100"])},
        "inputs": {name: entry._asdict() for name, entry in inputs.items()},
    }


_ROWS = (  # text, field of `Plan`, digits
    ("hours of computing", "computing_hours", 1),
    ("hours of decoding", "decoding_hours", 1),
    ("hours of reading from storage", "reading_hours", 1),
    ("hours of exchanging gradients", "exchanging_hours", 1),
    ("hours of the run: the longest", "hours", 1),
    ("GPU-hours", "gpu_hours", 0),
    ("clips/s that computing takes", "clips_per_second", 0),
    ("  cores a GPU that decode them", "cores_per_gpu", 2),
    ("  GB/s read, all nodes", "read_gb_per_second", 2),
    ("  Gbit/s of gradients, each node", "exchange_gbit_per_second", 0),
)


def table(report: Mapping[str, Any]) -> str:
    """The report for people."""
    plans, paper, macs = report["plans"], report["paper"], report["gmacs"]
    rows = [("", [f"{p['gpus']} {report['gpu'].upper()}" for p in plans]),
            *((text, [f"{p[name]:,.{digits}f}" for p in plans]) for text, name, digits in _ROWS),
            ("bottleneck", [p["bottleneck"] for p in plans])]
    return "\n".join([
        f"{report['clips_read'] / 1e6:,.0f} M clips read, {macs['ours']:.2f} GMACs forward each, twice that backward "
        f"({macs['unshared']:.2f} if the objectives shared nothing), {report['words']} words", "",
        *(f"{text:<36}" + "".join(f"{value:>14}" for value in values) for text, values in rows), "",
        f"prepared videos {report['stored_tb']:.2f} TB; {report['read_tb']:.1f} TB read in the whole run",
        f"the paper's {paper['gpu_hours']:,.0f} A100-hours, spent on this with nothing shared: "
        f"{100 * paper['mfu_unshared']:.1f} % of the peak, {100 * paper['with_recomputation']:.1f} % with what "
        "checkpointing computes anew", f"ours at that share: {paper['ours_at_that_mfu']:,.0f} A100-hours", "", "inputs",
        *(f"  {'--' + name.replace('_', '-'):<18}{entry['value']:>12,.6g}  {entry['unit']:<34}{entry['source']}"
          for name, entry in report["inputs"].items()),
    ])


def main(argv: Sequence[str] | None = None) -> None:
    """`egovlpv2 cost`."""
    parser = CommandParser("egovlpv2 cost", description="What the full pre-training run takes, on paper.")
    parser.add_argument("--config", type=Path, default=Path("conf/model/base.yaml"),
                        help="the model (default: %(default)s)")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 32], help="numbers of GPUs (default: 8 32)")
    parser.add_argument("--gpu", choices=_GPUS, default="a100", help="(default: %(default)s)")
    parser.add_argument("--num-frames", type=int, default=4, help="frames of a clip (default: %(default)s)")
    parser.add_argument("--words", type=int, default=30,
                        help="tokens of a text (default: %(default)s, as conf/pretrain.yaml has them)")
    parser.add_argument("--bench", type=Path, help="take what this JSON of `egovlpv2 bench` has measured")
    for name, entry in DEFAULTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float,
                            help=f"{entry.unit} (default: {entry.value:,.6g}, {entry.source})")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    inputs = read_inputs(args)
    model = complexity(read_model_config(str(args.config)), args.num_frames, args.words)
    report = cost(inputs, model, args.gpus, args.gpu)
    print(json.dumps(report, indent=2) if args.json else table(report))


def read_inputs(args: argparse.Namespace) -> dict[str, Input]:
    """The defaults, over them what was measured, over that what was given.

    Raises:
        ValueError: A number makes no sense.
    """
    inputs = DEFAULTS | (read_bench(args.bench, args.gpu) if args.bench else {})
    inputs |= {name: entry._replace(value=getattr(args, name), source="given") for name, entry in inputs.items()
               if getattr(args, name) is not None}
    for name, value in [*((name, entry.value) for name, entry in inputs.items()), ("num_frames", args.num_frames),
                        ("words", args.words), *(("gpus", count) for count in args.gpus)]:
        if not 0 < value < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} {value:g}: give a number above 0")
    if inputs["mfu"].value > 1:
        raise ValueError(f"--mfu {inputs['mfu'].value:g}: it is a share of the peak, such as 0.35")
    if inputs["gpus_per_node"].value % 1:
        raise ValueError(f"--gpus-per-node {inputs['gpus_per_node'].value:g}: give a whole number")
    if not args.config.is_file():
        raise ValueError(f"--config {args.config} is missing: give a conf/model/*.yaml")
    return inputs

"""Estimate of the full pre-training run: GPU-hours, decoding, storage, network, and what binds: `egovlpv2 cost`.

Everything is arithmetic on a few inputs. Each is printed with its unit and where it comes from: counted, measured,
published, assumed, or given as an option.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Any, Literal, NamedTuple

from egovlpv2.analysis.complexity import complexity, read_model_config
from egovlpv2.arguments import check_call
from egovlpv2.bench.measure import PEAK_TFLOPS, UTILISATION, training_flops
from egovlpv2.bench.reader import OPENED, READ, STORED
from egovlpv2.io.annotations import Once
from egovlpv2.io.schema import read_json
from egovlpv2.types import Count, Mfu, Positive

PAPER_GPU_HOURS = 3840.0  # 5 days on 32 A100 (paper, D.1)
_GPUS = {name.lower(): PEAK_TFLOPS[name] for name in ("A100", "H100", "H200")}
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
    "mfu": Input(0.35, "of the GPU's peak", "ASSUMED: docs/cost.md"),
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
    """The content of a JSON of `egovlpv2 bench` or of `make gpu-check`."""

    figures: list[_Figure]
    date: str
    device: str


def read_bench(path: Path, gpu: str) -> dict[str, Input]:
    """Read the inputs that a JSON of `egovlpv2 bench` or of `make gpu-check` has measured.

    The share of the peak is taken only if it is that of this `gpu`; else its source says of which it is.

    Raises:
        ValueError: The file is not one of these, or measured nothing of use.
    """
    try:
        content = read_json(path, _Bench)
    except ValueError as error:
        raise ValueError(f"--bench: {error} (give a JSON of `egovlpv2 bench` or of `make gpu-check`)") from error
    once = Once(f"--bench {path}", "what")
    for i, row in enumerate(content.figures):
        if row.what in _MEASURES:
            once.add(row.what, f"figures[{i}]")
    figures = {row.what: row.value for row in content.figures}
    source = f"measured on {content.device}, {content.date}: {path}"
    found = {name: DEFAULTS[name]._replace(value=figures[what] * factor, source=source)
             for name, (what, factor) in _FROM_BENCH.items() if what in figures}
    if not found:
        raise ValueError(f"--bench {path} has none of the figures that count: give the JSON of `egovlpv2 bench`, of "
                         "its part reader, or of `make gpu-check` on a GPU")
    if "mfu" in found and gpu.upper() not in content.device:
        found["mfu"] = DEFAULTS["mfu"]._replace(
            source=f"ASSUMED: {path} is of {content.device}, not of --gpu {gpu}, so its {figures[UTILISATION]:.3g} % "
                   "are left out")
    return found


def gpu_hours(clips: float, gmacs: float, mfu: float, peak_tflops: float) -> float:
    """GPU-hours of training on so many clips.

    Args:
        clips: All that are read, in all epochs.
        gmacs: Of the forward pass of one.
        mfu: Fraction of the peak, 0 to 1.
        peak_tflops: Of the GPU.
    """
    return clips * training_flops(gmacs) / (mfu * peak_tflops * 1e12) / 3600


def utilisation(clips: float, gmacs: float, hours: float, peak_tflops: float) -> float:
    """The share of the peak that so many GPU-hours make use of: the inverse of `gpu_hours`."""
    return gpu_hours(clips, gmacs, 1.0, peak_tflops) / hours


def plan(gpus: int, inputs: Mapping[str, Input], gmacs: float, parameters: float, peak_tflops: float) -> Plan:
    """Plan the run on some GPUs."""
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
        gpu: `a100`, `h100` or `h200`.
    """
    macs, clips = model["gmacs"], 2 * inputs["clips"].value * inputs["epochs"].value
    shared = {"clips_read": clips, "gpu": gpu, "peak_tflops": _GPUS[gpu], "parameters": model["parameters"],
              "gmacs": {name: macs[name] for name in ("ours", "unshared")}, "tokens": model["tokens"],
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
        f"({macs['unshared']:.2f} if the objectives shared nothing), {report['tokens']} tokens", "",
        *(f"{text:<36}" + "".join(f"{value:>14}" for value in values) for text, values in rows), "",
        f"prepared videos {report['stored_tb']:.2f} TB; {report['read_tb']:.1f} TB read in the whole run",
        f"the paper's {paper['gpu_hours']:,.0f} A100-hours, spent on this with nothing shared: "
        f"{100 * paper['mfu_unshared']:.1f} % of the peak, {100 * paper['with_recomputation']:.1f} % with what "
        "checkpointing computes anew", f"ours at that share: {paper['ours_at_that_mfu']:,.0f} A100-hours", "", "inputs",
        *(f"  {'--' + name.replace('_', '-'):<18}{entry['value']:>12,.6g}  {entry['unit']:<34}{entry['source']}"
          for name, entry in report["inputs"].items()),
    ])


@dataclass(frozen=True)
class CostReport:
    """The cost of the full pre-training run.

    Args:
        numbers: As `cost` returns them.
        as_json: Whether it prints as JSON instead of a table.
    """

    numbers: dict[str, Any]
    as_json: bool = False

    def __str__(self) -> str:
        return dumps(self.numbers, indent=2) if self.as_json else table(self.numbers)


def estimate_cost(*, config: str | Path = "conf/model/base.yaml", gpus: Sequence[Count] = (8, 32),
                  gpu: Literal["a100", "h100", "h200"] = "a100", num_frames: Count = 4, num_tokens: Count = 30,
                  bench: str | Path | None = None, clips: Positive | None = None, epochs: Positive | None = None,
                  rows: Positive | None = None, video_hours: Positive | None = None,
                  clips_per_core: Positive | None = None, kb_per_clip: Positive | None = None,
                  mb_per_hour: Positive | None = None, mfu: Mfu | None = None, cores_per_gpu: Positive | None = None,
                  gpus_per_node: Count | None = None, storage_gbit: Positive | None = None,
                  network_gbit: Positive | None = None, json: bool = False) -> CostReport:
    """Estimate the full pre-training run: GPU-hours, decoding, storage and network, and what binds.

    The inputs that are not given have defaults, which the table lists with their sources.

    Args:
        config: the model
        gpus: numbers of GPUs
        gpu: kind of GPU
        num_frames: frames of a clip
        num_tokens: tokens of a text, as conf/pretrain.yaml has them
        bench: take what this JSON of `egovlpv2 bench` or of `make gpu-check` has measured
        clips: rows of the training data
        epochs: of the run
        rows: of a step, on all GPUs
        video_hours: hours of video
        clips_per_core: clips a second that a core decodes
        kb_per_clip: kB read for a clip
        mb_per_hour: MB of an hour of prepared video
        mfu: share of the GPU's peak, such as 0.35
        cores_per_gpu: cores for decoding
        gpus_per_node: GPUs of a node
        storage_gbit: Gbit/s from storage to each node
        network_gbit: Gbit/s between nodes, each
        json: print JSON instead of a table

    Raises:
        ValueError: An argument doesn't allow it, or a file can't be read.
    """
    given = {name: value for name, value in locals().items() if name in DEFAULTS and value is not None}
    check_call(estimate_cost, locals())
    inputs = DEFAULTS | (read_bench(Path(bench), gpu) if bench is not None else {})
    inputs |= {name: inputs[name]._replace(value=value, source="given") for name, value in given.items()}
    model = complexity(read_model_config(config), num_frames, num_tokens)
    return CostReport(cost(inputs, model, gpus, gpu), json)

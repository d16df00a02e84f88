"""Time the hot paths against their bounds, in one table: `egovlpv2 bench`. Every ratio is measured within one run."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from json import dumps
from pathlib import Path
from typing import Any, get_args

import torch
from tqdm import tqdm

from egovlpv2.arguments import check_call
from egovlpv2.bench.measure import BenchOptions, Figure, device_name
from egovlpv2.device import pick_device
from egovlpv2.io.files import finite, write_json
from egovlpv2.types import BenchPart, Count, EmbeddingKind, Milliseconds, Positive, Precision, StepVariant

# `measure(options)` of each module gives its figures. Modules are imported when they run: their memory is measured.
PARTS = {
    "reader": "egovlpv2.bench.reader",  # reading a clip against bare seek and decode
    "loader": "egovlpv2.data_modules.bench_loader",  # a training loader against bare seek and decode
    "forward": "egovlpv2.tasks.bench_forward",  # trunk and top, EgoMCQ and answers, against their matrix products
    "step": "egovlpv2.tasks.bench_step",  # a pre-training step against one that shares nothing
    "moments": "egovlpv2.bench.moments",  # scoring Ego4D NLQ and MQ against loops
    "summary": "egovlpv2.bench.summary",  # cutting and scoring a QFVS video against graph matching
    "retrieval": "egovlpv2.bench.retrieval",  # evaluating EPIC-Kitchens-100 at full size against a plain loop
    "search": "egovlpv2.bench.search",  # searching 100 hours of made-up embeddings against reading them once
}
_WITH_MODEL = {"forward", "step"}
_COLUMNS = ("part", "what", "figure", "unit", "bound by: against", "ratio")


@dataclass(frozen=True)
class BenchReport:
    """Figures of some parts; the JSON file has the same.

    Args:
        figures: Rows of the table.
        facts: Device, precision, version of torch, threads and date.
        failures: The reason by part.
        out: The JSON file.
        as_json: Whether it prints as JSON instead of a table.
    """

    figures: list[Figure]
    facts: dict[str, Any]
    failures: dict[str, str]
    out: Path
    as_json: bool = False

    @property
    def failed(self) -> str:
        """Description of the parts that have failed; empty if none has."""
        return f"{self.out} lacks what failed: {'; '.join(self.failures.values())}" if self.failures else ""

    @property
    def content(self) -> dict[str, Any]:
        """Content of the JSON file."""
        return finite(self.facts | {"figures": [figure._asdict() for figure in self.figures]})

    def __str__(self) -> str:
        if self.as_json:
            return dumps(self.content, indent=2)
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items() if value)
        return (f"\n{table(self.figures)}\n\nratio: the figure over what it is set against\n{facts}\n"
                f"written: {self.out}")


def run_benchmarks(part: BenchPart | None = None, *, out: str | Path | None = None,
                   config: str | Path = "conf/model/base.yaml", device: str | None = None,
                   precision: Precision | None = None, batch_size: Sequence[Count] | None = None,
                   contrastive_batch: Count | None = None, repeats: Count | None = None,
                   variants: Sequence[StepVariant] | None = None, peak_tflops: Positive | None = None,
                   file: str | Path | None = None, videos: str | Path | None = None,
                   hours: Positive = 100.0, every: Milliseconds = 1.0,
                   widths: Sequence[Count] = (256,), index_files: Count = 200,
                   store: EmbeddingKind = "float16", folder: str | Path | None = None,
                   json: bool = False) -> BenchReport:
    """Time the hot paths against their bounds, as ratios: all parts, or one.

    Args:
        part: reader, loader, forward, step, moments, summary, retrieval or search; all if not given
        out: JSON to write the figures to; runs/bench.json or runs/bench-PART.json if not given
        config: the model of forward and step
        device: cuda or cpu; cuda where there is one (forward, step)
        precision: bf16 on a GPU if not given, else 32 (forward, step)
        batch_size: clips of a step; the best of several is reported; 2 if not given, on a GPU 16 32 48 (forward, step)
        contrastive_batch: clips of a larger step that are computed --batch-size at a time, to compare its memory (step)
        repeats: rounds to take the fastest of; 2 if not given, on a GPU 5 (forward, step)
        variants: ways of computing a step to compare: nothing shared by the objectives (unshared), all objectives'
            activations in memory together (one_graph), compiled, the trunk's blocks or all blocks computed anew in the
            backward pass (trunk_anew, all_anew); unshared if not given, on a GPU all (step)
        peak_tflops: of the device at --precision, to give the share of it that a step makes use of
        file: a JSON with MQ's `predictions` and `ground_truth` to score instead of made-up ones (moments)
        videos: a folder of videos to prepare; two are drawn if not given (reader)
        hours: of video to search (search)
        every: seconds between windows (search)
        widths: of the embeddings; 4096 are the base model's, and take 3 GB of disk (search)
        index_files: that they lie in (search)
        store: what a search reads, see `egovlpv2 index` (search)
        folder: where they lie for the while, on a disk: in a folder that lies in memory (tmpfs) none of them is read
            from a disk (search)
        json: print the JSON instead of the table

    Raises:
        ValueError: An argument doesn't allow it, or the only part has failed.
    """
    check_call(run_benchmarks, locals())
    names = [part] if part else list(PARTS)
    target = Path(out) if out is not None else Path("runs", f"bench-{part}.json" if part else "bench.json")
    if target.is_dir():
        raise ValueError(f"--out {target} is a folder: give the name of a file")
    options = BenchOptions(file=_path(file), videos=_path(videos), hours=hours, every=every, widths=widths,
                           index_files=index_files, store=store, folder=_path(folder), peak_tflops=peak_tflops,
                           contrastive_batch=contrastive_batch)
    with_model = bool(_WITH_MODEL.intersection(names))
    if with_model:
        options = _with_model(options, Path(config), device, precision, batch_size, repeats, variants)
    figures, failures = _measure(names, options)
    facts = {"device": device_name(torch.device(options.device)),
             "precision": options.precision if with_model else None, "torch": torch.__version__,
             "threads": torch.get_num_threads(), "date": time.strftime("%Y-%m-%d %H:%M")}
    report = BenchReport(figures, facts, failures, target, json)
    write_json(target, report.content)
    return report


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _with_model(options: BenchOptions, config: Path, device: str | None, precision: Precision | None,
                batch_size: Sequence[int] | None, repeats: int | None, variants: Sequence[StepVariant] | None
                ) -> BenchOptions:
    """Fill in what a user left open, for the device that there is.

    Raises:
        ValueError: There is no such device or model.
    """
    picked = pick_device(device)
    on_gpu = picked.type == "cuda"
    if not config.is_file():
        raise ValueError(f"--config {config} is missing: give a conf/model/*.yaml (`egovlpv2 configs --out conf` "
                         "copies them)")
    filled = {"config": config, "device": str(picked), "precision": precision or ("bf16" if on_gpu else "32"),
              "batch_size": tuple(batch_size or ((16, 32, 48) if on_gpu else (2,))),
              "repeats": repeats or (5 if on_gpu else 2),
              "variants": variants or (get_args(StepVariant) if on_gpu else ("unshared",))}
    return BenchOptions(**(asdict(options) | filled))


def _measure(names: Sequence[str], options: BenchOptions) -> tuple[list[Figure], dict[str, str]]:
    """Measure some parts; of several, one that fails leaves the others their figures."""
    figures: list[Figure] = []
    failures: dict[str, str] = {}
    bar = tqdm(names, unit="part")
    for name in bar:
        bar.set_description(name)
        try:
            figures += import_module(PARTS[name]).measure(options)
        except (ValueError, torch.OutOfMemoryError) as error:
            if len(names) == 1:
                raise ValueError(f"{name}: {error}") from error
            failures[name] = f"{name}: {error}"
    return figures, failures


def table(figures: Sequence[Figure]) -> str:
    """Lay figures out as text, in columns."""
    rows = [_COLUMNS, *((f.part, f.what, _plain(f.value), f.unit, f.bound, _ratio(f.ratio)) for f in figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.rjust(width) if i in (2, 5) else text.ljust(width)
                       for i, (text, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _ratio(ratio: float | None) -> str:
    """Format a ratio; a tenth and less is easier to read as a fraction."""
    return "" if ratio is None else f"1/{1 / ratio:.0f}" if 0 < ratio < 0.1 else f"{ratio:.2f}"

"""The parts of the GPU check that are not commands of their own: `parts.py PART DEVICE SIZE OUT.json`."""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from video.numbered_videos import write_video

from egovlpv2.analysis.complexity import complexity
from egovlpv2.bench.made_up import made_up_tokenizer
from egovlpv2.bench.measure import UTILISATION, BenchOptions, Figure, in_turn, peak_tflops, training_flops
from egovlpv2.checkpoints.inference import open_backbone
from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.cli import main as cli
from egovlpv2.command.cores import usable_cores
from egovlpv2.device import autocast
from egovlpv2.features.encoder import FeatureEncoder
from egovlpv2.features.extract import make_recipe, prepare_folder, write_features
from egovlpv2.features.work_queue import VideoQueue
from egovlpv2.io.files import write_json
from egovlpv2.model.backbone import Backbone
from egovlpv2.tasks.bench_step import (
    OURS,
    TOKENS,
    VARIANTS,
    Cost,
    make_texts,
    make_videos,
    read_model,
    step_cost,
    training_step,
)
from egovlpv2.types import FeatureKind, StepVariant
from egovlpv2.video.collection import find_videos

CONF = Path(__file__).parents[2] / "conf"
WAYS: dict[StepVariant, str] = {  # of computing a step, beside the usual one
    "compiled": "compiled", "trunk_anew": "the trunk's blocks checkpointed",
    "one_graph": "all objectives in memory together",
}
KERNELS = 8  # the slowest, which are listed


class Size(NamedTuple):
    """Sizes of a run."""

    model: str
    batches: tuple[int, ...]
    ways: tuple[StepVariant, ...]
    seconds: int  # of a video
    videos: int
    workers: int  # processes that decode
    world: tuple[str, ...]  # options of `egovlpv2 toy-data`
    run: tuple[str, ...]  # options of `egovlpv2 fit` on it


SIZES = {
    "full": Size("base", (64, 128), ("compiled", "trunk_anew"), 60, 60, max(usable_cores() - 2, 1),
                 ("--train-videos=80", "--val-videos=10", "--test-videos=10", "--val-questions=60",
                  "--test-questions=60"), ("--trainer.max_epochs=1", "--data.init_args.num_workers=8")),
    "small": Size("tiny", (2,), ("one_graph",), 2, 2, 0,
                  ("--train-videos=5", "--val-videos=5", "--test-videos=5", "--val-questions=4", "--test-questions=4",
                   "--shortest-video=14", "--longest-video=15", "--fps=5", "--num-workers=1"),
                  ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--data.init_args.batch_size=2",
                   "--data.init_args.num_workers=0")),
}


class Report:
    """Figures of a part, written as they come: those of a part that is ended are kept.

    Args:
        part: Name of the part.
        out: The JSON.
    """

    def __init__(self, part: str, out: Path) -> None:
        self.part, self.out = part, out
        self.figures: list[Figure] = []

    def add(self, what: str, value: float, unit: str, bound: str = "", ratio: float | None = None) -> None:
        """Add a figure, see `Figure`."""
        self.figures.append(Figure(self.part, what, value, unit, bound, ratio))
        write_json(self.out, {"figures": [figure._asdict() for figure in self.figures]})


def step(report: Report, device: torch.device, size: Size) -> None:
    """The step of pre-training at the best batch, and other ways of computing it."""
    on_gpu = device.type == "cuda"
    options = BenchOptions(CONF / "model" / f"{size.model}.yaml", str(device), "bf16" if on_gpu else "32",
                           repeats=3 if on_gpu else 1, peak_tflops=None if on_gpu else 1.0)
    costs: dict[int, Cost] = {}
    for clips in size.batches:
        try:
            costs[clips] = step_cost(OURS, options, clips)
        except ValueError as error:  # too many for the memory
            print(error)
            continue
        report.add(f"{clips} clips a step", clips / costs[clips].seconds, "clips/s")
    clips = max(costs, key=lambda clips: clips / costs[clips].seconds)
    _add_cost(report, f"{clips} clips", options, clips, costs[clips], costs[clips])
    timed = training_step(OURS, options.config, clips, device, options.precision)
    _add_kernels(report, f"{clips} clips", timed, device)
    del timed  # its weights and optimizer leave the memory
    for way in size.ways:
        try:
            cost = step_cost(VARIANTS[way], options, clips)
        except ValueError as error:
            print(f"{WAYS[way]}: {error}")
        else:
            _add_cost(report, f"{clips} clips, {WAYS[way]}", options, clips, cost, costs[clips])


def _add_kernels(report: Report, name: str, step: Callable[[], None], device: torch.device) -> None:
    """Add the share of a step in which the GPU is busy, and its slowest kernels; on a CPU, its slowest operations."""
    on_gpu = device.type == "cuda"
    step()  # warms up
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as found:
        seconds = in_turn([step], 1, 1, device)[0]
    spent: Counter[str] = Counter()  # seconds; kernels whose names begin alike are one
    for event in found.key_averages():
        spent[event.key[:60]] += (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
    report.add(f"device busy, {name}", 100 * sum(spent.values()) / seconds, "% of the step")
    for kernel, kernel_seconds in spent.most_common(KERNELS):
        report.add(f"kernel {kernel}", 100 * kernel_seconds / seconds, "% of the step")


def _add_cost(report: Report, name: str, options: BenchOptions, clips: int, cost: Cost, usual: Cost) -> None:
    """Add the figures of a way of computing a step, set against the usual one."""
    rate, usual_rate, other = clips / cost.seconds, clips / usual.seconds, cost is not usual
    report.add(f"rate, {name}", rate, "clips/s", f"usual {usual_rate:.3g} clips/s" if other else "",
               rate / usual_rate if other else None)
    report.add(f"peak memory, {name}", cost.gb, "GB", f"usual {usual.gb:.3g} GB" if other else "",
               cost.gb / usual.gb if other else None)
    model = read_model(options.config)
    gmacs = complexity(model, model.video.num_frames, TOKENS)["gmacs"]["ours"]
    tflops, peak = training_flops(gmacs) * rate / 1e12, peak_tflops(options, torch.device(options.device))
    report.add(f"speed, {name}", tflops, "TFLOP/s", f"matmul: one large product {cost.matmul / 1e12:.3g} TFLOP/s",
               tflops / cost.matmul * 1e12)
    if peak is not None:
        what = f"share of the device's peak, {name}" if other else UTILISATION
        report.add(what, 100 * tflops / peak, "%", f"matmul: peak of {peak:.3g} TFLOP/s", tflops / peak)


def model(report: Report, device: torch.device, size: Size) -> None:
    """Agreement with the CPU, and the rates of extraction and of indexing, with random weights."""
    config = read_model(CONF / "model" / f"{size.model}.yaml")
    torch.manual_seed(0)
    with TemporaryDirectory() as name:
        folder = Path(name)
        config.text.tokenizer = made_up_tokenizer(folder / "tokenizer", config.text.resolve().vocab_size)
        backbone = Backbone(config).eval()
        save_backbone(backbone, folder / "weights.safetensors")
        _agreement(report, backbone, device)
        del backbone
        draw_videos(folder / "videos", size)
        extraction = _embedding_rate(folder, "dual", device, size, fps=30.0, window=16, stride=16)
        report.add("extraction of dual features, a window of 4 frames each 16", extraction, "hours of video an hour")
        index = _embedding_rate(folder, "unit", device, size, fps=1000.0, window=2000, stride=1000)
        report.add("indexing, a window each second", index, "hours of video an hour")
        report.add("indexing 100 hours at this rate", 6000 / index, "minutes")


def _agreement(report: Report, backbone: Backbone, device: torch.device) -> None:
    """bfloat16 on the device against float32 on the CPU."""
    cpu = torch.device("cpu")
    video = make_videos(2, backbone.config, backbone.video_tower.patch_embed.img_size[0], cpu)
    text, found = make_texts(2, cpu), []
    for place, context in ((cpu, autocast("32", cpu)), (device, autocast("bf16", device))):
        backbone.to(place)
        inputs = video.to(place), {name: ids.to(place) for name, ids in text.items()}
        with torch.inference_mode(), context:
            outputs = backbone.embed_video(inputs[0]), backbone.embed_text(inputs[1]), backbone.vtm_logits(*inputs)
        found.append([output.float().cpu() for output in outputs])
    for name, expected, other in zip(("video embeddings", "text embeddings", "match logits"), *found, strict=True):
        report.add(f"{name}, bfloat16 against float32 on the CPU", float((other - expected).norm() / expected.norm()),
                   "relative error")


def draw_videos(folder: Path, size: Size) -> None:
    """Draw a video as `egovlpv2 prepare` leaves them (256 px, a keyframe each half second), and link to it."""
    folder.mkdir()
    rng, side, fps = np.random.default_rng(0), 256, 30
    coarse = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    picture = coarse.repeat(8, 0).repeat(8, 1)
    pictures = [np.roll(picture, (i, 2 * i), (0, 1)) for i in range(fps * size.seconds)]
    write_video(folder / "video0.mp4", fps=fps, gop=15, pictures=pictures)
    for i in range(1, size.videos):
        os.link(folder / "video0.mp4", folder / f"video{i}.mp4")


def _embedding_rate(folder: Path, kind: FeatureKind, device: torch.device, size: Size, *, fps: float, window: int,
                    stride: int) -> float:
    """Hours of video an hour, decoding included, the loading of the model not."""
    weights = str(folder / "weights.safetensors")
    backbone = open_backbone(weights, 4, str(device))
    recipe = make_recipe(backbone, weights, kind, fps=fps, window=window, stride=stride, num_frames=4)
    encoder = FeatureEncoder(backbone, recipe, precision=autocast(None, device))
    sources = find_videos([str(folder / "videos")])
    seconds = 0.0
    for name, some in (("first", sources[:1]), ("all", sources)):  # the first warms up
        out = folder / f"{kind}-{name}"
        prepare_folder(out, recipe, {})
        queue = VideoQueue(some, out, recipe.windows(600.0), 32)
        begin = time.perf_counter()
        done = write_features(queue, encoder, size.workers)
        seconds = time.perf_counter() - begin
        assert done.written == len(some), done.failed
    return len(sources) * size.seconds / seconds


def toy(report: Report, device: torch.device, size: Size) -> None:
    """The toy world and a run on it."""
    with TemporaryDirectory() as name:
        root, runs = Path(name, "toy"), Path(name, "runs")
        begin = time.perf_counter()
        cli(["toy-data", "--out", str(root), *size.world])
        report.add("rendering a toy world", time.perf_counter() - begin, "s")
        os.environ["EGO_TOY"] = str(root)
        files = ("pretrain", "model/tiny", "data/toy", f"trainer/{'gpu' if device.type == 'cuda' else 'cpu'}",
                 "toy/pretrain")
        begin = time.perf_counter()
        cli(["fit", *(f"--config={CONF / file}.yaml" for file in files), *size.run,
             f"--trainer.logger.init_args.save_dir={runs}", "--trainer.enable_progress_bar=false"])
        report.add("a run of the tiny model on it, from start to EgoMCQ", time.perf_counter() - begin, "s")
        metrics = json.loads((runs / "pretrain" / "metrics.json").read_text())["metrics"]
        for kind in ("inter", "intra"):
            report.add(f"EgoMCQ after it, {kind}-video", metrics[f"test/egomcq/ensemble/{kind}"], "%")


if __name__ == "__main__":
    part, where, chosen, out = sys.argv[1:]
    {"step": step, "model": model, "toy": toy}[part](Report(part, Path(out)), torch.device(where), SIZES[chosen])

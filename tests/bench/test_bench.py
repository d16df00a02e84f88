"""`egovlpv2 bench`: one table and one JSON of all parts, and what their figures mean."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import ROOT, make_clips, make_config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from egovlpv2.analysis.complexity import complexity
from egovlpv2.bench import measure
from egovlpv2.bench import reader as video_bench
from egovlpv2.bench import run as bench
from egovlpv2.bench.measure import BenchOptions, Figure, device_name, in_turn, peak_tflops, training_flops
from egovlpv2.bench.run import table
from egovlpv2.cli import main as cli
from egovlpv2.data_modules import bench_loader as loader_bench
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks import bench_step as step_bench
from egovlpv2.tasks.bench_forward import answers, egomcq, passes
from egovlpv2.tasks.bench_step import Cost, Variant, best_batch, make_texts
from egovlpv2.tasks.taskqa import TaskQA

TINY = ["--config", str(ROOT / "conf" / "model" / "tiny.yaml"), "--device", "cpu"]


def options(**changes: Any) -> BenchOptions:
    return BenchOptions(ROOT / "conf" / "model" / "tiny.yaml", **changes)


def test_all_parts_make_one_table_and_one_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    def part(name: str) -> SimpleNamespace:
        return SimpleNamespace(measure=lambda given: [Figure(name, "clips", given.index_files, "ms",
                                                             "decode: bare 2 ms", 1.5)])

    monkeypatch.setattr(bench, "import_module", part)
    monkeypatch.setattr(bench, "PARTS", {name: name for name in bench.PARTS})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.yaml").touch()
    cli(["bench", "--config", "m.yaml", "--device", "cpu", "--index-files", "4"])
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if "decode: bare" in line]
    assert [row[0] for row in rows] == list(bench.PARTS) and out.count("part ") == 1
    assert rows[0] == ["reader", "clips", "4", "ms", "decode:", "bare", "2", "ms", "1.50"]
    content = json.loads((tmp_path / "runs" / "bench.json").read_text())
    assert [row["part"] for row in content["figures"]] == list(bench.PARTS)
    assert content["torch"] == torch.__version__ and content["threads"] and content["date"] and content["device"]
    cli(["bench", "moments", "--index-files", "7", "--out", "own.json"])
    content = json.loads(Path("own.json").read_text())
    assert [(row["part"], row["value"]) for row in content["figures"]] == [("moments", 7)]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["bench.json"]


def test_a_part_that_fails_does_not_lose_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def part(name: str) -> SimpleNamespace:
        def measure(given: BenchOptions) -> list[Figure]:
            if name == "moments":
                raise torch.OutOfMemoryError("too large")
            return [Figure(name, "clips", 1.0, "ms")]

        return SimpleNamespace(measure=measure)

    monkeypatch.setattr(bench, "import_module", part)
    monkeypatch.setattr(bench, "PARTS", {name: name for name in bench.PARTS})
    with pytest.raises(SystemExit, match="b.json lacks what failed: moments: too large"):
        cli(["bench", *TINY, "--out", str(tmp_path / "b.json")])
    figures = json.loads((tmp_path / "b.json").read_text())["figures"]
    assert [row["part"] for row in figures] == [name for name in bench.PARTS if name != "moments"]
    with pytest.raises(SystemExit, match="moments: too large"):
        cli(["bench", "moments", "--out", str(tmp_path / "one.json")])
    assert not (tmp_path / "one.json").exists()


def test_a_small_ratio_is_a_fraction() -> None:
    text = table([Figure("p", "w", 12345.6, "s", "memory: a loop", 0.01), Figure("p", "w", 0.01234, "s")])
    assert "12,346" in text and "1/100" in text and "0.0123" in text and "nan" not in text


def test_a_ratio_of_nothing_is_no_fraction() -> None:
    assert table([Figure("p", "w", 0.0, "GB", "memory: a table 0.1 GB", 0.0)]).endswith("  0.00")


def test_memory_and_cores_are_told_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    here = measure.peak_gb()
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert measure.peak_gb() > 0 and here > 0.05 and device_name(torch.device("cpu")).endswith(" cores")


def test_calls_take_turns_and_the_fastest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order, lengths = [0.0], [], iter((5.0, 1.0, 2.0, 3.0))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])

    def call(name: str) -> None:
        order.append(name)
        clock[0] += next(lengths)

    assert in_turn([lambda: call("a"), lambda: call("b")], rounds=2) == [2.0, 1.0]
    assert order == ["a", "b", "a", "b"]


def test_model_flops_are_three_times_the_forward_pass(tokenizer: str) -> None:
    """Against every product of a real step; attention as products, since torch does not count its own on a CPU."""
    config = make_config(tokenizer, depth=4)
    task = step_bench.OneGraphPretrain(config, OptimizerConfig()).train()  # the counter takes no part of a graph
    batch = make_clips(8)
    batch["text"] = make_texts(8, torch.device("cpu"))
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        task.objectives(batch, torch.Generator().manual_seed(0)).total.backward()
    model = training_flops(8 * complexity(config, 4, step_bench.TOKENS)["gmacs"]["ours"])
    assert counter.get_total_flops() == pytest.approx(model, rel=0.05)


def test_the_share_of_the_peak_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {step_bench.OURS: Cost(0.5, 10.0, 2e12), step_bench.VARIANTS["unshared"]: Cost(0.75, 15.0, 2e12)}
    monkeypatch.setattr(step_bench, "step_cost", lambda variant, args, clips: costs[variant])
    monkeypatch.setattr(step_bench, "complexity", lambda *_: {"gmacs": {"ours": 100.0}})
    figures = step_bench.measure(options(batch_size=[4], peak_tflops=8.0))
    rows = {figure.what: figure for figure in figures}
    assert rows["rate of a step"].value == 8
    # 4 clips of 100 GMACs: 0.8 TFLOP forward, 2.4 in all, in 0.5 s: 4.8 TFLOP/s, of 8; at 2 they would take 1.2 s.
    assert rows[measure.UTILISATION].value == pytest.approx(60) and rows[measure.UTILISATION].unit == "%"
    assert rows["a step, tiny, 4 clips, float32"].ratio == pytest.approx(0.5 / 1.2)
    assert rows["a step against sharing nothing"].ratio == pytest.approx(2 / 3)
    assert rows["its memory against sharing nothing"].ratio == pytest.approx(2 / 3)
    figures = step_bench.measure(options(batch_size=[4]))
    assert measure.UTILISATION not in {figure.what for figure in figures}  # a CPU's peak is not known


def test_the_best_batch_size_is_reported_and_one_too_large_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {2: 1.0, 4: 1.6, 8: 4.0}

    def step_cost(variant: Variant, given: BenchOptions, clips: int) -> Cost:
        if clips not in seconds:
            raise ValueError("too many for the memory")
        return Cost(seconds[clips], 1.0, 1e12)

    monkeypatch.setattr(step_bench, "step_cost", step_cost)
    best, figures = best_batch(options(batch_size=[2, 4, 8, 16]))
    assert best == 4 and [figure.value for figure in figures] == [2.0, 2.5, 2.0]
    with pytest.raises(ValueError, match="too many"):
        best_batch(options(batch_size=[16, 32]))


def test_what_shares_nothing_may_not_fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def step_cost(variant: Variant, given: BenchOptions, clips: int) -> Cost:
        if variant is not step_bench.OURS:
            raise ValueError("too many for the memory")
        return Cost(1.0, 1.0, 1e12)

    monkeypatch.setattr(step_bench, "step_cost", step_cost)
    figures = step_bench.measure(options(batch_size=[4]))
    assert len(figures) == 3 and not [figure for figure in figures if "sharing nothing" in figure.what]
    assert "sharing nothing is left out" in capsys.readouterr().err


@pytest.mark.parametrize("name, peak", [("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA H100 80GB HBM3", 989),
                                        ("NVIDIA H100 PCIe", 756), ("NVIDIA H200", 989), ("NVIDIA L4", None),
                                        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None)])
def test_peaks_by_the_name_of_the_device(name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_tflops(options(precision="bf16"), torch.device("cuda")) == peak
    assert peak_tflops(options(precision="32"), torch.device("cuda")) is None  # the table's are of bfloat16
    assert peak_tflops(options(peak_tflops=7.0), torch.device("cuda")) == 7
    assert device_name(torch.device("cuda")) == name


def test_what_is_counted_is_what_complexity_says(make_backbone) -> None:
    config = make_config()
    backbone = make_backbone().to("meta")
    calls = passes(backbone, torch.empty(1, 4, 3, 32, 32, device="meta"), make_texts(1, torch.device("meta")))
    macs = complexity(config, 4, step_bench.TOKENS)["gmacs"]["by_objective"]
    counted = {name: step_gmacs(call) for name, call in calls.items()}
    shared = step_gmacs(lambda: backbone.attend_first(torch.empty(1, 17, 24, device="meta"), 4))  # by the objectives
    assert counted["trunk"] + shared == pytest.approx(macs["shared trunk"])
    assert counted["top, gate open"] - shared == pytest.approx(macs["vtm"], rel=0.02)  # less the head
    assert counted["top, gate closed"] < counted["top, gate open"]


def step_gmacs(call) -> float:
    from egovlpv2.analysis.complexity import gmacs

    return gmacs(call)[0]


def test_what_takes_turns_computes_the_same(tokenizer: str) -> None:
    task = TaskQA(make_config(tokenizer), OptimizerConfig(), num_answers=500).eval()
    for parameter in task.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        _, sharing, plain, _ = egomcq(task.backbone, make_clips(5)["video"])
        ours, theirs = sharing(), plain()
        for name in ("dual", "fusion"):
            torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=1e-4)
        _, sharing, plain, _ = answers(task, make_clips(1)["video"])
        torch.testing.assert_close(sharing(), plain(), atol=1e-4, rtol=1e-4)


def test_forward_of_the_tiny_model(tmp_path: Path) -> None:
    cli(["bench", "forward", *TINY, "--batch-size", "1", "--repeats", "1", "--out", str(tmp_path / "f.json")])
    figures = json.loads((tmp_path / "f.json").read_text())["figures"]
    assert len(figures) == 5 and all(row["part"] == "forward" and row["value"] > 0 for row in figures)
    assert all(math.isfinite(row["ratio"]) and row["bound"].startswith("matmul: ") for row in figures)


def test_a_prepared_file_is_opened_and_read_again(toy: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for i, path in enumerate(sorted(toy.rglob("0.mp4"))[:2]):
        shutil.copy(path, videos / f"{i}.mp4")
    figures = {figure.what: figure for figure in video_bench.bench_prepared(videos, num_clips=6)}
    assert figures[video_bench.OPENED].value > 0 and figures["clips from prepared files, one core"].value > 0
    size = sum(path.stat().st_size for path in videos.iterdir())
    assert 1 < figures[video_bench.READ].value < size / 1e3 * 5  # kB
    hour = figures[video_bench.STORED].value  # MB
    assert 1 < hour < 1000 and figures[video_bench.STORED].unit == "MB"


@pytest.mark.parametrize("arguments, problem", [
    (["moments", "--out", "."], "--out . is a folder: give the name of a file"),
    (["search", "--index-files", "0"], "--index-files 0: give a whole number, 1 or more"),
    (["search", "--hours", "inf"], "--hours inf: give a finite number above 0"),
    (["search", "--widths", "8", "0"], "--widths 0: give a whole number, 1 or more"),
    (["search", "--every", "0.0001"], "--every 0.0001: give a finite number, 0.001 or more"),
    (["search", "--folder", "nowhere"], "--folder nowhere is not a folder: give one that is there"),
    (["steps"], "part: invalid choice: 'steps' .choose from 'reader', 'loader', 'forward'"),
    (["step", "--config", "nowhere.yaml", "--device", "cpu"], "--config nowhere.yaml is missing"),
    (["step", *TINY, "--batch-size", "0"], "--batch-size 0: give a whole number, 1 or more"),
    (["step", *TINY, "--peak-tflops", "nan"], "--peak-tflops nan: give a finite number above 0"),
    (["forward", *TINY, "--repeats", "0"], "--repeats 0: give a whole number, 1 or more"),
    (["reader", "--videos", "nowhere"], "nowhere is missing: give files or folders of videos"),
    (["moments", "--file", "nowhere.json"], "--file nowhere.json can't be scored .*give a JSON with MQ's"),
])
def test_what_a_user_gets_wrong_is_one_line(arguments: list[str], problem: str, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=problem):
        cli(["bench", *arguments])
    assert not (tmp_path / "runs").exists()


def test_a_loader_is_timed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_bench, "_SECONDS", 4)
    monkeypatch.setattr(loader_bench, "_SECONDS", 4)
    whole, rate, reading, handing_over = loader_bench.measure(options(), rows=2, batches=4)
    assert whole.value * rate.value == pytest.approx(1000)
    assert 0 < reading.value and 0 < handing_over.value and "602 kB" in handing_over.bound  # 4 x 3 x 224 x 224 bytes

"""`egovlpv2 cost`: the arithmetic, by hand, and what a user may get wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT

from egovlpv2.analysis.cost import DEFAULTS, cost, gpu_hours, plan, utilisation
from egovlpv2.bench.measure import UTILISATION
from egovlpv2.bench.reader import OPENED, READ, STORED
from egovlpv2.cli import main as cli

MODEL = {"gmacs": {"ours": 200.0, "unshared": 300.0}, "parameters": 500_000_000, "tokens": 30}
TINY = ["--config", str(ROOT / "conf" / "model" / "tiny.yaml")]
SIMPLE = {"clips": 1e6, "epochs": 10, "rows": 250, "video_hours": 1000, "clips_per_core": 100, "kb_per_clip": 500,
          "mb_per_hour": 100, "mfu": 0.4, "cores_per_gpu": 10, "gpus_per_node": 8, "storage_gbit": 10,
          "network_gbit": 100}


def inputs(**changes: float):
    return {name: entry._replace(value=(SIMPLE | changes)[name]) for name, entry in DEFAULTS.items()}


def made(gpus: int = 16, **changes: float):
    return plan(gpus, inputs(**changes), MODEL["gmacs"]["ours"], MODEL["parameters"], 312.0)


def test_by_hand() -> None:
    found = made()
    # 20 M clips (two a row, ten epochs) of 1.2 TFLOP (200 GMACs, two operations, three times): 2.4e19 FLOP, at 0.4 of
    # 16 x 312 TFLOP/s = 1.9968e15 FLOP/s: 12,019 s.
    assert found.computing_hours == pytest.approx(2.4e19 / 1.9968e15 / 3600) == pytest.approx(3.3387, abs=1e-3)
    assert found.decoding_hours == pytest.approx(20e6 / (100 * 160) / 3600)  # 160 cores of 100 clips/s: 1,250 s
    assert found.reading_hours == pytest.approx(20e6 * 500e3 * 8 / 20e9 / 3600)  # 10 TB over 2 x 10 Gbit/s: 4,000 s
    # 40,000 steps; of two nodes each sends as many bytes as the gradients have, 2 GB = 16 Gbit, at 100 Gbit/s: 6,400 s
    assert found.nodes == 2 and found.exchanging_hours == pytest.approx(40_000 * 16 / 100 / 3600)
    assert found.bottleneck == "computing" and found.hours == found.computing_hours
    assert found.gpu_hours == pytest.approx(16 * found.hours)
    assert found.clips_per_second == pytest.approx(20e6 / 12_019.2, rel=1e-4)  # 1,664
    assert found.cores_per_gpu == pytest.approx(1.04, abs=0.001)
    assert found.read_gb_per_second == pytest.approx(0.832, abs=0.001)
    assert found.exchange_gbit_per_second == pytest.approx(640_000 / 12_019.2, rel=1e-4)


def test_what_is_slowest_is_the_bottleneck() -> None:
    assert made(clips_per_core=1).bottleneck == "decoding"
    assert made(storage_gbit=0.1).bottleneck == "reading"
    assert made(network_gbit=10).bottleneck == "exchanging"
    assert made(8, network_gbit=0.001).bottleneck == "computing"  # one node exchanges nothing with others
    slow = made(clips_per_core=1)
    assert slow.hours == slow.decoding_hours > slow.computing_hours
    assert slow.gpu_hours == pytest.approx(16 * slow.hours)  # they wait, and are paid for


@pytest.mark.parametrize("changes, field, sign", [
    ({"mfu": 0.8}, "computing_hours", -1), ({"epochs": 20}, "computing_hours", 1), ({"clips": 2e6}, "reading_hours", 1),
    ({"clips_per_core": 200}, "decoding_hours", -1), ({"cores_per_gpu": 20}, "decoding_hours", -1),
    ({"cores_per_gpu": 20}, "cores_per_gpu", 0), ({"kb_per_clip": 900}, "read_gb_per_second", 1),
    ({"rows": 500}, "exchanging_hours", -1), ({"rows": 500}, "computing_hours", 0),
    ({"gpus_per_node": 4}, "exchanging_hours", 1), ({"mfu": 0.8}, "cores_per_gpu", 1),
])
def test_more_of_something_moves_what_it_should(changes: dict[str, float], field: str, sign: int) -> None:
    before, after = getattr(made(), field), getattr(made(**changes), field)
    assert (after > before) - (after < before) == sign


def test_more_gpus_take_less_time_and_as_many_gpu_hours() -> None:
    few, many = made(8, network_gbit=400), made(32, network_gbit=400)
    assert many.computing_hours == pytest.approx(few.computing_hours / 4)
    assert many.gpu_hours == pytest.approx(few.gpu_hours)


def test_the_papers_hours_and_back() -> None:
    report = cost(inputs(), MODEL, [8, 32], "h100")
    share = report["paper"]["mfu_unshared"]
    # 20 M clips of 1.8 TFLOP in 3,840 hours of 312 TFLOP/s, whatever the GPU of the plans is
    assert share == pytest.approx(20e6 * 1.8e12 / (3840 * 3600 * 312e12))
    assert gpu_hours(20e6, 300.0, share, 312.0) == pytest.approx(3840)
    assert utilisation(20e6, 300.0, 3840, 312.0) == pytest.approx(share)
    assert report["paper"]["ours_at_that_mfu"] == pytest.approx(3840 * 2 / 3)
    assert report["stored_tb"] == pytest.approx(0.1) and report["read_tb"] == pytest.approx(10)
    assert [row["gpus"] for row in report["plans"]] == [8, 32]


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    cli(["cost", *TINY, "--gpus", "8", "--mfu", "0.2", "--clips-per-core", "50", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["inputs"]["mfu"] == {"value": 0.2, "unit": "of the GPU's peak", "source": "given"}
    assert report["inputs"]["clips"]["source"].startswith("published")
    assert report["plans"][0]["gpus"] == 8 and report["tokens"] == 30
    cli(["cost", *TINY, "--gpu", "h100"])
    out = capsys.readouterr().out
    assert "8 H100" in out and "32 H100" in out and "bottleneck" in out and "3,840 A100-hours" in out
    for name, entry in DEFAULTS.items():
        assert f"--{name.replace('_', '-')}" in out and entry.source in out


def bench_file(path: Path, **changes: object) -> str:
    rows = {OPENED: 250.0, READ: 60.0, STORED: 80.0, UTILISATION: 30.0}
    figures = [{"part": "p", "what": what, "value": value, "unit": ""} for what, value in rows.items()]
    path.write_text(json.dumps({"device": "one A100", "date": "2026-11-23 12:00", "figures": figures} | changes))
    return str(path)


def test_a_bench_is_taken_and_options_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = bench_file(tmp_path / "bench.json")
    cli(["cost", *TINY, "--bench", path, "--kb-per-clip", "70", "--json"])
    found = json.loads(capsys.readouterr().out)["inputs"]
    values = {name: found[name]["value"] for name in ("clips_per_core", "kb_per_clip", "mb_per_hour", "mfu")}
    assert values == pytest.approx({"clips_per_core": 250, "kb_per_clip": 70, "mb_per_hour": 80, "mfu": 0.3})
    assert path in found["mfu"]["source"] and "one A100" in found["mfu"]["source"]
    assert found["kb_per_clip"]["source"] == "given"


def test_the_share_of_the_peak_of_another_gpu_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]
                                                                   ) -> None:
    path = bench_file(tmp_path / "bench.json")
    cli(["cost", *TINY, "--bench", path, "--gpu", "h100", "--json"])
    found = json.loads(capsys.readouterr().out)["inputs"]
    assert found["mfu"]["value"] == 0.35 and found["mfu"]["unit"] == DEFAULTS["mfu"].unit
    assert found["mfu"]["source"] == f"ASSUMED: {path} is of one A100, not of --gpu h100, so its 30 % are left out"
    assert found["clips_per_core"]["value"] == 250


def test_a_check_of_a_gpu_is_taken_with_its_device_and_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON of `make gpu-check` has more fields, and the share of the peak may be its only figure that counts."""
    rows = [{"part": "step", "what": "rate, 64 clips", "value": 300.0, "unit": "clips/s", "bound": "", "ratio": None},
            {"part": "step", "what": UTILISATION, "value": 41.0, "unit": "%", "bound": "", "ratio": 0.41}]
    path = bench_file(tmp_path / "gpu-check.json", figures=rows, device="NVIDIA H200", driver="580", size="full",
                      parts=[{"name": "step", "seconds": 100.0, "outcome": "ok"}])
    cli(["cost", *TINY, "--bench", path, "--gpu", "h200"])
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if "--mfu" in line)
    assert "0.41" in line and line.endswith(f"measured on NVIDIA H200, 2026-11-23 12:00: {path}")
    assert "8 H200" in out and "ASSUMED" not in out
    cli(["cost", *TINY, "--bench", path])
    assert "is of NVIDIA H200, not of --gpu a100, so its 41 % are left out" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, problem", [
    (["--mfu", "35"], "--mfu 35: give a finite number above 0, 1 at most"),
    (["--mfu", "0"], "--mfu 0: give a finite number above 0"),
    (["--clips-per-core", "nan"], "--clips-per-core nan: give a finite number above 0"),
    (["--gpus", "8", "0"], "--gpus 0: give a whole number, 1 or more"),
    (["--gpus-per-node", "2.5"], "--gpus-per-node 2.5: give a whole number"),
    (["--config", "nowhere.yaml"], "--config nowhere.yaml is missing"),
    (["--bench", "nowhere.json"], "--bench: nowhere.json can't be read: No such file.*JSON of `egovlpv2 bench`"),
])
def test_what_a_user_gets_wrong_is_one_line(arguments: list[str], problem: str) -> None:
    with pytest.raises(SystemExit, match=problem):
        cli(["cost", *TINY, *arguments])


def test_a_bench_without_these_figures_is_refused(tmp_path: Path) -> None:
    path = bench_file(tmp_path / "bench.json", figures=[{"what": "other", "value": 1}])
    with pytest.raises(SystemExit, match="has none of the figures that count"):
        cli(["cost", *TINY, "--bench", path])


@pytest.mark.parametrize(("changes", "problem"), [
    ({"figures": [{"what": OPENED, "value": "fast"}]}, r"figures\[0\].value: Expected `float`, got `str`"),
    ({"figures": [{"what": OPENED, "value": 1}] * 2}, "what '.*' is there twice, first in figures"),
    ({"device": None}, "device: Expected `str`, got `null`"), ({"figures": {}}, "figures: Expected `array`"),
])
def test_a_damaged_bench_is_named(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    path = bench_file(tmp_path / "bench.json", **changes)
    with pytest.raises(SystemExit, match=f"--bench:? {path}.*{problem}"):
        cli(["cost", *TINY, "--bench", path])

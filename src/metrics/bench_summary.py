"""What cutting a QFVS video into segments costs, and scoring a summary of it: `egovlpv2 bench summary`."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from egovlpv2.grounding.segmentation import kts
from egovlpv2.metrics.functional import semantic_f1
from numpy.typing import NDArray

SHOTS, WIDTH, CONCEPTS = 3692, 768, 48  # of the longest official video, and of the dictionary
SEGMENTS, LONGEST = 20, 199
TAGS = 4  # concepts of a shot, on average
SIZES = (74, 300)  # shots of a summary: 2 % of that video, and more

Array = NDArray[np.float64]


def made_up_shots(rng: np.random.Generator) -> tuple[Array, NDArray[np.int64]]:
    """Features of shots that look alike between drawn change points, and those points."""
    swings = rng.integers(0, 14, SEGMENTS)
    lengths = SHOTS // SEGMENTS + np.where(np.arange(SEGMENTS) % 2, swings, -np.roll(swings, -1))  # sums stay
    lengths[: SHOTS - lengths.sum()] += 1
    places = np.repeat(rng.standard_normal((SEGMENTS, WIDTH)), lengths, axis=0)
    features = places + 2 * rng.standard_normal((SHOTS, WIDTH))
    return features / np.linalg.norm(features, axis=1, keepdims=True), lengths.cumsum()[:-1]


def measure_kts() -> None:
    """Prints seconds, peak memory and that of before in GB, of this process."""
    features, expected = made_up_shots(np.random.default_rng(0))
    before = _peak()
    begin = time.perf_counter()
    points, _ = kts(features @ features.T, SEGMENTS - 1, max_segment=LONGEST)
    seconds = time.perf_counter() - begin
    assert np.array_equal(points, expected), (points, expected)
    print(seconds, _peak(), before)


def _peak() -> float:
    """The most memory that this process has held, GB. `getrusage` would count that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e6 for line in lines if line.startswith("VmHWM:"))  # kB -> GB


def made_up_summaries(rng: np.random.Generator, size: int) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
    """The tags of a video, and two summaries of it."""
    tags = (rng.random((SHOTS, CONCEPTS)) < TAGS / CONCEPTS).astype(np.float64)
    return tags, *(np.sort(rng.choice(SHOTS, size, replace=False)) for _ in range(2))


def graph_matching(tags: Array, machine: NDArray[np.int64], oracle: NDArray[np.int64]) -> float:
    """The sum of weights that a matching of a general graph finds, from the same IoUs."""
    import networkx

    shared = tags[machine] @ tags[oracle].T  # (m, o)
    union = tags[machine].sum(1)[:, None] + tags[oracle].sum(1) - shared
    overlap = np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0).tolist()
    graph = networkx.Graph()
    graph.add_weighted_edges_from((("machine", i), ("oracle", j), weight) for i, row in enumerate(overlap)
                                  for j, weight in enumerate(row))
    return sum(graph.edges[pair]["weight"] for pair in networkx.max_weight_matching(graph, maxcardinality=True))


def _seconds(compute: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    begin = time.perf_counter()
    for _ in range(repeats):
        found = compute()
    return (time.perf_counter() - begin) / repeats, found


def main(argv: list[str] | None = None) -> None:
    """Prints what segments of a video cost, and how long ours and a general matching take for a score."""
    argparse.ArgumentParser("egovlpv2 bench summary", description=__doc__).parse_args(argv)
    try:
        import networkx  # noqa: F401
    except ImportError as error:
        raise ValueError("egovlpv2 bench summary compares with networkx: `pip install networkx`") from error
    one_thread = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    code = f"from {__spec__.name} import measure_kts; measure_kts()"
    printed = subprocess.run([sys.executable, "-c", code], env=one_thread, check=True, capture_output=True, text=True)
    seconds, peak, before = map(float, printed.stdout.split())
    print(f"KTS, {SHOTS} shots, {SEGMENTS - 1} change points, segments of up to {LONGEST}, 1 thread: {seconds:.2f} s; "
          f"peak of the process {peak:.2f} GB, {before:.2f} GB before")
    for size in SIZES:
        summaries = made_up_summaries(np.random.default_rng(size), size)
        ours, scores = _seconds(lambda s=summaries: semantic_f1(*s), 50)
        general, total = _seconds(lambda s=summaries: graph_matching(*s), 1)
        assert abs(scores[0] * size - total) < 1e-9, (scores[0] * size, total)
        print(f"score of a summary, {size} x {size} shots: {1e3 * ours:.2f} ms; a general matching {general:.2f} s: "
              f"{general / ours:.0f}x")

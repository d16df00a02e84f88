"""Cost of segmenting a QFVS video and of scoring a summary of it: `egovlpv2 bench summary`."""

import os
import subprocess
import sys
import time

import numpy as np
from numpy.typing import NDArray

from egovlpv2.bench.measure import BenchOptions, Figure, in_turn, peak_gb
from egovlpv2.heads.kts import kts
from egovlpv2.metrics.summary import semantic_f1

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
    before = peak_gb()
    begin = time.perf_counter()
    points, _ = kts(features @ features.T, SEGMENTS - 1, max_segment=LONGEST)
    seconds = time.perf_counter() - begin
    assert np.array_equal(points, expected), (points, expected)
    print(seconds, peak_gb(), before)


def made_up_summaries(rng: np.random.Generator, size: int) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
    """The tags of a video, and two summaries of it."""
    tags = (rng.random((SHOTS, CONCEPTS)) < TAGS / CONCEPTS).astype(np.float64)
    machine, oracle = (np.sort(rng.choice(SHOTS, size, replace=False)) for _ in range(2))
    return tags, machine, oracle


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


def measure(options: BenchOptions) -> list[Figure]:
    """Time and memory of segmenting a video, and time of a score beside a general matching's."""
    try:
        import networkx  # noqa: F401
    except ImportError as error:
        raise ValueError("egovlpv2 bench summary compares with networkx: `pip install networkx`") from error
    one_thread = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    code = f"from {__name__} import measure_kts; measure_kts()"
    printed = subprocess.run([sys.executable, "-c", code], env=one_thread, check=True, capture_output=True, text=True)
    seconds, peak, before = map(float, printed.stdout.split())
    table = SHOTS**2 * 8 / 1e9  # GB
    what = f"KTS of {SHOTS:,} shots, {SEGMENTS - 1} change points, segments of up to {LONGEST}, 1 thread"
    return [Figure("summary", what, seconds, "s", "memory"),
            Figure("summary", "memory of KTS beyond what the process held", peak - before, "GB",
                   f"memory: a table of shots x shots {table:.2f} GB", (peak - before) / table),
            *map(_measure_score, SIZES)]


def _measure_score(size: int) -> Figure:
    summaries, repeats, totals = made_up_summaries(np.random.default_rng(size), size), 50, []
    ours, general = in_turn([lambda: [semantic_f1(*summaries) for _ in range(repeats)],
                             lambda: totals.append(graph_matching(*summaries))], rounds=1)
    assert abs(semantic_f1(*summaries)[0] * size - totals[0]) < 1e-9, totals
    ours /= repeats
    return Figure("summary", f"score of a summary, {size} x {size} shots", 1e3 * ours, "ms",
                  f"one core: a general matching {general:.2f} s", ours / general)

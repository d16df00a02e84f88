"""Cost of scoring Ego4D NLQ and MQ: `egovlpv2 bench moments`."""

from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from egovlpv2.bench.measure import BenchOptions, Figure, in_turn
from egovlpv2.io.schema import read_json
from egovlpv2.metrics.moments import MQ_MAP_TIOUS, NLQ_THRESHOLDS, NLQ_TOPK
from egovlpv2.metrics.temporal import moment_map, nlq_recall, temporal_iou

QUERIES = 3875  # of the official validation set
CLIPS, LABELS, DETECTIONS = 40, 20, 2244  # as many as in the reference figures

Table = dict[str, Any]


def made_up_queries(rng: np.random.Generator) -> tuple[list[Table], Table]:
    """Predictions and ground truth of NLQ, as many as the official validation has."""
    start = rng.uniform(0, 400, QUERIES)
    window = np.column_stack([start, start + rng.uniform(0.5, 30, QUERIES)])
    times = window[:, None] + rng.normal(0, 8, (QUERIES, 5, 2))
    rows = [{"clip_start_sec": a, "clip_end_sec": b} for a, b in window.tolist()]
    truth = {"videos": [{"clips": [{"clip_uid": "c", "annotations": [{"annotation_uid": "a", "language_queries": rows}]}
                                   ]}]}
    predictions = [{"clip_uid": "c", "annotation_uid": "a", "query_idx": i, "predicted_times": np.sort(row).tolist()}
                   for i, row in enumerate(times)]
    return predictions, truth


def made_up_moments(rng: np.random.Generator) -> tuple[Table, Table]:
    """Detections and ground truth of MQ."""
    truth: Table = {f"c{i}": {"annotations": []} for i in range(CLIPS)}
    found: Table = {clip: [] for clip in truth}
    for i in range(DETECTIONS):
        clip, label, start = f"c{i % CLIPS}", f"l{rng.integers(LABELS)}", float(rng.uniform(0, 400))
        segment = [start, start + float(rng.uniform(1, 40))]
        found[clip].append({"label": label, "segment": segment, "score": float(rng.random())})
        if i % 14 == 0:
            truth[clip]["annotations"].append({"label": label, "segment": [segment[0] + 1, segment[1] + 2]})
    return found, truth


def plain_recall(predictions: list[Table], truth: Table) -> list[list[float]]:
    """NLQ's score, a query at a time."""
    hits: list[list[list[Any]]] = [[[] for _ in NLQ_TOPK] for _ in NLQ_THRESHOLDS]
    queries = truth["videos"][0]["clips"][0]["annotations"][0]["language_queries"]
    for row in predictions:
        query = queries[row["query_idx"]]
        overlap = temporal_iou(np.array(row["predicted_times"]),
                               np.array([query["clip_start_sec"], query["clip_end_sec"]]))
        for i, threshold in enumerate(NLQ_THRESHOLDS):
            for j, k in enumerate(NLQ_TOPK):
                hits[i][j].append((overlap > threshold)[:k].any())
    return [[float(np.mean(row)) for row in rows] for rows in hits]


def plain_map(found: Table, truth: Table) -> list[float]:
    """MQ's mean average precision as ActivityNet's evaluation goes about it: data frames, a detection at a time."""
    gt = pd.DataFrame([(clip, row["label"], *row["segment"]) for clip, entry in truth.items()
                         for row in entry["annotations"]], columns=["clip", "label", "start", "end"])
    rows = pd.DataFrame([(clip, row["label"], *row["segment"], row["score"]) for clip, entry in found.items()
                         for row in entry], columns=["clip", "label", "start", "end", "score"])
    precisions = [_plain_precision(gt[gt.label == label].reset_index(drop=True), rows[rows.label == label])
                  for label in sorted(set(gt.label))]
    return np.mean(precisions, axis=0).tolist()


def _plain_precision(gt: pd.DataFrame, rows: pd.DataFrame) -> list[float]:
    rows = rows.sort_values("score", ascending=False).reset_index(drop=True)
    by_clip, taken = gt.groupby("clip"), np.zeros((len(MQ_MAP_TIOUS), len(gt)), dtype=bool)
    hits = np.zeros((len(MQ_MAP_TIOUS), len(rows)))
    for place, row in rows.iterrows():
        if row["clip"] not in by_clip.groups:
            continue
        mine = by_clip.get_group(row["clip"])
        overlap = temporal_iou(mine[["start", "end"]].to_numpy(), np.array([row.start, row.end]))
        for i, tiou in enumerate(MQ_MAP_TIOUS):
            for j in overlap.argsort()[::-1]:
                if overlap[j] < tiou:
                    break
                if not taken[i, mine.index[j]]:
                    taken[i, mine.index[j]] = hits[i, place] = True
                    break
    precision = hits.cumsum(1) / np.arange(1, len(rows) + 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return ((best * hits).sum(1) / len(gt)).tolist()


def lean_map(found: Table, truth: Table) -> list[float]:
    """The same without data frames: dictionaries and floats, nothing looked up twice."""
    gt: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for clip, entry in truth.items():
        for row in entry["annotations"]:
            gt.setdefault(row["label"], {}).setdefault(clip, []).append(tuple(row["segment"]))
    rows: dict[str, list[tuple[float, str, float, float]]] = {label: [] for label in gt}
    for clip, entry in found.items():
        for row in entry:
            if row["label"] in rows:
                rows[row["label"]].append((-row["score"], clip, *row["segment"]))
    scores = [[_lean_precision(gt[label], sorted(rows[label], key=lambda row: row[0]), tiou) for label in gt]
              for tiou in MQ_MAP_TIOUS]
    return [sum(values) / len(values) for values in scores]


def _lean_precision(gt: dict[str, list[tuple[float, float]]], rows: list[tuple[float, str, float, float]],
                    tiou: float) -> float:
    free, hits = {clip: list(segments) for clip, segments in gt.items()}, []
    for _, clip, start, end in rows:
        best, overlap = None, tiou
        for segment in free.get(clip, ()):
            inter = max(min(end, segment[1]) - max(start, segment[0]), 0.0)
            iou = inter / (max(end, segment[1]) - min(start, segment[0]))
            if iou >= overlap:
                best, overlap = segment, iou
        if best is not None:
            free[clip].remove(best)
        hits.append(best is not None)
    total, highest = sum(hits), 0.0
    area = 0.0
    for place in range(len(hits), 0, -1):
        if hits[place - 1]:
            highest = max(highest, total / place)
            area += highest
            total -= 1
    return area / sum(map(len, gt.values()))


class _Told(TypedDict):
    label: str
    start_time: float
    end_time: float


class _Truth(TypedDict):
    annotations: list[_Told]


class _Detected(TypedDict):
    label: str
    score: float
    segment: tuple[float, float]


class _Scored(TypedDict):
    """The part of a file that is scored."""

    predictions: dict[str, list[_Detected]]
    ground_truth: dict[str, _Truth]


def _read(path: Path) -> tuple[Table, Table]:
    try:
        content = read_json(path, _Scored)
    except ValueError as error:
        raise ValueError(f"--file {path} can't be scored ({error}): give a JSON with MQ's `predictions` and "
                         "`ground_truth`") from error
    truth = {clip: {"annotations": [{"label": row["label"], "segment": [row["start_time"], row["end_time"]]}
                                    for row in entry["annotations"]]}
             for clip, entry in content["ground_truth"].items()}
    return content["predictions"], truth


def measure(options: BenchOptions) -> list[Figure]:
    """Time our metrics and plain loops over the same definitions."""
    rng = np.random.default_rng(0)
    found, moments = _read(options.file) if options.file else made_up_moments(rng)
    return _measure_queries(rng) + _measure_moments(found, moments)


def _measure_queries(rng: np.random.Generator) -> list[Figure]:
    predictions, windows = made_up_queries(rng)
    recall = nlq_recall(predictions, windows, NLQ_THRESHOLDS, NLQ_TOPK)[0]
    assert np.allclose(recall, plain_recall(predictions, windows))
    ours, loop = in_turn([lambda: nlq_recall(predictions, windows, NLQ_THRESHOLDS, NLQ_TOPK),
                          lambda: plain_recall(predictions, windows)])
    return [Figure("moments", f"recall of NLQ, {QUERIES:,} queries", 1e3 * ours, "ms",
                   f"one core: a query at a time {1e3 * loop:.0f} ms", ours / loop)]


def _measure_moments(found: Table, moments: Table) -> list[Figure]:
    score = moment_map(found, moments, MQ_MAP_TIOUS)
    assert np.allclose(score, plain_map(found, moments)) and np.allclose(score, lean_map(found, moments))
    ours, frames, lean = in_turn([lambda: moment_map(found, moments, MQ_MAP_TIOUS),
                                  lambda: plain_map(found, moments), lambda: lean_map(found, moments)], rounds=5)
    what = f"mAP of MQ, {len(moments)} clips, {sum(map(len, found.values())):,} detections"
    return [Figure("moments", what, 1e3 * ours, "ms", f"one core: data frames {1e3 * frames:.0f} ms", ours / frames),
            Figure("moments", "mAP of MQ once more", 1e3 * ours, "ms", f"one core: a lean loop {1e3 * lean:.1f} ms",
                   ours / lean)]

"""Metrics of moments in time, on Ego4D's official dictionaries: natural language queries and moment queries.

Letters: `K` pairs of a clip and a label, `P` detections of one, `G` true instances of one, `R` thresholds.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Key = tuple[str, str]  # clip and label
Rows = dict[Key, list[tuple[float, ...]]]


def temporal_iou(a: Array, b: Array) -> Array:
    """Temporal IoU of segments (..., 2) that broadcast; nan if both are the same point in time."""
    inter = (np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])).clip(min=0)
    union = np.maximum(a[..., 1], b[..., 1]) - np.minimum(a[..., 0], b[..., 0])
    with np.errstate(invalid="ignore"):
        return inter / union


def nlq_recall(predictions: Sequence[Mapping[str, Any]], ground_truth: Mapping[str, Any],
               thresholds: Sequence[float], topk: Sequence[int]) -> tuple[list[list[float]], float]:
    """Ego4D NLQ's official score.

    Args:
        predictions: The `results` of a submission.
        ground_truth: An official `nlq_val.json`.
        thresholds: A prediction hits if its temporal IoU is greater than that; one of zero length never does.
        topk: How many predictions of a query count.

    Returns:
        `recall[threshold][k]`, and the mean temporal IoU of first predictions.

    Raises:
        ValueError: A prediction is of a query that the ground truth doesn't have, or there is none.
    """
    windows = {
        (clip["clip_uid"], annotation["annotation_uid"], i): (query["clip_start_sec"], query["clip_end_sec"])
        for video in ground_truth["videos"] for clip in video["clips"] for annotation in clip["annotations"]
        for i, query in enumerate(annotation["language_queries"])
    }
    keys = [(p["clip_uid"], p["annotation_uid"], p["query_idx"]) for p in predictions]
    if missing := [key for key in keys if key not in windows]:
        raise ValueError(f"{len(missing)} predictions are of no query of the ground truth; the first: {missing[0]}.")
    if not keys:
        raise ValueError("There are no predictions.")
    times = _padded([p["predicted_times"] for p in predictions], 2)  # (Q, P, 2)
    overlap = np.nan_to_num(temporal_iou(times, np.array([windows[key] for key in keys])[:, None]))  # (Q, P)
    recall = [[float((overlap[:, :k] > threshold).any(1).mean()) for k in topk] for threshold in thresholds]
    return recall, float(overlap[:, 0].mean())


def moment_map(predictions: Mapping[str, Sequence[Mapping[str, Any]]], ground_truth: Mapping[str, Mapping[str, Any]],
               tious: Sequence[float]) -> list[float]:
    """Ego4D MQ's mean average precision (ActivityNet's: interpolated, the mean over true classes).

    Args:
        predictions: Detections of each clip, the `results` of a submission.
        ground_truth: A `clip_annotations.json`, either spelling of times.
        tious: Thresholds: a detection hits with at least that temporal IoU.

    Returns:
        The mean average precision at each threshold, 0 to 1.
    """
    truth = _instances(ground_truth)
    count = Counter(label for (_, label), segments in truth.items() for _ in segments)
    label_of, key_of = ({name: i for i, name in enumerate(names)} for names in (count, truth))
    rows = [(label_of[row["label"]], key_of.get((clip, row["label"]), -1), *row["segment"], row["score"])
            for clip, found in predictions.items() for row in found if row["label"] in label_of]
    if not rows:
        return [0.0] * len(tious)
    table = np.array(rows)  # (n, 5): label, clip and label or -1, start, end, score
    table = table[np.lexsort((-table[:, 4], table[:, 0]))]  # label by label, the best first
    hits = np.zeros((len(tious), len(table)), dtype=bool)  # (R, n)
    mine = (table[:, 1] >= 0).nonzero()[0]  # a clip without the label holds no hit
    key = table[mine, 1].astype(int)
    place = _places(key)
    detected = np.full((len(truth), place.max(initial=-1) + 1, 2), np.nan)  # (K, P, 2)
    detected[key, place] = table[mine, 2:4]
    hits[:, mine] = _first_hits(detected, _padded(list(truth.values()), 2), np.asarray(tious))[:, key, place]
    labels = table[:, 0].astype(int)
    return (_interpolated_sums(hits, labels, len(count)) / np.array([*count.values()])).mean(1).tolist()


def moment_recall(predictions: Mapping[str, Sequence[Mapping[str, Any]]],
                  ground_truth: Mapping[str, Mapping[str, Any]], tious: Sequence[float],
                  topk: Sequence[int]) -> list[list[float]]:
    """Ego4D MQ's recall at kx: of a clip's n instances of a class, how many do its k * n best detections find?

    Returns:
        `recall[tiou][k]`, 0 to 1.
    """
    truth, found = _instances(ground_truth), _detections(predictions)
    detected = _padded([found.get(key, []) for key in truth], 3)[..., :2]  # (K, P, 2)
    overlap = np.nan_to_num(temporal_iou(detected[:, :, None], _padded(list(truth.values()), 2)[:, None]))  # (K, P, G)
    counts = np.array([len(segments) for segments in truth.values()])  # (K,)
    places = np.arange(detected.shape[1])[:, None]  # (P, 1)
    best = [np.where(places < k * counts[:, None, None], overlap, 0.0).max(1, initial=0.0) for k in topk]  # (K, G) each
    return [[float((overlaps >= tiou).sum() / counts.sum()) for overlaps in best] for tiou in tious]


def _first_hits(detected: Array, truth: Array, tious: Array) -> NDArray[np.bool_]:
    """Detections (K, P, 2) from best to worst take the free instance (K, G, 2) they overlap most: (R, K, P) hits."""
    overlap = temporal_iou(detected[:, :, None], truth[:, None])  # (K, P, G), nan where there is none
    free = np.ones((len(tious), len(truth), truth.shape[1]), dtype=bool)  # (R, K, G)
    hits = np.zeros((len(tious), *detected.shape[:2]), dtype=bool)
    for place in range(detected.shape[1] if truth.shape[1] else 0):
        fits = np.where(free & (overlap[:, place] >= tious[:, None, None]), overlap[:, place], -1.0)  # (R, K, G)
        hits[:, :, place] = fits.max(-1) >= 0
        threshold, pair = hits[:, :, place].nonzero()
        free[threshold, pair, fits.argmax(-1)[threshold, pair]] = False
    return hits


def _places(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """The how-manieth of its key each entry is, from 0."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    places = np.empty_like(keys)
    places[order] = np.arange(len(keys)) - np.searchsorted(ordered, ordered)
    return places


def _interpolated_sums(hits: NDArray[np.bool_], labels: NDArray[np.int64], count: int) -> Array:
    """The sums of interpolated precisions at the hits of rankings (R, n) that lie label by label: (R, count)."""
    first = np.searchsorted(labels, labels)  # (n,), where the label's ranking begins
    before = np.pad(hits.cumsum(1), ((0, 0), (1, 0)))  # (R, n + 1)
    precision = (before[:, 1:] - before[:, first]) / (np.arange(len(labels)) - first + 1)
    # Lifted by whole numbers, a label's precisions lie above those of all labels behind it: no maximum crosses over.
    lift = 2.0 * (count - labels)
    best = np.maximum.accumulate((precision + lift)[:, ::-1], axis=1)[:, ::-1] - lift
    starts, there = np.unique(labels, return_index=True)[::-1]
    sums = np.zeros((len(hits), count))
    sums[:, there] = np.add.reduceat(best * hits, starts, axis=1)
    return sums


def _instances(ground_truth: Mapping[str, Mapping[str, Any]]) -> Rows:
    found: Rows = {}
    for clip, entry in ground_truth.items():
        for row in entry["annotations"]:
            segment = row["segment"] if "segment" in row else (row["start_time"], row["end_time"])
            found.setdefault((clip, row["label"]), []).append(tuple(segment))
    return found


def _detections(predictions: Mapping[str, Sequence[Mapping[str, Any]]]) -> Rows:
    """Start, end and score of each detection, the best first."""
    found: Rows = {}
    for clip, rows in predictions.items():
        for row in rows:
            found.setdefault((clip, row["label"]), []).append((*row["segment"], row["score"]))
    for scored in found.values():
        scored.sort(key=lambda row: -row[2])
    return found


def _padded(lists: Sequence[Sequence[Sequence[float]]], width: int) -> Array:
    """Lists of rows as one array (n, longest, width), filled up with nan."""
    out = np.full((len(lists), max(map(len, lists), default=0), width), np.nan)
    for row, values in zip(out, lists, strict=True):
        if values:
            row[: len(values)] = values
    return out

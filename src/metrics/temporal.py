"""Metrics of Ego4D's natural language queries and moment queries, on the official dictionaries.

Letters: `K` pairs of a clip and a label, `P` detections of a pair, `G` true instances of a pair, `R` thresholds.
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
    """Compute the temporal IoU of broadcastable segments (..., 2); NaN if both are the same point in time."""
    inter = (np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])).clip(min=0)
    union = np.maximum(a[..., 1], b[..., 1]) - np.minimum(a[..., 0], b[..., 0])
    with np.errstate(invalid="ignore"):
        return inter / union


def nlq_recall(predictions: Sequence[Mapping[str, Any]], ground_truth: Mapping[str, Any],
               thresholds: Sequence[float], topk: Sequence[int]) -> tuple[list[list[float]], float]:
    """Compute Ego4D NLQ's official recall and mean IoU.

    Args:
        predictions: The `results` of a submission.
        ground_truth: The content of an official `nlq_val.json`.
        thresholds: Temporal IoUs that a hit must exceed.
        topk: Numbers of best predictions of a query that count.

    Returns:
        `recall[threshold][k]`, 0 to 1, and the mean temporal IoU of first predictions.

    Raises:
        ValueError: The ground truth lacks the query of a prediction, or there are no predictions.
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
    """Compute Ego4D MQ's mean average precision, as ActivityNet: interpolated, averaged over the true classes.

    Args:
        predictions: Detections of each clip, the `results` of a submission.
        ground_truth: The content of a `clip_annotations.json`, in either spelling of times.
        tious: Minimum temporal IoUs of a hit.

    Returns:
        The mean average precision at each threshold, 0 to 1.
    """
    truth = _instances(ground_truth)
    count = Counter(label for (_, label), segments in truth.items() for _ in segments)
    label_of, key_of = ({name: i for i, name in enumerate(names)} for names in (count, truth))
    rows = [(label_of[row["label"]], key_of.get((clip, row["label"]), -1), *row["segment"], row["score"])
            for clip, detected in predictions.items() for row in detected if row["label"] in label_of]
    if not rows:
        return [0.0] * len(tious)
    table = np.array(rows)  # (n, 5): label, pair of clip and label or -1, start, end, score
    table = table[np.lexsort((-table[:, 4], table[:, 0]))]  # sorted by label, best first
    hits = np.zeros((len(tious), len(table)), dtype=bool)  # (R, n)
    candidates = (table[:, 1] >= 0).nonzero()[0]  # in clips without the label, no detection is a hit
    key = table[candidates, 1].astype(int)
    rank = _ranks(key)
    segments = np.full((len(truth), rank.max(initial=-1) + 1, 2), np.nan)  # (K, P, 2)
    segments[key, rank] = table[candidates, 2:4]
    hits[:, candidates] = _first_hits(segments, _padded(list(truth.values()), 2), np.asarray(tious))[:, key, rank]
    labels = table[:, 0].astype(int)
    return (_interpolated_sums(hits, labels, len(count)) / np.array([*count.values()])).mean(1).tolist()


def moment_recall(predictions: Mapping[str, Sequence[Mapping[str, Any]]],
                  ground_truth: Mapping[str, Mapping[str, Any]], tious: Sequence[float],
                  topk: Sequence[int]) -> list[list[float]]:
    """Compute Ego4D MQ's recall at kx: the share of a clip's n instances of a class among its k * n best detections.

    Args:
        predictions: Detections of each clip, the `results` of a submission.
        ground_truth: The content of a `clip_annotations.json`, in either spelling of times.
        tious: Minimum temporal IoUs of a hit.
        topk: Values of k.

    Returns:
        `recall[tiou][k]`, 0 to 1.
    """
    truth, by_key = _instances(ground_truth), _detections(predictions)
    detected = _padded([by_key.get(key, []) for key in truth], 3)[..., :2]  # (K, P, 2)
    overlap = np.nan_to_num(temporal_iou(detected[:, :, None], _padded(list(truth.values()), 2)[:, None]))  # (K, P, G)
    counts = np.array([len(segments) for segments in truth.values()])  # (K,)
    ranks = np.arange(detected.shape[1])[:, None]  # (P, 1)
    best = [np.where(ranks < k * counts[:, None, None], overlap, 0.0).max(1, initial=0.0) for k in topk]  # (K, G) each
    return [[float((overlaps >= tiou).sum() / counts.sum()) for overlaps in best] for tiou in tious]


def _first_hits(detected: Array, truth: Array, tious: Array) -> NDArray[np.bool_]:
    """Assign detections, best first, to the unassigned instance that they overlap most.

    Args:
        detected: (K, P, 2), best first.
        truth: (K, G, 2).
        tious: (R,) minimum temporal IoUs.

    Returns:
        (R, K, P), True for an assigned detection.
    """
    overlap = temporal_iou(detected[:, :, None], truth[:, None])  # (K, P, G), NaN on padding
    free = np.ones((len(tious), len(truth), truth.shape[1]), dtype=bool)  # (R, K, G)
    hits = np.zeros((len(tious), *detected.shape[:2]), dtype=bool)
    for rank in range(detected.shape[1] if truth.shape[1] else 0):
        allowed = np.where(free & (overlap[:, rank] >= tious[:, None, None]), overlap[:, rank], -1.0)  # (R, K, G)
        hits[:, :, rank] = allowed.max(-1) >= 0
        threshold, pair = hits[:, :, rank].nonzero()
        free[threshold, pair, allowed.argmax(-1)[threshold, pair]] = False
    return hits


def _ranks(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the entries of each key from 0, in their order."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    ranks = np.empty_like(keys)
    ranks[order] = np.arange(len(keys)) - np.searchsorted(ordered, ordered)
    return ranks


def _interpolated_sums(hits: NDArray[np.bool_], labels: NDArray[np.int64], count: int) -> Array:
    """Sum the interpolated precisions at the hits of each label's ranking: (R, n) sorted by label -> (R, count)."""
    first = np.searchsorted(labels, labels)  # (n,) start of the label's ranking
    before = np.pad(hits.cumsum(1), ((0, 0), (1, 0)))  # (R, n + 1)
    precision = (before[:, 1:] - before[:, first]) / (np.arange(len(labels)) - first + 1)
    # An offset that falls with each label keeps the running maximum, from the end, within a label.
    lift = 2.0 * (count - labels)
    best = np.maximum.accumulate((precision + lift)[:, ::-1], axis=1)[:, ::-1] - lift
    starts, present = np.unique(labels, return_index=True)[::-1]
    sums = np.zeros((len(hits), count))
    sums[:, present] = np.add.reduceat(best * hits, starts, axis=1)
    return sums


def _instances(ground_truth: Mapping[str, Mapping[str, Any]]) -> Rows:
    """Group true segments by clip and label."""
    instances: Rows = {}
    for clip, entry in ground_truth.items():
        for row in entry["annotations"]:
            segment = row["segment"] if "segment" in row else (row["start_time"], row["end_time"])
            instances.setdefault((clip, row["label"]), []).append(tuple(segment))
    return instances


def _detections(predictions: Mapping[str, Sequence[Mapping[str, Any]]]) -> Rows:
    """Group detections (start, end, score) by clip and label, best first."""
    detections: Rows = {}
    for clip, rows in predictions.items():
        for row in rows:
            detections.setdefault((clip, row["label"]), []).append((*row["segment"], row["score"]))
    for scored in detections.values():
        scored.sort(key=lambda row: -row[2])
    return detections


def _padded(lists: Sequence[Sequence[Sequence[float]]], width: int) -> Array:
    """Stack lists of rows into an array (n, longest, width), padded with NaN."""
    out = np.full((len(lists), max(map(len, lists), default=0), width), np.nan)
    for row, values in zip(out, lists, strict=True):
        if values:
            row[: len(values)] = values
    return out

"""Metrics of query-focused summaries (Sharghi et al., CVPR 2017): what chosen shots show, not which they are."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment


def semantic_f1(tags: ArrayLike, machine: ArrayLike, oracle: ArrayLike) -> tuple[float, float, float]:
    """Precision, recall and F1 of a summary, 0 to 1: shots are paired so that the IoUs of their concepts sum to most.

    Args:
        tags: (n, C) 0 or 1, the concepts that each shot of the video shows.
        machine: Rows of `tags`, from 0: the shots that were chosen.
        oracle: Those that should have been.

    Raises:
        ValueError: A shot lies outside the video.
    """
    tags = np.asarray(tags, dtype=np.float64)
    chosen, wanted = (np.asarray(shots, dtype=np.int64) for shots in (machine, oracle))
    for shots in (chosen, wanted):
        if len(shots) and not 0 <= shots.min() <= shots.max() < len(tags):
            raise ValueError(f"shots {shots.min()} to {shots.max()} don't all lie in a video of {len(tags)} shots, "
                             "counted from 0")
    if not len(chosen) or not len(wanted):
        return 0.0, 0.0, 0.0
    shared = tags[chosen] @ tags[wanted].T  # (m, o)
    union = tags[chosen].sum(1)[:, None] + tags[wanted].sum(1) - shared
    overlap = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    total = overlap[linear_sum_assignment(overlap, maximize=True)].sum()
    precision, recall = total / len(chosen), total / len(wanted)
    return precision, recall, 2 * precision * recall / (precision + recall) if total else 0.0

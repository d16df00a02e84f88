"""Metrics of query-focused summaries (Sharghi et al., CVPR 2017), which compare the concepts that shots show.

Letters: `n` shots of a video, `C` concepts, `B` queries.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def select(scores: ArrayLike, share: float, round_down: bool = False) -> NDArray[np.int64]:
    """Select the shots of highest score, at least one; of equal scores the earlier ones.

    Args:
        scores: (n,) of the shots of a video.
        share: Share of the shots to select.
        round_down: Round their number down instead of to the nearest.

    Returns:
        Rows of the selected shots, ascending.
    """
    values = np.asarray(scores)
    count = max(1, int(share * len(values)) if round_down else round(share * len(values)))
    return np.sort(np.argsort(-values, kind="stable")[:count])


def semantic_f1(tags: ArrayLike, machine: ArrayLike, oracle: ArrayLike) -> tuple[float, float, float]:
    """Compute precision, recall and F1 of a summary, 0 to 1, from the best matching of shots by IoU of their concepts.

    Args:
        tags: (n, C) 0 or 1, the concepts that each shot of the video shows.
        machine: Rows of the selected shots.
        oracle: Rows of the shots of the oracle summary.

    Raises:
        ValueError: A shot lies outside the video.
    """
    concepts = np.asarray(tags, dtype=np.float64)
    selected, target = (np.asarray(shots, dtype=np.int64) for shots in (machine, oracle))
    for shots in (selected, target):
        if len(shots) and not 0 <= shots.min() <= shots.max() < len(concepts):
            raise ValueError(f"shots {shots.min()} to {shots.max()} don't all lie in a video of {len(concepts)} shots, "
                             "counted from 0")
    if not len(selected) or not len(target):
        return 0.0, 0.0, 0.0
    shared = concepts[selected] @ concepts[target].T  # (m, o)
    union = concepts[selected].sum(1)[:, None] + concepts[target].sum(1) - shared
    overlap = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    total = overlap[linear_sum_assignment(overlap, maximize=True)].sum()
    precision, recall = total / len(selected), total / len(target)
    return precision, recall, 2 * precision * recall / (precision + recall) if total else 0.0


class SummaryF1(Metric):
    """QFVS's precision, recall and F1 of summaries in %, averaged over queries; `random_f1` is a baseline's."""

    full_state_update = False
    index: list[Tensor]  # (B,)
    scores: list[Tensor]  # (B, 4): precision, recall, F1; F1 of random shots

    def __init__(self) -> None:
        super().__init__()
        self.add_state("index", default=[], dist_reduce_fx="cat")
        self.add_state("scores", default=[], dist_reduce_fx="cat")

    def update(self, index: Tensor, selected: Sequence[ArrayLike], oracle: Sequence[ArrayLike],
               tags: Sequence[Tensor], drawn: Sequence[ArrayLike] | None = None) -> None:
        """Add queries.

        Args:
            index: (B,) rows of the queries.
            selected: Rows of the selected shots, for each query.
            oracle: Rows of the shots of the oracle summary, for each query.
            tags: (n, C) 0 or 1, the concepts that the shots of the video show, for each query.
            drawn: Rows of random shots, for each query; None leaves out `random_f1`.
        """
        rows = []
        for i, (machine, target, concepts) in enumerate(zip(selected, oracle, tags, strict=True)):
            shot_tags = concepts.cpu().numpy()
            chance = torch.nan if drawn is None else semantic_f1(shot_tags, drawn[i], target)[2]
            rows.append([*semantic_f1(shot_tags, machine, target), chance])
        assert len(rows) == len(index)
        self.index.append(index)
        self.scores.append(torch.tensor(rows, dtype=torch.float64, device=self.device).reshape(-1, 4))

    def compute(self) -> dict[str, float]:
        """Compute `precision`, `recall`, `f1` and, with random shots, `random_f1`."""
        index, scores = dim_zero_cat(self.index), dim_zero_cat(self.scores)
        assert len(index.unique()) == len(index)
        means = dict(zip(("precision", "recall", "f1", "random_f1"), (100 * scores.mean(0)).tolist(), strict=True))
        return {name: mean for name, mean in means.items() if not np.isnan(mean)}

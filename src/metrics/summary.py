"""Metrics of query-focused summaries (Sharghi et al., CVPR 2017): what chosen shots show, not which they are.

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
    """Rows of the best shots, ascending: a share of (n,) scores, one at least; of equal shots the earlier ones.

    Args:
        scores: Of the shots of a video.
        share: How many are chosen.
        round_down: Whether their number is rounded down, not to the nearest.
    """
    scores = np.asarray(scores)
    count = max(1, int(share * len(scores)) if round_down else round(share * len(scores)))
    return np.sort(np.argsort(-scores, kind="stable")[:count])


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


class SummaryF1(Metric):
    """QFVS: precision, recall and F1 of summaries in %, the means over queries; `random_f1` is that of drawn ones."""

    full_state_update = False
    index: list[Tensor]  # (B,)
    scores: list[Tensor]  # (B, 4): precision, recall, F1; F1 of random shots

    def __init__(self) -> None:
        super().__init__()
        self.add_state("index", default=[], dist_reduce_fx="cat")
        self.add_state("scores", default=[], dist_reduce_fx="cat")

    def update(self, index: Tensor, selected: Sequence[ArrayLike], oracle: Sequence[ArrayLike],
               tags: Sequence[Tensor], drawn: Sequence[ArrayLike] | None = None) -> None:
        """Args:
            index: (B,) the queries' rows.
            selected: Of each query, the rows of the chosen shots.
            oracle: Those of its oracle summary.
            tags: (n, C) 0 or 1, what the shots of its video show.
            drawn: Rows of shots drawn at random; None: `random_f1` is left out.
        """
        rows = []
        for i, (chosen, wanted, shown) in enumerate(zip(selected, oracle, tags, strict=True)):
            shot_tags = shown.cpu().numpy()
            chance = torch.nan if drawn is None else semantic_f1(shot_tags, drawn[i], wanted)[2]
            rows.append([*semantic_f1(shot_tags, chosen, wanted), chance])
        assert len(rows) == len(index)
        self.index.append(index)
        self.scores.append(torch.tensor(rows, dtype=torch.float64, device=self.device).reshape(-1, 4))

    def compute(self) -> dict[str, float]:
        index, scores = dim_zero_cat(self.index), dim_zero_cat(self.scores)
        assert len(index.unique()) == len(index)
        means = dict(zip(("precision", "recall", "f1", "random_f1"), (100 * scores.mean(0)).tolist(), strict=True))
        return {name: mean for name, mean in means.items() if not np.isnan(mean)}

"""EPIC-Kitchens-100 multi-instance retrieval: zero-shot, or fine-tuned with a margin."""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from egovlpv2.losses import adaptive_max_margin, max_margin, symmetric_multi_similarity
from egovlpv2.metrics.ranking import multi_instance_retrieval
from egovlpv2.model.config import BackboneConfig
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.retrieval import Retrieval

LOSSES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "adaptive_max_margin": lambda similarity, relevancy, margin: adaptive_max_margin(
        similarity, relevancy.diagonal(), margin),
    "max_margin": lambda similarity, relevancy, margin: max_margin(similarity, margin),
    "symmetric_multi_similarity": symmetric_multi_similarity,
}


class EK100(Retrieval):
    """Multi-instance retrieval: a sentence may fit many clips, to different degrees.

    Args:
        objective: Loss of fine-tuning (paper: adaptive max-margin).
        margin: Margin of the loss; 0.2 in the paper, 0.6 for symmetric multi-similarity where it was published.
        **kwargs: Arguments of every retrieval task, see `Retrieval`.
    """

    name = "ek100"
    monitored = ("map_avg", "ndcg_avg")

    def __init__(
        self, backbone: BackboneConfig, optimizer: OptimizerConfig,
        objective: Literal["adaptive_max_margin", "max_margin", "symmetric_multi_similarity"] = "adaptive_max_margin",
        margin: float = 0.2, **kwargs: Any,
    ) -> None:
        super().__init__(backbone, optimizer, **kwargs)
        self.objective, self.margin = objective, margin

    @property
    def protocol(self) -> dict[str, Any]:
        return super().protocol | {"objective": self.objective, "margin": self.margin}

    def loss(self, similarity: Tensor, relevancy: Tensor) -> Tensor:
        return LOSSES[self.objective](similarity, relevancy, self.margin)

    def measure(self, scores: Tensor, relevancy: Tensor) -> dict[str, float]:
        return multi_instance_retrieval(scores, relevancy)

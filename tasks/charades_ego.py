"""CharadesEgo: action classes as texts, zero-shot or fine-tuned with EgoNCE."""

from typing import Any, Literal

import torch
from torch import Tensor

from egovlpv2.losses import multi_positive_nce
from egovlpv2.metrics.ranking import charades_map
from egovlpv2.model.config import BackboneConfig
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.retrieval import Retrieval


class CharadesEgo(Retrieval):
    """Retrieval between first-person videos and the names of 157 actions.

    Args:
        positives: The rows that fine-tuning treats as the same action: those of the same `class` (EgoNCE, as in the
            paper) or `none` but the row itself (InfoNCE, as in the released code).
        temperature: Temperature of the cosines.
        **kwargs: Arguments of every retrieval task, see `Retrieval`.
    """

    name = "charades_ego"
    monitored = ("map",)

    def __init__(self, backbone: BackboneConfig, optimizer: OptimizerConfig,
                 positives: Literal["class", "none"] = "class", temperature: float = 0.05, **kwargs: Any) -> None:
        super().__init__(backbone, optimizer, **kwargs)
        self.positives, self.temperature = positives, temperature

    @property
    def protocol(self) -> dict[str, Any]:
        return super().protocol | {"positives": self.positives, "temperature": self.temperature}

    def loss(self, similarity: Tensor, relevancy: Tensor) -> Tensor:
        same = relevancy > 0 if self.positives == "class" else torch.eye(len(relevancy), device=relevancy.device) > 0
        return multi_positive_nce(similarity, same, self.temperature)

    def measure(self, scores: Tensor, relevancy: Tensor) -> dict[str, float]:
        return {"map": 100 * charades_map(scores, relevancy)}

"""EgoMCQ: choose the one of five clips that fits a text, by the dual encoder, the fusion encoder, and both."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.wrappers.abstract import WrapperMetric

from egovlpv2.batch import ChoiceBatch, Difference
from egovlpv2.metrics.egomcq import EgoMCQAccuracy, EgoMCQErrors
from egovlpv2.model.backbone import Backbone
from egovlpv2.model.config import BackboneConfig
from egovlpv2.model.outputs import Trunk
from egovlpv2.tasks.base import BackboneTask
from egovlpv2.tasks.metric_task import MetricTask, Split

SCORES = ("dual", "fusion", "ensemble")
Monitor = Literal["intra", "inter", "mean"]


def choice_scores(backbone: Backbone, batch: ChoiceBatch, names: Sequence[str] = SCORES) -> dict[str, Tensor]:
    """Scores of the five clips of each question.

    Returns:
        Scores (Q, 5): `dual` cosine, `fusion` probability of a match, `ensemble` their sum (paper, Table 8); `dual`
        alone if `names` has no other.
    """
    choices, num_frames = batch["video"].shape[1:3]
    video = batch["video"].flatten(0, 1)  # (Q*5, T, 3, H, W)
    text, mask = backbone.trunk_text(batch["text"])  # (Q, L, D)
    clips = backbone.trunk_video(video)  # (Q*5, S, D)
    opens = tuple(names) != ("dual",)
    attended = backbone.attend_first(clips, num_frames) if opens and backbone.shares_trunk else None
    video_embeds = backbone.project_video(backbone.pooled_video(clips, num_frames, attended))  # (Q*5, P)
    text_embeds = backbone.project_text(backbone.pooled_text(text, mask))  # (Q, P)
    dual = F.cosine_similarity(text_embeds[:, None].float(), video_embeds.unflatten(0, (-1, choices)).float(), dim=-1)
    if not opens:
        return {"dual": dual}
    if not backbone.shares_trunk:
        clips = backbone.trunk_video(video, gate=True)
    pairs = Trunk(clips, text.repeat_interleave(choices, 0), mask.repeat_interleave(choices, 0), attended)
    logits = backbone.vtm_logits_from(backbone.top(pairs, num_frames, True, "cls"))  # (Q*5, 2)
    fusion = logits.float().softmax(-1)[:, 1].unflatten(0, (-1, choices))  # (Q, 5)
    return {"dual": dual, "fusion": fusion, "ensemble": dual + fusion}


class ChoiceAccuracies(WrapperMetric):
    """Accuracies in % of several scores, `ensemble/intra` and the like, and errors of the last, `errors/intra/verb`.

    Args:
        names: Of the scores.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.accuracies = nn.ModuleDict({name: EgoMCQAccuracy() for name in names})
        self.last, self.errors = names[-1], EgoMCQErrors()

    def update(self, scores: Mapping[str, Tensor], answer: Tensor, kind: Tensor, difference: Tensor | None = None
               ) -> None:
        """Count the right and wrong choices of Q questions.

        Args:
            scores: (Q, 5) by name.
            answer: (Q,) int64.
            kind: (Q,) int64: 1 inter, 2 intra.
            difference: (Q, 5) int64, see `Difference`; None: all are unknown.
        """
        if difference is None:
            difference = torch.full_like(scores[self.last], Difference.unknown, dtype=torch.int64)
        for name, accuracy in self._accuracies().items():
            accuracy.update(scores[name], answer, kind)
        self.errors.update(scores[self.last], answer, kind, difference)

    def compute(self) -> dict[str, Tensor]:
        return {f"{name}/{kind}": value for name, accuracy in self._accuracies().items()
                for kind, value in accuracy.compute().items()} | {
            f"errors/{name}": value for name, value in self.errors.compute().items()}

    def reset(self) -> None:
        for metric in (*self._accuracies().values(), self.errors):
            metric.reset()
        super().reset()

    def _accuracies(self) -> dict[str, EgoMCQAccuracy]:
        return {name: module for name, module in self.accuracies.items() if isinstance(module, EgoMCQAccuracy)}


class EgoMCQTask(MetricTask, BackboneTask):
    """Base class of the tasks whose backbone is evaluated on EgoMCQ."""

    name = "egomcq"
    monitor: Monitor
    scores: tuple[str, ...]

    def make_choice_metrics(self, monitor: Monitor, scores: Sequence[str] = SCORES) -> None:
        """Make the accuracies of some scores, see `choice_scores`; `monitor` ranks checkpoints, see `EgoMCQ`."""
        self.monitor, self.scores = monitor, tuple(scores)
        self.make_metrics(lambda: ChoiceAccuracies(self.scores))

    @property
    def protocol(self) -> dict[str, Any]:
        errors = (f"% of the questions whose choice by {self.scores[-1]} differs from the right clip in the tags of "
                  "the verb alone, of the noun alone, of both, of neither; unknown where a clip has no tags")
        return super().protocol | {"monitor": self.monitor, "errors": errors}  # `monitor` is what `score` is

    def update_metric(self, metric: ChoiceAccuracies, batch: ChoiceBatch) -> None:
        if len(batch["answer"]):
            metric.update(choice_scores(self.backbone, batch, self.scores), batch["answer"], batch["kind"],
                          batch.get("difference"))

    def summarize(self, split: Split, computed: dict[str, Tensor]) -> dict[str, Tensor]:
        """The accuracies; errors are logged beside them, as `val/errors/intra/verb` and the like."""
        self.log_dict({f"{split}/{name}": value for name, value in computed.items() if name.startswith("errors/")})
        return {name: value for name, value in computed.items() if not name.startswith("errors/")}

    def score(self, split: Split, values: dict[str, Tensor]) -> Tensor:
        """The monitored accuracy of the last score (`ensemble`); of the other questions if it is missing."""
        kinds = {name.rpartition("/")[2]: value for name, value in values.items()
                 if name.startswith(f"{self.scores[-1]}/")}
        return kinds.get(self.monitor, torch.stack(list(kinds.values())).mean())

    def predict_step(self, batch: ChoiceBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Key, scores, answer and kind of each question that could be read, in the order of the file."""
        scores = choice_scores(self.backbone, batch, self.scores) if len(batch["answer"]) else {}
        rows = [{name: values[i].tolist() for name, values in scores.items()} for i in range(len(batch["answer"]))]
        return [{"question": key} | row | {"answer": int(answer), "types": int(kind)}
                for key, row, answer, kind in zip(batch["key"], rows, batch["answer"], batch["kind"], strict=True)]


class EgoMCQ(EgoMCQTask):
    """Zero-shot EgoMCQ: `egovlpv2 validate` and `egovlpv2 test`.

    Args:
        backbone: Configuration of the backbone.
        weights: Weights to evaluate.
        monitor: The accuracy that is `val/score`: of the `intra` (paper) or `inter`-video questions, or their `mean`.
            Where a file has no questions of that kind, it is that of the others.
    """

    def __init__(self, backbone: BackboneConfig, weights: str | None = None, monitor: Monitor = "intra") -> None:
        super().__init__(backbone, None, weights)
        self.make_choice_metrics(monitor, ("dual",) if backbone.fusion == "none" else SCORES)

"""Ego4D natural language queries: VSLNet on frozen features."""

from math import isnan
from typing import Any, Literal

from torch import Tensor

from egovlpv2.batch import QueryBatch
from egovlpv2.heads.vslnet import SmallVSLNet, VSLNet, VSLNetOutput, best_windows, highlight_loss, span_loss
from egovlpv2.metrics.moments import WindowRecall
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.head import HeadTask
from egovlpv2.viz.timeline import Drawing, Span

_PREDICTIONS = 5  # of a query, in a submission


class NLQ(HeadTask):
    """Find the window of a clip that answers a query.

    Args:
        optimizer: The head's optimiser and its schedule.
        video_dim: Width of the video's features.
        query_dim: Width of the query tokens' features.
        dim: Width inside the head.
        num_heads: Attention heads.
        max_positions: Features of the longest clip, and tokens of the longest query.
        dropout: Share of features dropped in training.
        variant: `vslnet`, or `small` (query-guided highlighting and a span predictor alone).
        highlight_weight: Weight of the highlight's loss.
        weights: Weights to start from.
    """

    name, kind, monitor = "nlq", "vslnet", "r1_iou0.3"

    def __init__(self, optimizer: OptimizerConfig, video_dim: int = 768, query_dim: int = 768, dim: int = 128,
                 num_heads: int = 8, max_positions: int = 256, dropout: float = 0.2,
                 variant: Literal["vslnet", "small"] = "vslnet", highlight_weight: float = 5.0,
                 weights: str | None = None) -> None:
        make = {"vslnet": VSLNet, "small": SmallVSLNet}[variant]
        head = make(video_dim, query_dim, dim, num_heads, max_positions, dropout)
        super().__init__(head, WindowRecall, optimizer, weights)
        self.video_dim, self.query_dim, self.variant = video_dim, query_dim, variant
        self.highlight_weight = highlight_weight
        self.sizes = {"video_dim": video_dim, "query_dim": query_dim, "dim": dim, "num_heads": num_heads,
                      "max_positions": max_positions, "variant": variant}

    @property
    def protocol(self) -> dict[str, Any]:
        return super().protocol | {"variant": self.variant, "highlight_weight": self.highlight_weight}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the settings that `egovlpv2 locate` needs to use this head."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["egovlpv2"]["nlq"] = self.sizes | self.data.clip_facts

    def forward(self, batch: QueryBatch) -> VSLNetOutput:
        self.check_width(batch["video"].shape[2], self.video_dim, "video_dim")
        self.check_width(batch["query"].shape[2], self.query_dim, "query_dim")
        with self.float32():
            return self.head(batch["video"], batch["video_mask"], batch["query"], batch["query_mask"])

    def training_step(self, batch: QueryBatch, batch_idx: int) -> Tensor:
        out = self(batch)
        highlight = highlight_loss(out.highlight, batch["highlight"], batch["video_mask"])
        span = span_loss(out.start_logits, out.end_logits, batch["start"], batch["end"])
        loss = span + self.highlight_weight * highlight
        self.log_losses({"loss": loss, "span": span, "highlight": highlight}, len(batch["start"]))
        return loss

    def predict_step(self, batch: QueryBatch, batch_idx: int) -> list[dict[str, Any]]:
        """One row of the challenge's submission for each query."""
        if not batch["key"]:
            return []
        return [{"clip_uid": clip, "annotation_uid": annotation, "query_idx": index, "predicted_times": times}
                for (clip, annotation, index), times in zip(batch["key"], self.windows(batch).tolist(), strict=True)]

    def submission(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The predictions in the challenge's format, for `egovlpv2 predict`."""
        return {"version": "1.0", "challenge": "ego4d_nlq_challenge", "results": rows}

    def windows(self, batch: QueryBatch) -> Tensor:
        """The best windows (B, 5, 2) in seconds."""
        return _windows(self(batch), batch)

    def drawings(self, batch: QueryBatch, count: int) -> list[Drawing]:
        """Drawings of the first queries, without frames."""
        out = self(batch)
        windows = _windows(out, batch)
        drawings = []
        for i, (text, window) in enumerate(zip(batch["text"][:count], batch["window"][:count].tolist(), strict=True)):
            shown = out.curves(i, int(batch["video_mask"][i].sum()))
            truth = [] if isnan(window[0]) else [Span("", *window)]  # nan: not annotated
            predicted = [Span(str(rank + 1), *times) for rank, times in enumerate(windows[i].tolist())]
            drawings.append(Drawing(text, float(batch["duration"][i]), shown, truth, predicted))
        return drawings

    def update_metric(self, metric: WindowRecall, batch: QueryBatch) -> None:
        windows = self.windows(batch) if batch["key"] else batch["window"].new_empty(0, _PREDICTIONS, 2)
        metric.update(batch["index"], windows, batch["window"])


def _windows(out: VSLNetOutput, batch: QueryBatch) -> Tensor:
    return best_windows(out, batch["duration"] / batch["video_mask"].sum(1), _PREDICTIONS)

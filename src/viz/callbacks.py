"""Callbacks that write figures to TensorBoard in each validation."""

import logging
from collections.abc import Sequence
from typing import Any, Protocol, cast

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from egovlpv2.batch import ChoiceBatch
from egovlpv2.model.attention_maps import attend_words, read_words, text_layers
from egovlpv2.model.backbone import Backbone
from egovlpv2.viz.attention import Strip, draw_attention
from egovlpv2.viz.figures import show_on_board
from egovlpv2.viz.timeline import NUM_FRAMES, Drawing, draw

log = logging.getLogger(__name__)



class DrawsClips(Protocol):
    """A task that draws its predictions for the clips of a batch."""

    def drawings(self, batch: Any, count: int) -> Sequence[Drawing]:
        """A drawing of each of the first `count` clips."""


class ScoresChoices(Protocol):
    """A task with a backbone that scores clips against texts."""

    backbone: Backbone
    scores: Sequence[str]  # `dual`, `fusion`, `ensemble`: the ones that the task computes


class Pictures(Callback):
    """Write timelines of the first clips of each validation to TensorBoard.

    The task must have `drawings(batch, count)`, the data module `preview_frames(split, row, num_frames)`.

    Args:
        count: Number of clips.
    """

    def __init__(self, count: int = 4) -> None:
        self.count = count

    def _frames(self, trainer: Trainer, row: int) -> Tensor | None:
        """Load preview frames; a video that can't be read costs the frames, not the training."""
        try:
            return _data_module(trainer).preview_frames("val", row, NUM_FRAMES)
        except ValueError as error:
            log.warning("Pictures without frames: %s", error)
            return None

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any,
                                batch_idx: int, dataloader_idx: int = 0) -> None:
        board = _board(trainer)
        if batch_idx or board is None:
            return
        drawings = cast(DrawsClips, pl_module).drawings(batch, self.count)
        for i, (row, drawing) in enumerate(zip(batch["index"][: self.count].tolist(), drawings, strict=True)):
            frames = self._frames(trainer, row)
            show_on_board(board, f"val/{i}", draw([drawing], frames), trainer.global_step)


class AttentionPictures(Callback):
    """Write an attention map to TensorBoard in each validation: the first question's words over its correct clip.

    The weights are averaged over the heads of the last fused layer.
    """

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ChoiceBatch,
                                batch_idx: int, dataloader_idx: int = 0) -> None:
        task = cast(ScoresChoices, pl_module)
        board, layers = _board(trainer), text_layers(task.backbone)
        if batch_idx or dataloader_idx or board is None or not (
                layers and "fusion" in task.scores and len(batch["answer"])):
            return
        tokenizer, ids = _data_module(trainer).tokenizer, batch["text"]["input_ids"]  # (Q, L)
        text, last = tokenizer.decode(ids[0], skip_special_tokens=True).strip(), max(layers)
        words = read_words(tokenizer, text, ids.shape[1])
        if not words.labels:
            return
        clip = batch["video"][0, batch["answer"][0]]  # (T, 3, H, W)
        with trainer.precision_plugin.forward_context():
            attention = attend_words(task.backbone, clip, words, {last: layers[last]}, None)
        strips = list(map(Strip, words.labels, attention.cls[:, 0].tolist(), attention.patches[:, 0]))
        title = f"{text}: layer {last}, mean of all heads, match {attention.match:.2f}"
        figure = draw_attention(title, clip.cpu(), None, strips, across=5)
        show_on_board(board, "val/attention", figure, trainer.global_step)


def _data_module(trainer: Trainer) -> Any:
    return trainer.datamodule  # type: ignore[attr-defined]  # Lightning's data connector sets it


def _board(trainer: Trainer) -> SummaryWriter | None:
    """Get the TensorBoard writer; None on other processes than rank 0 and with other loggers."""
    logger = trainer.logger
    return logger.experiment if trainer.is_global_zero and isinstance(logger, TensorBoardLogger) else None

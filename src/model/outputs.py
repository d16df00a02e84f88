"""Outputs of the backbone's parts.

Letters: `B` clips, `S` video tokens, `L` text tokens, `D` width.
"""

from typing import NamedTuple

from torch import Tensor

from egovlpv2.gradients import select_rows


class Trunk(NamedTuple):
    """Outputs of the unfused layers, which all objectives share."""

    video: Tensor  # (B, S, D)
    text: Tensor  # (B, L, D)
    mask: Tensor  # (B, L) bool
    attended: Tensor | None = None  # (B, S, D) or (B, 1, D), see `Backbone.attend_first`; None: each pass computes it

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The parts that are there, in this order."""
        return tuple(part for part in self if part is not None)


class VideoContext(NamedTuple):
    """Text-independent part of the fused layers, computed once per video and reused for every text.

    With fusion in the backbone: the trunk and its self-attention in the first fused layer. With stacked layers: the
    tokens that they attend to, and the CLS state.
    """

    video: Tensor  # (B, S, D), or (B, 1, D) where later layers need the CLS token only
    first: Tensor  # (B, S, D) or (B, 1, D)

    def of(self, index: Tensor) -> "VideoContext":
        """Select videos by index, with repetition."""
        return VideoContext(select_rows(self.video, index), select_rows(self.first, index))


class Top(NamedTuple):
    """Outputs of the fused layers; None where the caller didn't request them."""

    video: Tensor | None  # (B, S, D) or (B, 1, D), after the final norm
    text: Tensor | None  # (B, L, D), after the final norm
    pooled_video: Tensor | None  # (B, D)
    pooled_text: Tensor | None  # (B, D)

    @property
    def video_cls(self) -> Tensor:
        """States that represent the clips, (B, D): of the CLS token, or what the ViT pools in its place."""
        assert self.pooled_video is not None
        return self.pooled_video

    @property
    def text_cls(self) -> Tensor:
        """States that represent the texts, (B, D): of the first token, or the one that the encoder pools."""
        assert self.pooled_text is not None
        return self.pooled_text

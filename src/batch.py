"""The batches that data modules make and tasks read: they meet on these keys and nowhere else.

Letters: `B` clips, `T` frames, `L` words, `Q` questions.
"""

from typing import TypedDict

from torch import Tensor


class Text(TypedDict):
    """What the text tower reads: the tokenizer's output."""

    input_ids: Tensor  # (B, L) int64
    attention_mask: Tensor  # (B, L) int64, 1 where there is a word


class ClipBatch(TypedDict):
    """EgoClip: rows and, after them, their scene-aware negatives (clip `i + B/2` is the negative of clip `i`)."""

    video: Tensor  # (B, T, 3, H, W) uint8 RGB
    text: Text
    verbs: Tensor  # (B, 118) float32 multi-hot
    nouns: Tensor  # (B, 582) float32 multi-hot


class ChoiceBatch(TypedDict):
    """EgoMCQ: one text and five clips a question."""

    key: list[str]  # of Q questions, in their file
    video: Tensor  # (Q, 5, T, 3, H, W) uint8 RGB
    text: Text  # (Q, L)
    answer: Tensor  # (Q,) int64, the right choice
    kind: Tensor  # (Q,) int64: 1 inter-video, 2 intra-video

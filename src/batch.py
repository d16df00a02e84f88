"""Typed batches: the only interface between data modules, which make them, and tasks, which consume them.

Letters: `B` clips, `T` frames, `L` tokens, `Q` questions, `M` texts of a whole data set, `D` width of features.
"""

from collections.abc import Collection, Sequence
from enum import IntEnum
from typing import TypedDict, final

import torch
from torch import Tensor


class Text(TypedDict):
    """Tokenized texts, the input of the text tower."""

    input_ids: Tensor  # (B, L) int64
    attention_mask: Tensor  # (B, L) int64, 0 on padding


def text_to(text: Text, device: torch.device) -> Text:
    """Move a text to a device."""
    return Text(input_ids=text["input_ids"].to(device), attention_mask=text["attention_mask"].to(device))


class ClipBatch(TypedDict):
    """A batch of EgoClip: N clips, then their scene-aware negatives (clip `i + N` is the first one of clip `i`)."""

    video: Tensor  # (B, T, 3, H, W) uint8 RGB
    text: Text
    verbs: Tensor  # (B, 118) float32 multi-hot
    nouns: Tensor  # (B, 582) float32 multi-hot


class HardNegativeBatch(ClipBatch):
    """A batch of EgoClip with hard-negative texts: `K` with another verb and `K` with another noun for each clip."""

    hard_text: Text  # (B*2K, L), those of a clip one after the other, verbs first; empty where there is none
    hard_mask: Tensor  # (B, 2, K) bool, False where there is none


class SentenceBatch(TypedDict):
    """A batch of EgoHOIBench: a clip, its text, and texts with another verb and with another noun."""

    key: list[int]  # of the Q clips: lines of their file
    video: Tensor  # (Q, T, 3, H, W) uint8 RGB
    text: Text  # (Q, L)
    hard_text: Text  # (Q*2K, L), as in `HardNegativeBatch`
    hard_mask: Tensor  # (Q, 2, K) bool


class Difference(IntEnum):
    """Differences of two clips by their tags; tags are equal where they share a class."""

    verb = 0  # the verb alone
    noun = 1
    both = 2
    neither = 3
    unknown = 4  # one of the clips has no verb, or no noun


class ChoiceBatch(TypedDict):
    """A batch of EgoMCQ: a text and five clips for each question."""

    key: list[str]  # of the Q questions, as in their file
    video: Tensor  # (Q, 5, T, 3, H, W) uint8 RGB
    text: Text  # (Q, L)
    answer: Tensor  # (Q,) int64, index of the correct clip
    kind: Tensor  # (Q,) int64: 1 inter-video, 2 intra-video
    difference: Tensor  # (Q, 5) int64, how the tags of each choice differ from the correct clip's, see `Difference`


@final
class TextBatch(TypedDict):
    """A batch of retrieval candidates: some of the M texts. All texts come before the clips."""

    text: Text  # (some of M, L)


class RetrievalBatch(TypedDict):
    """A batch of retrieval queries: clips, with the relevancy of all M texts."""

    key: list[str]  # of the B clips, as in their file
    index: Tensor  # (B,) int64, the clip's row
    video: Tensor  # (B, T, 3, H, W) uint8 RGB
    relevancy: Tensor  # (B, M) float32, 0 to 1


class RetrievalPairs(RetrievalBatch):
    """A training batch of retrieval: clips with a matching text each."""

    text: Text  # (B, L)
    target: Tensor  # (B,) int64, index of the text among the M


class QueryBatch(TypedDict):
    """A batch of NLQ: features of clips and queries, and target windows; `n` positions of the longest clip."""

    key: list[tuple[str, str, int]]  # clip, annotation and index of the query in it
    index: Tensor  # (B,) int64, the query's row
    text: list[str]
    video: Tensor  # (B, n, D)
    video_mask: Tensor  # (B, n) bool
    query: Tensor  # (B, L, D)
    query_mask: Tensor  # (B, L) bool
    start: Tensor  # (B,) int64, the window's first position
    end: Tensor  # (B,) int64, the window's last position
    highlight: Tensor  # (B, n), 1 in and around the window
    window: Tensor  # (B, 2) seconds; NaN without ground truth
    duration: Tensor  # (B,) seconds


class AnswerBatch(TypedDict):
    """A batch of EgoTaskQA: V videos and Q questions about them, of K kinds."""

    key: list[str]  # of the questions, as in their file
    index: Tensor  # (Q,) int64, the question's row
    video: Tensor  # (V, T, 3, H, W) uint8 RGB
    of_video: Tensor  # (Q,) int64, index of the question's video among the V
    text: Text  # (Q, L)
    answer: Tensor  # (Q,) int64, class in the answer set
    guess: Tensor  # (Q,) int64, most frequent answer for the question's template
    kinds: Tensor  # (Q, K) bool
    kind_names: list[str]
    answers: list[str]  # the answer set


class SummaryBatch(TypedDict):
    """A batch of QFVS: queries of long videos, whose shots are split into `G` segments of at most `n` shots.

    Each query has `P` prompts. In training three: its first concept, its second, and both. In evaluation those of both
    concepts, one for each template.
    """

    key: list[str]  # of the B queries: video, first and second concept
    index: Tensor  # (B,) int64, the query's row
    features: Tensor  # (B, P, G, n, D)
    mask: Tensor  # (B, G, n) bool, False on padding
    concepts: Tensor  # (B, 2, G, n), 1 where a shot shows the first, or the second, concept
    summary: Tensor  # (B, G, n), 1 for the shots of the oracle summary
    tags: list[Tensor]  # of each query's video: (shots, C) concepts that each shot shows, 0 or 1


class MomentBatch(TypedDict):
    """A batch of MQ: features of clips and their action instances, at most `G` of a clip."""

    key: list[str]  # of the B clips
    index: Tensor  # (B,) int64, the clip's row
    features: Tensor  # (B, D, T), zero-padded
    num_frames: Tensor  # (B,) int64, length without padding
    segments: Tensor  # (B, G, 2), in steps
    classes: Tensor  # (B, G) int64; 0 on padding
    step_seconds: Tensor  # (B,) seconds between two steps
    first_seconds: Tensor  # (B,) seconds of the clip at step 0
    duration: Tensor  # (B,) seconds
    labels: list[str]  # names of classes, the first being the background


def multi_hot(ids: Sequence[Collection[int]], num_classes: int) -> Tensor:
    """Rows of class ids -> (rows, num_classes) float32, 1 at a row's classes and 0 elsewhere."""
    hot = torch.zeros(len(ids), num_classes)
    rows = [row for row, classes in enumerate(ids) for _ in classes]
    hot[torch.tensor(rows, dtype=torch.int64), torch.tensor([i for classes in ids for i in classes],
                                                            dtype=torch.int64)] = 1.0
    return hot

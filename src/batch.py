"""The batches that data modules make and tasks read: they meet on these keys and nowhere else.

Letters: `B` clips, `T` frames, `L` words, `Q` questions, `M` texts of a whole data set.
"""

from collections.abc import Collection, Sequence
from typing import TypedDict, final

import torch
from torch import Tensor


class Text(TypedDict):
    """What the text tower reads: the tokenizer's output."""

    input_ids: Tensor  # (B, L) int64
    attention_mask: Tensor  # (B, L) int64, 1 where there is a word


def text_to(text: Text, device: torch.device) -> Text:
    """Move a text to a device."""
    return Text(input_ids=text["input_ids"].to(device), attention_mask=text["attention_mask"].to(device))


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


@final
class TextBatch(TypedDict):
    """Retrieval: some of the M texts that clips are compared with. All of them come before the clips."""

    text: Text  # (some of M, L)


class RetrievalBatch(TypedDict):
    """Retrieval: clips, and how well each of the M texts fits them."""

    key: list[str]  # of B clips, in their file
    index: Tensor  # (B,) int64, the clip's row
    video: Tensor  # (B, T, 3, H, W) uint8 RGB
    relevancy: Tensor  # (B, M) float32, 0 to 1


class RetrievalPairs(RetrievalBatch):
    """Retrieval, in training: clips with a text each that fits them."""

    text: Text  # (B, L)
    target: Tensor  # (B,) int64, which of the M texts it is


class QueryBatch(TypedDict):
    """NLQ: features of clips, words of queries and the windows that answer them; `n` positions of the longest clip."""

    key: list[tuple[str, str, int]]  # clip, annotation and place in it
    index: Tensor  # (B,) int64, the query's row
    text: list[str]
    video: Tensor  # (B, n, D)
    video_mask: Tensor  # (B, n) bool
    query: Tensor  # (B, L, D)
    query_mask: Tensor  # (B, L) bool
    start: Tensor  # (B,) int64, the window's first position
    end: Tensor  # (B,) int64, its last
    highlight: Tensor  # (B, n), 1 in and around the window
    window: Tensor  # (B, 2) seconds; nan if it is not told
    duration: Tensor  # (B,) seconds


class AnswerBatch(TypedDict):
    """EgoTaskQA: V videos and Q questions about them, of K kinds."""

    key: list[str]  # of the questions, in their file
    index: Tensor  # (Q,) int64, the question's row
    video: Tensor  # (V, T, 3, H, W) uint8 RGB
    of_video: Tensor  # (Q,) int64, which of the V a question is about
    text: Text  # (Q, L)
    answer: Tensor  # (Q,) int64, which of the answer set
    guess: Tensor  # (Q,) int64, the most frequent answer to questions like it
    kinds: Tensor  # (Q, K) bool
    kind_names: list[str]
    answers: list[str]  # the answer set


class SummaryBatch(TypedDict):
    """QFVS: queries of long videos, whose shots are cut into `G` segments of at most `n` shots.

    Of each query there are `P` prompts. In training three: its first concept, its second, and both. In evaluation
    those of both, one for each template.
    """

    key: list[str]  # of B queries: video, first and second concept
    index: Tensor  # (B,) int64, the query's row
    features: Tensor  # (B, P, G, n, D)
    mask: Tensor  # (B, G, n) bool, which shots are real
    concepts: Tensor  # (B, 2, G, n), 1 where a shot shows the first, or the second, concept
    summary: Tensor  # (B, G, n), 1 for the shots of the oracle summary
    tags: list[Tensor]  # of each video: (shots, C) what each shot shows, 0 or 1


class MomentBatch(TypedDict):
    """MQ: features of clips and the instances in them; at most `G` of one clip."""

    key: list[str]  # clips
    index: Tensor  # (B,) int64, the clip's row
    features: Tensor  # (B, C, T), zero at the end
    num_frames: Tensor  # (B,) int64, how many are real
    segments: Tensor  # (B, G, 2), in steps
    classes: Tensor  # (B, G) int64; 0 where there is none
    duration: Tensor  # (B,) seconds
    labels: list[str]  # by number, the 0th being nothing


def multi_hot(ids: Sequence[Collection[int]], num_classes: int) -> Tensor:
    """Rows of class ids -> (rows, num_classes) float32, 1 at a row's classes and 0 elsewhere."""
    hot = torch.zeros(len(ids), num_classes)
    rows = [row for row, classes in enumerate(ids) for _ in classes]
    hot[torch.tensor(rows, dtype=torch.int64), torch.tensor([i for classes in ids for i in classes],
                                                            dtype=torch.int64)] = 1.0
    return hot

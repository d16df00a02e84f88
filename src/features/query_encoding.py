"""Queries of a video as the model reads them, and windows looked at with them: the gate open.

Letters: `Q` queries, `L` words, `n` windows, `S` tokens of a window, `D` width.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from egovlpv2.batch import text_to
from egovlpv2.model.backbone import Backbone
from egovlpv2.tokenization import tokenize

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedQueries:
    """Queries."""

    texts: list[str]
    trunk: Tensor  # (Q, L, D)
    mask: Tensor  # (Q, L) bool
    words: Tensor  # (Q, L, D), gate closed


def encode_queries(backbone: Backbone, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int
                   ) -> EncodedQueries:
    """Reads queries.

    Args:
        backbone: The model.
        tokenizer: Of its text tower.
        texts: One query at least.
        max_tokens: Tokens of a query; longer ones are cut.
    """
    text = tokenize(tokenizer, texts, max_tokens)
    trunk, mask = backbone.trunk_text(text_to(text, backbone.device))
    return EncodedQueries(list(texts), trunk, mask, backbone.top_text(trunk, mask).float())


def warn_if_truncated(tokenizer: PreTrainedTokenizerBase, what: str, text: str, max_tokens: int) -> None:
    """Warn that a text, called `what`, has more tokens than are read of it."""
    tokens = len(tokenizer(text)["input_ids"])
    if tokens > max_tokens:
        log.warning("the %s has %d tokens and is cut to %d (--max-tokens)", what, tokens, max_tokens)


def fuse_with_queries(backbone: Backbone, asked: EncodedQueries, trunk: Tensor, num_frames: int, transformed: bool
                      ) -> Tensor:
    """The CLS states of windows with the gate open, for each query: (n, S, D) -> (n, Q, D).

    Args:
        backbone: The model.
        asked: The queries.
        trunk: What the video's trunk gives with the gate open; all queries share it.
        num_frames: Frames of a window.
        transformed: Whether the cross-modal transform follows.
    """
    states, attended = [], backbone.precompute_video(trunk, num_frames)
    for words, mask in zip(asked.trunk, asked.mask, strict=True):
        words, mask = words.expand(len(trunk), -1, -1), mask.expand(len(trunk), -1)
        cls = backbone.fused_video_cls(attended, num_frames, words, mask)  # (n, D)
        states.append(backbone.fused_video_transform(cls) if transformed else cls)
    return torch.stack(states, dim=1).float()


def mean_patch_tokens(trunk: Tensor) -> Tensor:
    """What windows look like, whatever is asked: the mean of their patches' tokens, (n, S, D) -> (n, D)."""
    return trunk[:, 1:].float().mean(1)

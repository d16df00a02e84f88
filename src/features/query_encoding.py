"""Encode queries once, then run the fused layers for every (window, query) pair.

Letters: `Q` queries, `L` tokens of a query, `n` windows, `S` tokens of a window, `D` width.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedTokenizerBase

from egovlpv2.batch import Text, text_to
from egovlpv2.device import autocast
from egovlpv2.model.backbone import Backbone
from egovlpv2.tokenization import padding_of, tokenize
from egovlpv2.types import Precision

_AT_ONCE = 64  # texts
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedQueries:
    """Encoded queries of a video."""

    texts: list[str]
    trunk: Tensor  # (Q, L, D)
    mask: Tensor  # (Q, L) bool, tokens that the towers attend to
    word_mask: Tensor  # (Q, L) bool, tokens that are not padding
    words: Tensor  # (Q, L, D), gate closed


class TextEmbedder:
    """Embeddings of texts for retrieval, gate closed.

    Args:
        backbone: The model.
        tokenizer: Of its text tower.
        max_tokens: Maximum tokens of a text; longer ones are cut.
        precision: As for `autocast`.
    """

    def __init__(self, backbone: Backbone, tokenizer: PreTrainedTokenizerBase, max_tokens: int,
                 precision: Precision | None) -> None:
        self.backbone, self.tokenizer, self.max_tokens = backbone, tokenizer, int(max_tokens)
        self._precision = autocast(precision, backbone.device)

    def tokens(self, texts: Sequence[str]) -> Text:
        """Tokenise texts, on the model's device."""
        return text_to(tokenize(self.tokenizer, list(texts), self.max_tokens), self.backbone.device)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embed texts: (n, P) float32 of length one, on the CPU."""
        with self._precision:
            parts = [self.backbone.embed_text(self.tokens(texts[i : i + _AT_ONCE])).float()
                     for i in range(0, len(texts), _AT_ONCE)]
        return normalize(torch.cat(parts), dim=-1).cpu()


def encode_queries(backbone: Backbone, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int
                   ) -> EncodedQueries:
    """Encode queries.

    Args:
        backbone: The model.
        tokenizer: Of its text tower.
        texts: At least one query.
        max_tokens: Maximum tokens of a query; longer ones are cut.
    """
    text = tokenize(tokenizer, texts, max_tokens)
    trunk, mask = backbone.trunk_text(text_to(text, backbone.device))
    word_mask = text["attention_mask"].bool().to(mask.device)
    return EncodedQueries(list(texts), trunk, mask, word_mask, backbone.top_text(trunk, mask).float())


def warn_if_truncated(tokenizer: PreTrainedTokenizerBase, what: str, text: str, max_tokens: int) -> None:
    """Warn if a text, called `what`, has more tokens than the maximum."""
    _, max_tokens = padding_of(tokenizer, False, max_tokens)
    tokens = len(tokenizer(text)["input_ids"])
    if tokens > max_tokens:
        log.warning("the %s has %d tokens and is cut to %d (--max-tokens)", what, tokens, max_tokens)


def fuse_with_queries(backbone: Backbone, queries: EncodedQueries, trunk: Tensor, num_frames: int, transformed: bool
                      ) -> Tensor:
    """Compute the CLS states of windows with the gate open, for each query: (n, S, D) -> (n, Q, D).

    Args:
        backbone: The model.
        queries: The queries.
        trunk: Output of the video's trunk with the gate open, shared by all queries.
        num_frames: Frames of a window.
        transformed: True to apply the cross-modal transform.
    """
    states, video = [], backbone.precompute_video(trunk, num_frames)
    for text, mask in zip(queries.trunk, queries.mask, strict=True):
        text, mask = text.expand(len(trunk), -1, -1), mask.expand(len(trunk), -1)
        cls = backbone.fused_video_cls(video, num_frames, text, mask)  # (n, D)
        states.append(backbone.fused_video_transform(cls) if transformed else cls)
    return torch.stack(states, dim=1).float()


def mean_patch_tokens(backbone: Backbone, trunk: Tensor) -> Tensor:
    """Compute query-independent features of windows, the mean of their patch tokens: (n, S, D) -> (n, D)."""
    return trunk[:, backbone.video_tower.num_prefix:].float().mean(1)


def cls_states(backbone: Backbone, trunk: Tensor) -> Tensor:
    """Select the states of CLS tokens, or compute the mean of patch tokens if the ViT has none: (n, S, D) -> (n, D)."""
    return mean_patch_tokens(backbone, trunk) if backbone.video_tower.cls_token is None else trunk[:, 0]

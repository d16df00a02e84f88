"""Attention maps: weights of the text's cross-attention over a clip, for each word.

Letters: `B` clips, `T` frames, `h` and `w` rows and columns of patches, `S = 1 + T * h * w` video tokens, `L` tokens of
a text, `W` words, `M` maps (each a head of a layer, or the mean of its heads).
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from egovlpv2.batch import Text
from egovlpv2.model.backbone import Backbone
from egovlpv2.model.fusion import CrossAttention
from egovlpv2.tokenization import padding_of

# Cross-attention from text to video: in the text tower, or in layers stacked on both towers.
_TEXT_SIDE = re.compile(r"(?:text_tower\.blocks|stack\.text)\.(\d+)\.(?:fusion|cross)$")


class Words(NamedTuple):
    """A tokenized text with the tokens of each word; special tokens belong to no word."""

    labels: list[str]  # the W words, split at whitespace
    tokens: list[list[int]]  # positions of each word's tokens among the L
    text: Text  # (1, L)


class Attention(NamedTuple):
    """Attention of each word over a clip; `cls` and `patches` together sum to one."""

    cls: Tensor  # (W, M) weight of the video's CLS token, registers included
    patches: Tensor  # (W, M, T, h, w)
    match: float  # probability that text and clip match


def read_words(tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int) -> Words:
    """Tokenize a text and assign its tokens to words.

    Args:
        tokenizer: The text tower's; a fast one, for the offsets of tokens.
        text: A sentence.
        max_tokens: Maximum number of tokens (L), special tokens included; longer texts are truncated.
    """
    text = text.strip()
    padding, max_tokens = padding_of(tokenizer, False, max_tokens)
    encoded = tokenizer([text], padding=padding, truncation=True, max_length=max_tokens, return_offsets_mapping=True,
                        return_special_tokens_mask=True, return_attention_mask=True)
    spans = [(word.group(), word.end()) for word in re.finditer(r"\S+", text)]
    tokens: dict[int, list[int]] = {}  # by word
    for position, ((start, _), special) in enumerate(zip(encoded["offset_mapping"][0],
                                                         encoded["special_tokens_mask"][0], strict=True)):
        if not special:  # a token may begin with the space before its word
            word = next(i for i, (_, end) in enumerate(spans) if end > start)
            tokens.setdefault(word, []).append(position)
    ids, mask = (torch.tensor(encoded[name]) for name in ("input_ids", "attention_mask"))  # (1, L)
    return Words([spans[i][0] for i in tokens], list(tokens.values()), Text(input_ids=ids, attention_mask=mask))


def text_layers(backbone: Backbone) -> dict[int, CrossAttention]:
    """Find the modules of cross-attention from text to video, by layer; empty without fused layers."""
    return {int(match[1]): module for name, module in backbone.named_modules()
            if isinstance(module, CrossAttention) and (match := _TEXT_SIDE.match(name))}


@contextmanager
def captured(layers: Mapping[int, CrossAttention], heads: Sequence[int] | None) -> Iterator[dict[int, Tensor]]:
    """Record the attention weights of layers during forward passes of the model.

    Args:
        layers: Cross-attention modules by layer.
        heads: Heads to record of each layer; None for the mean of all.

    Yields:
        Weights by layer, added when the layer runs: (B, heads or 1, L, S), float32 in any precision of the model.
    """
    recorded: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(module: CrossAttention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x, context = (tokens.to(module.query.weight.dtype) for tokens in args[:2])
            with torch.autocast(x.device.type, enabled=False):  # in bfloat16, weights don't sum to one
                weights = module.weights(x, context, *args[2:], **kwargs)
            recorded[layer] = weights.mean(1, keepdim=True) if heads is None else weights[:, list(heads)]
        return hook

    handles = [module.register_forward_pre_hook(keep(layer), with_kwargs=True) for layer, module in layers.items()]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def attend_words(backbone: Backbone, video: Tensor, words: Words, layers: Mapping[int, CrossAttention],
                 heads: Sequence[int] | None) -> Attention:
    """Run a clip and a text through the backbone, gate open, and return the attention of each word.

    Args:
        backbone: In eval mode.
        video: (T, 3, H, W) uint8.
        words: The text.
        layers: Layers out of `text_layers`; the maps `M` are the heads of the first layer, then of the second, ...
        heads: Heads of each layer; None for the mean of all.
    """
    ids, mask = (words.text[name].to(backbone.device) for name in ("input_ids", "attention_mask"))  # (1, L)
    text = Text(input_ids=ids, attention_mask=mask)
    with captured(layers, heads) as recorded:
        match = backbone.vtm_logits(video[None].to(backbone.device), text).float().softmax(-1)[0, 1]
    weights = torch.cat([recorded[layer][0] for layer in layers]).float().cpu()  # (M, L, S)
    by_word = torch.stack([weights[:, tokens].mean(1) for tokens in words.tokens])  # (W, M, S)
    grid, num_prefix = backbone.video_tower.patch_embed.grid_size, backbone.video_tower.num_prefix
    patches = by_word[..., num_prefix:].unflatten(-1, (len(video), *grid))
    return Attention(by_word[..., :num_prefix].sum(-1), patches, match.item())

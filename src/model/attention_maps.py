"""What the words of a text look at in a clip: the weights of the text's cross-attention.

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

# Where words ask and the video answers: inside the text tower, or in layers stacked on both towers.
_TEXT_SIDE = re.compile(r"(?:text_tower\.blocks|stack\.text)\.(\d+)\.(?:fusion|cross)$")


class Words(NamedTuple):
    """A text, word by word; the tokenizer's special tokens belong to none."""

    labels: list[str]  # of W words, as spaces part them
    places: list[list[int]]  # of each, its tokens among the L
    text: Text  # (1, L)


class Attention(NamedTuple):
    """How each word's attention is spread; over `cls` and `patches` together it sums to one."""

    cls: Tensor  # (W, M) what goes to the video's CLS token
    patches: Tensor  # (W, M, T, h, w)
    match: float  # probability that the text fits the clip


def read_words(tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int) -> Words:
    """Reads a text so that its tokens can be told by word.

    Args:
        tokenizer: Of the text tower; a fast one, which knows where in the text a token lies.
        text: What the words are of.
        max_tokens: Tokens (L), special ones included; what is beyond them is cut off.
    """
    text = text.strip()
    encoded = tokenizer([text], truncation=True, max_length=max_tokens, return_offsets_mapping=True,
                        return_special_tokens_mask=True)
    spans = [(word.group(), word.end()) for word in re.finditer(r"\S+", text)]
    places: dict[int, list[int]] = {}
    for place, ((start, _), special) in enumerate(zip(encoded["offset_mapping"][0], encoded["special_tokens_mask"][0],
                                                      strict=True)):
        if not special:  # a token may begin with the space before its word
            places.setdefault(next(i for i, (_, end) in enumerate(spans) if end > start), []).append(place)
    ids, mask = (torch.tensor(encoded[name]) for name in ("input_ids", "attention_mask"))  # (1, L)
    return Words([spans[i][0] for i in places], list(places.values()), Text(input_ids=ids, attention_mask=mask))


def text_layers(backbone: Backbone) -> dict[int, CrossAttention]:
    """The cross-attention in which words ask and the video answers, by layer; empty if nothing is fused."""
    return {int(match[1]): module for name, module in backbone.named_modules()
            if isinstance(module, CrossAttention) and (match := _TEXT_SIDE.match(name))}


@contextmanager
def captured(layers: Mapping[int, CrossAttention], heads: Sequence[int] | None) -> Iterator[dict[int, Tensor]]:
    """Collects the weights of some layers while the model runs as ever.

    Args:
        layers: Which, by number.
        heads: Which heads of each; None for the mean of all.

    Yields:
        By layer, once it has run: (B, heads or 1, L, S) float32, whatever the model's precision.
    """
    found: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(module: CrossAttention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x, context = (tokens.to(module.query.weight.dtype) for tokens in args[:2])
            with torch.autocast(x.device.type, enabled=False):  # in bfloat16 they would not sum to one
                weights = module.weights(x, context, *args[2:], **kwargs)
            found[layer] = weights.mean(1, keepdim=True) if heads is None else weights[:, list(heads)]
        return hook

    handles = [module.register_forward_pre_hook(keep(layer), with_kwargs=True) for layer, module in layers.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def attend_words(backbone: Backbone, video: Tensor, words: Words, layers: Mapping[int, CrossAttention],
                 heads: Sequence[int] | None) -> Attention:
    """Looks at a clip with a text, the gate open, and tells what each word looks at.

    Args:
        backbone: In eval mode.
        video: (T, 3, H, W) uint8.
        words: The text.
        layers: Some of `text_layers`; `M` counts the heads of the first, then of the second, ...
        heads: Which heads of each layer; None for the mean of all.
    """
    ids, mask = (words.text[name].to(backbone.device) for name in ("input_ids", "attention_mask"))  # (1, L)
    text = Text(input_ids=ids, attention_mask=mask)
    with captured(layers, heads) as found:
        match = backbone.vtm_logits(video[None].to(backbone.device), text).float().softmax(-1)[0, 1]
    weights = torch.cat([found[layer][0] for layer in layers]).float().cpu()  # (M, L, S)
    spread = torch.stack([weights[:, places].mean(1) for places in words.places])  # (W, M, S)
    grid = backbone.video_tower.patch_embed.grid_size
    return Attention(spread[..., 0], spread[..., 1:].unflatten(-1, (len(video), *grid)), match.item())

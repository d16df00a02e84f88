"""Text transformer with cross-attention, built from an encoder of transformers (RoBERTa, MiniLM, CLIP's, ...).

Letters: `B` texts, `L` tokens, `D` width.
"""

import json
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from egovlpv2.batch import Text
from egovlpv2.model.encoder import TextTowerConfig, make_encoder
from egovlpv2.model.fusion import GatedCrossAttention
from egovlpv2.model.library_check import Comparison
from egovlpv2.model.text_block import TextBlock
from egovlpv2.model.text_families import family_of

_LEGACY_EOS = 2  # in CLIP's older configurations; the text then ends at the highest id


class TextTower(nn.Module):
    """Text embeddings and blocks, which the backbone runs one by one.

    Args:
        config: The encoder to build.
        num_fused: Number of blocks, counted from the last, with cross-attention.
        video_dim: Width of the video tower.
        model: A transformers encoder whose modules the tower takes over; None to build the one of `config`.

    Raises:
        ValueError: transformers has no such encoder, or the tower can't reproduce its outputs.
    """

    embeddings: nn.Module

    def __init__(self, config: TextTowerConfig, num_fused: int, video_dim: int, model: Any = None) -> None:
        super().__init__()
        build, model = model is None, make_encoder(config) if model is None else model
        arch, self.family = model.config, family_of(model.config.model_type)
        try:
            layers = self.family.layers(model)
        except AttributeError as error:
            raise ValueError(f"text.arch: {arch.model_type} is not supported: it doesn't have BERT's layers ({error}); "
                             "use roberta, bert or a similar one, distilbert, modernbert, clip_text_model or "
                             "siglip_text_model") from error
        self.eos_id: int | None = _eos_id(arch) if self.family.pooling == "eos" else None
        if build:
            _check_parts(json.dumps(config.arch, sort_keys=True))
        if num_fused > len(layers):
            raise ValueError(f"num_fused_layers is {num_fused}, but the text tower has {len(layers)} layers")
        self.dim: int = arch.hidden_size
        self.vocab_size: int = arch.vocab_size
        self.num_fused, self.masks_padding = num_fused, self.family.masked
        self.num_heads: int = arch.num_attention_heads
        norm2: Any = layers[-1].norm2
        self.norm_eps: float = norm2.eps
        activation = layers[-1].activation or getattr(layers[-1].mlp.get("mlp"), "act", None)
        self.activation: str = getattr(activation, "__name__", type(activation).__name__)
        self.dropout = layers[-1].out_dropout
        self.embeddings = model.embeddings
        # RoBERTa derives positions from the ids: they start after the padding id.
        self.padding_id: int | None = getattr(model.embeddings, "padding_idx", None)
        self.max_tokens: int = arch.max_position_embeddings - (-1 if self.padding_id is None else self.padding_id) - 1
        first_fused = len(layers) - num_fused
        self.blocks = nn.ModuleList(
            TextBlock(layer, GatedCrossAttention(self.dim, video_dim, self.num_heads, None, self.dropout)
                      if i >= first_fused else None)
            for i, layer in enumerate(layers)
        )
        self.norm = self.family.final_norm(model)
        self.head: nn.Module = model.head if self.family.pooling == "last" else nn.Identity()  # SigLIP's
        if isinstance(self.head, nn.Linear) and self.head.out_features != self.dim:
            raise ValueError(f"text.arch: projection_size is {self.head.out_features}, but must be hidden_size, "
                             f"{self.dim}")
        if build and config.init is not None:
            COMPARISON.check_weights(model, self, f"text.init: {config.init}")

    @property
    def traits(self) -> dict[str, Any]:
        """Settings of the encoder that change the outputs but not the names or shapes of the weights."""
        blocks = [block for block in self.blocks if isinstance(block, TextBlock)]
        return {"eos_token_id": self.eos_id, "activation": self.activation,
                "attention windows": sorted({block.window or 0 for block in blocks}),
                "rotary bases": sorted({block.rotary_base or 0.0 for block in blocks})}

    def embed(self, input_ids: Tensor) -> Tensor:
        """Embed tokens and their positions: (B, L) -> (B, L, D)."""
        if input_ids.shape[1] > self.max_tokens:
            raise ValueError(f"texts of {input_ids.shape[1]} tokens are too long for a text tower of {self.max_tokens} "
                             "positions: lower max_tokens or eval_max_tokens")
        return self.embeddings(input_ids=input_ids)

    def mask(self, text: Text) -> Tensor:
        """Tokens that may be attended to, (B, L) bool: of CLIP's up to the first EOS, of SigLIP's all."""
        ids = text["input_ids"]
        if not self.family.masked:
            return torch.ones_like(ids, dtype=torch.bool)
        if self.eos_id is None:
            return text["attention_mask"].bool()
        end = (ids if self.eos_id == _LEGACY_EOS else (ids == self.eos_id).int()).argmax(1, keepdim=True)  # (B, 1)
        return torch.arange(ids.shape[1], device=ids.device) <= end

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        """Compute the state that represents each text, of tokens after `norm`.

        That of the first token, or in CLIP's and SigLIP's the last one of `mask`: (B, L, D), (B, L) -> (B, D).
        """
        if self.family.pooling == "first":
            return x[:, 0]
        places = torch.arange(mask.shape[1], device=mask.device)
        last = (mask * places).argmax(1)[:, None, None].expand(-1, -1, x.shape[2])  # (B, 1, D)
        return self.head(x.gather(1, last)[:, 0])


def _eos_id(arch: Any) -> int:
    """Id of the token that ends a text.

    Raises:
        ValueError: There is none, so that no state of the causal encoder represents the whole text.
    """
    eos = arch.eos_token_id
    if not isinstance(eos, int) or not 0 <= eos < arch.vocab_size:
        raise ValueError(f"text.arch: eos_token_id is {eos}, but {arch.model_type} is causal: it needs a token at the "
                         f"end of a text, with an id below vocab_size ({arch.vocab_size}), that sees all of it")
    return eos


def _gate_closed(tower: TextTower, text: Text) -> Tensor:
    """Run the tower alone: tokens that may be attended to, and pooled states, (B, L + 1, D)."""
    x, mask = tower.embed(text["input_ids"]), tower.mask(text)
    for block in tower.blocks:
        x = block(x, mask)
    x = tower.norm(x)
    return torch.cat([x * mask[..., None], tower.pool(x, mask)[:, None]], dim=1)


def _library_outputs(model: Any, tower: TextTower, text: Text) -> Tensor:
    """Compute the same as `_gate_closed` by transformers' own forward pass."""
    mask = tower.mask(text)
    outputs = model(input_ids=text["input_ids"], attention_mask=mask.long())
    states = outputs.last_hidden_state  # (B, L, D)
    pooled = states[:, 0] if tower.family.pooling == "first" else outputs.pooler_output
    return torch.cat([states * mask[..., None], pooled[:, None]], dim=1)


def _example(model: Any, tower: TextTower) -> Text:
    """Make two texts of random tokens, the second with padding."""
    padding, length = model.config.pad_token_id or 0, min(9, max(tower.max_tokens, 1))
    ids = torch.randint(min(padding + 1, tower.vocab_size - 2), tower.vocab_size - 1, (2, length))  # (B, L)
    mask = torch.ones_like(ids)
    ids[1, -2:], mask[1, -2:] = padding, 0
    if tower.eos_id is not None:
        ids[ids == tower.eos_id] = (tower.eos_id or tower.vocab_size) - 1
        ids[0, -1] = ids[1, -min(3, length)] = tower.eos_id
    return Text(input_ids=ids, attention_mask=mask)


COMPARISON = Comparison("transformers", _example, _library_outputs, _gate_closed, own_dropouts=True,
                         spare_modules=("rotary_emb", "pooler.activation"),
                         spare_tensors=("position_ids", "token_type_ids", "inv_freq", "pooler.dense.weight",
                                        "pooler.dense.bias"))


@lru_cache
def _check_parts(arch: str) -> None:
    """Check on a small copy that a `TextTower` computes the same as transformers; cached for each configuration.

    Args:
        arch: `TextTowerConfig.arch` as JSON.

    Raises:
        ValueError: The tower would leave out a part of the encoder or compute something else; names it.
    """
    config = TextTowerConfig(_small(json.loads(arch)))

    def build() -> tuple[nn.Module, nn.Module]:
        model = make_encoder(config)
        return model, TextTower(config, 0, 1, model)

    COMPARISON.check_copy(build, f"text.arch: {config.arch['model_type']}")


def _small(arch: dict[str, Any]) -> dict[str, Any]:
    """Shrink a configuration, keeping all parts; sizes that equal `hidden_size` stay equal to it."""
    plain = TextTowerConfig(arch).resolve()
    facts, names = plain.to_dict(), plain.attribute_map
    vocabulary = min(plain.vocab_size, 80)
    small: dict[str, Any] = {key: 32 for key, value in facts.items()
                             if value == plain.hidden_size and key.endswith(("_size", "_dim"))}
    small |= {key: vocabulary - 1 - (key != "eos_token_id") for key, value in facts.items()
              if key.endswith("_token_id") and isinstance(value, int) and value >= vocabulary}
    small |= {key: value for key, value in {"local_attention": 4, "intermediate_size": 48, "hidden_dim": 48}.items()
              if key in facts}
    if types := arch.get("layer_types"):
        small["layer_types"] = [types[0], types[-1] if len(types) == 1 else types[1]]
    small |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": vocabulary}
    return {names.get(key, key): value for key, value in (arch | small).items()}

"""Encoders of transformers that the text tower knows, by family."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from torch import nn

from egovlpv2.model.text_block import TextLayer

Pooling = Literal["first", "eos", "last"]


class TextFamily(NamedTuple):
    """What the text tower needs to know of a family of encoders."""

    layers: Callable[[Any], list[TextLayer]]  # of a transformers model
    final_norm: Callable[[Any], nn.Module]  # after the last layer
    pooling: Pooling  # token whose state represents the text
    pre_norm: bool = False  # hidden states between layers have no norm
    masked: bool = True  # False if padding is attended to, as in training


def _bert(model: Any) -> list[TextLayer]:
    return [
        TextLayer(
            {name: getattr(layer.attention.self, name) for name in ("query", "key", "value")},
            layer.attention.self.num_attention_heads,
            layer.attention.output.dense, layer.attention.output.LayerNorm, layer.output.LayerNorm,
            {"fc1": layer.intermediate.dense, "fc2": layer.output.dense}, layer.intermediate.intermediate_act_fn,
            attention_dropout=layer.attention.self.dropout.p, out_dropout=layer.output.dropout.p,
            mlp_dropout=layer.output.dropout.p,
        ) for layer in model.encoder.layer
    ]


def _distilbert(model: Any) -> list[TextLayer]:
    return [
        TextLayer(
            {"query": layer.attention.q_lin, "key": layer.attention.k_lin, "value": layer.attention.v_lin},
            model.config.num_attention_heads, layer.attention.out_lin, layer.sa_layer_norm, layer.output_layer_norm,
            {"fc1": layer.ffn.lin1, "fc2": layer.ffn.lin2}, layer.ffn.activation,
            attention_dropout=layer.attention.dropout.p, mlp_dropout=layer.ffn.dropout.p,
        ) for layer in model.transformer.layer
    ]


def _clip(model: Any, causal: bool = True) -> list[TextLayer]:
    return [
        TextLayer(
            {"query": layer.self_attn.q_proj, "key": layer.self_attn.k_proj, "value": layer.self_attn.v_proj},
            model.config.num_attention_heads, layer.self_attn.out_proj, layer.layer_norm1, layer.layer_norm2,
            {"fc1": layer.mlp.fc1, "fc2": layer.mlp.fc2}, layer.mlp.activation_fn, pre_norm=True,
            attention_dropout=model.config.attention_dropout, causal=causal,
        ) for layer in model.encoder.layers
    ]


def _siglip(model: Any) -> list[TextLayer]:
    return _clip(model, causal=False)


def _modernbert(model: Any) -> list[TextLayer]:
    config = model.config
    if config.hidden_size // config.num_attention_heads % 2:
        raise ValueError(f"text.arch: rotary positions need heads of an even width, and hidden_size "
                         f"{config.hidden_size} in {config.num_attention_heads} heads has an odd one")
    return [
        TextLayer(
            {"qkv": layer.attn.Wqkv}, config.num_attention_heads, layer.attn.Wo, layer.attn_norm, layer.mlp_norm,
            {"mlp": layer.mlp}, pre_norm=True, attention_dropout=config.attention_dropout,
            out_dropout=config.attention_dropout,
            window=config.sliding_window if kind == "sliding_attention" else None,
            rotary_base=config.rope_parameters[kind]["rope_theta"],
        ) for layer, kind in zip(model.layers, config.layer_types, strict=True)
    ]


def _no_norm(model: Any) -> nn.Module:
    return nn.Identity()


_BERT = TextFamily(_bert, _no_norm, "first")
_FAMILIES = {
    "distilbert": TextFamily(_distilbert, _no_norm, "first"),
    "modernbert": TextFamily(_modernbert, lambda model: model.final_norm, "first", pre_norm=True),
    "clip_text_model": TextFamily(_clip, lambda model: model.final_layer_norm, "eos", pre_norm=True),
    "siglip_text_model": TextFamily(_siglip, lambda model: model.final_layer_norm, "last", pre_norm=True,
                                    masked=False),
}
_FAMILIES["siglip2_text_model"] = _FAMILIES["siglip_text_model"]


def family_of(model_type: str) -> TextFamily:
    """Look up the family of a transformers model type; BERT's if it is not one with parts of its own."""
    return _FAMILIES.get(model_type, _BERT)

"""Encoders of transformers: configuration and construction."""

from copy import deepcopy
from dataclasses import dataclass, field
from pickle import PickleError
from typing import Annotated, Any, TypedDict

import torch
from huggingface_hub.errors import StrictDataclassError
from msgspec import Meta
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    Siglip2TextModel,
    SiglipTextModel,
)

from egovlpv2.io.schema import check
from egovlpv2.model.bounds import Depth, Share, Width
from egovlpv2.model.library_check import STRUCTURE_ERRORS

_ROBERTA_BASE = {"model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1,
                 "layer_norm_eps": 1e-5}


# Arguments of older releases of transformers, with the only values that today's models implement.
_OLDER = {"position_embedding_type": "absolute", "gradient_checkpointing": False, "torch_dtype": "float32"}
# Models that `AutoModel` doesn't know.
_CLASSES: dict[str, Any] = {"siglip_text_model": SiglipTextModel, "siglip2_text_model": Siglip2TextModel}
_MOST_ADDED_TOKENS = 8  # that a text tower may have beyond its initial weights, such as a mask token for CLIP's
# Settings that change the outputs but not the shapes of the weights.
_SETTINGS = ("num_hidden_layers", "num_attention_heads", "hidden_act", "hidden_activation", "activation",
             "eos_token_id", "layer_norm_eps", "norm_eps", "sliding_window", "layer_types", "rope_parameters")
_ROBERTAS = {"roberta", "xlm-roberta", "camembert"}  # the same model under several names
_UNUSED = ("pooler.", "embeddings.position_ids")  # a file may lack them


class _Arch(TypedDict, total=False):
    """Types and bounds of the sizes of a transformers encoder."""

    model_type: str
    vocab_size: Annotated[int, Meta(ge=1, le=1 << 24)]
    hidden_size: Width
    num_hidden_layers: Depth
    num_attention_heads: Width
    intermediate_size: Width
    max_position_embeddings: Width
    type_vocab_size: Width
    pad_token_id: Annotated[int, Meta(ge=0)] | None
    eos_token_id: Annotated[int, Meta(ge=0)] | None
    layer_norm_eps: Annotated[float, Meta(gt=0, lt=1)]
    hidden_dropout_prob: Share
    attention_probs_dropout_prob: Share
    attention_dropout: Share
    local_attention: Width
    global_attn_every_n_layers: Width
    n_heads: Width
    n_layers: Depth
    initializer_range: Annotated[float, Meta(ge=0)]
    hidden_act: str


@dataclass
class TextTowerConfig:
    """Configuration of the text tower.

    Args:
        arch: A transformers configuration: `model_type` (`roberta`, `bert` and the like, `distilbert`, `modernbert`,
            `clip_text_model`, `siglip_text_model`), `hidden_size`, `num_hidden_layers`, ...; by default that of
            roberta-base.
        init: Initial weights: a transformers name or local folder (`roberta-base`); None for random ones.
        tokenizer: The matching tokenizer, a transformers name or local folder.
    """

    arch: dict[str, Any] = field(default_factory=lambda: dict(_ROBERTA_BASE))
    init: str | None = None
    tokenizer: str = "roberta-base"

    def __post_init__(self) -> None:
        check(self.arch, _Arch, "arch")

    def resolve(self) -> PreTrainedConfig:
        """Build the configuration object of transformers.

        Raises:
            ValueError: transformers doesn't know the model or one of the arguments; names it.
        """
        arch = dict(self.arch)
        if "model_type" not in arch:
            raise ValueError("text.arch needs a `model_type`, such as roberta or bert")
        kind = arch.pop("model_type")
        try:
            config, plain = AutoConfig.for_model(kind, **arch), AutoConfig.for_model(kind)
        except (StrictDataclassError, *STRUCTURE_ERRORS) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"text.arch: transformers knows no such configuration: {reason}") from error
        known = plain.to_dict().keys() | plain.attribute_map.keys() | _extra_arguments(kind)
        for key, value in arch.items():
            if key not in known and _OLDER.get(key, arch) != value:
                raise ValueError(f"text.arch: {key} is not an argument of {kind}")
        return config


def _extra_arguments(kind: str) -> set[str]:
    """Arguments that a configuration turns into others."""
    return {"global_rope_theta", "local_rope_theta", "global_attn_every_n_layers"} if kind == "modernbert" else set()


def make_encoder(config: TextTowerConfig) -> Any:
    """Build an encoder of transformers, with initial weights if the configuration names some.

    Raises:
        ValueError: transformers has no such encoder, or `init` doesn't fit it.
    """
    arch = config.resolve()
    return _build(arch) if config.init is None else _load(config.init, arch)


def _build(arch: PreTrainedConfig) -> PreTrainedModel:
    """Build a transformers model with random weights."""
    try:
        if arch.model_type in _CLASSES:
            return _CLASSES[arch.model_type](arch)
        return AutoModel.from_config(arch)
    except STRUCTURE_ERRORS as error:  # transformers hardly validates its arguments
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"text.arch: transformers can't build {arch.model_type}: {reason}") from error


class _OtherModel(ValueError):
    """Initial weights are of another model than the configuration says."""


def _check_stored(source: str, theirs: PreTrainedConfig, arch: PreTrainedConfig) -> None:
    """Compare settings that shapes of weights don't show with those that the weights were trained with."""
    if theirs.model_type != arch.model_type and not {theirs.model_type, arch.model_type} <= _ROBERTAS:
        raise _OtherModel(f"text.init: {source} holds a {theirs.model_type}, and text.arch is a {arch.model_type}")
    wrong = [f"{name} is {getattr(theirs, name)} there and {getattr(arch, name)} in text.arch" for name in _SETTINGS
             if hasattr(theirs, name) and getattr(theirs, name) != getattr(arch, name, None)]
    if wrong:
        raise _OtherModel(f"text.init: {source} was trained as another model: {'; '.join(wrong)}")


def _load(name_or_path: str, arch: PreTrainedConfig) -> PreTrainedModel:
    """Load a transformers model strictly; only weights that are unused here, such as a pooler's, may be missing."""
    kind: Any = _CLASSES.get(arch.model_type, AutoModel)
    try:
        theirs = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False).get_text_config()
        _check_stored(name_or_path, theirs, arch)
        rows, stored = getattr(theirs, "vocab_size", arch.vocab_size), deepcopy(arch)
        stored.vocab_size = rows if rows < arch.vocab_size <= rows + _MOST_ADDED_TOKENS else arch.vocab_size
        model, report = kind.from_pretrained(name_or_path, config=stored, dtype=torch.float32, trust_remote_code=False,
                                             output_loading_info=True)
        if stored.vocab_size != arch.vocab_size:
            model.resize_token_embeddings(arch.vocab_size, mean_resizing=False)
    except _OtherModel:
        raise
    except (OSError, RuntimeError, ValueError, SafetensorError, PickleError) as error:
        raise ValueError(f"text.init: no weights that fit text.arch at {name_or_path!r}: {str(error).splitlines()[0]}"
                         " (offline, give a folder that save_pretrained wrote)") from error
    missing = [key for key in report["missing_keys"] if not key.startswith(_UNUSED)]
    if missing:
        raise ValueError(f"text.init: {name_or_path} lacks {', '.join(sorted(missing)[:5])}: it is another model than"
                         " text.arch says")
    return model

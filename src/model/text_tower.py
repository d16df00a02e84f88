"""Text transformer with cross-attention, built from any transformers encoder with BERT's layers (RoBERTa, MiniLM, ...).

Letters: `B` texts, `L` tokens, `D` width.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, TypedDict

import torch
from huggingface_hub.errors import StrictDataclassError
from msgspec import Meta
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from egovlpv2.io.schema import check
from egovlpv2.model.attention import attend
from egovlpv2.model.bounds import Depth, Share, Width
from egovlpv2.model.fusion import GatedCrossAttention
from egovlpv2.model.library_check import STRUCTURE_ERRORS, check_same_outputs, isolated_cpu, randomize

_ROBERTA_BASE = {"model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1,
                 "layer_norm_eps": 1e-5}


# Arguments of older releases of transformers, with the only values that today's models implement.
_OLDER = {"position_embedding_type": "absolute", "gradient_checkpointing": False, "torch_dtype": "float32"}


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
    layer_norm_eps: Annotated[float, Meta(gt=0, lt=1)]
    hidden_dropout_prob: Share
    attention_probs_dropout_prob: Share
    initializer_range: Annotated[float, Meta(ge=0)]
    hidden_act: str


@dataclass
class TextTowerConfig:
    """Configuration of the text tower.

    Args:
        arch: A transformers configuration: `model_type`, `hidden_size`, `num_hidden_layers`, ...; by default
            that of roberta-base.
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
        known = plain.to_dict().keys() | plain.attribute_map.keys()
        for key, value in arch.items():
            if key not in known and _OLDER.get(key, arch) != value:
                raise ValueError(f"text.arch: {key} is not an argument of {kind}")
        return config


class TextBlock(nn.Module):
    """A BERT layer with cross-attention on its self-attention's output, before the residual and the norm.

    `x = LN(x + SA(x) + alpha * CA(SA(x), video))`, `x = LN(x + FFN(x))`.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    fc1: nn.Linear
    fc2: nn.Linear
    norm1: nn.LayerNorm
    norm2: nn.LayerNorm
    activation: Callable[[Tensor], Tensor]

    def __init__(self, layer: Any, fusion: GatedCrossAttention | None) -> None:
        super().__init__()
        attention, output = layer.attention, layer.output
        self.num_heads: int = attention.self.num_attention_heads
        self.attention_dropout: float = attention.self.dropout.p
        self.query, self.key, self.value = attention.self.query, attention.self.key, attention.self.value
        self.out, self.norm1 = attention.output.dense, attention.output.LayerNorm
        self.fc1, self.activation = layer.intermediate.dense, layer.intermediate.intermediate_act_fn
        self.fc2, self.norm2 = output.dense, output.LayerNorm
        self.dropout = nn.Dropout(output.dropout.p)
        self.fusion = fusion

    def forward(self, x: Tensor, mask: Tensor, video: Tensor | None = None) -> Tensor:
        """Run the layer.

        Args:
            x: (B, L, D).
            mask: (B, L) bool, False on padding.
            video: (B, S, D') hidden states of the video tower; None leaves the gate closed.

        Returns:
            (B, L, D).
        """
        dropout = self.attention_dropout if self.training else 0.0
        y = attend(self.query(x), self.key(x), self.value(x), self.num_heads, mask, dropout)  # (B, L, D)
        y = self.dropout(self.out(y))
        if video is not None:
            assert self.fusion is not None
            y = self.fusion(y, video)
        x = self.norm1(x + y)
        return self.norm2(x + self.dropout(self.fc2(self.activation(self.fc1(x)))))


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
        if model is None:
            model = _make_encoder(config)
            _check_parts(json.dumps(config.arch, sort_keys=True))
        arch, layers = model.config, model.encoder.layer
        if num_fused > len(layers):
            raise ValueError(f"num_fused_layers is {num_fused}, but the text tower has {len(layers)} layers")
        self.dim: int = arch.hidden_size
        self.vocab_size: int = arch.vocab_size
        self.num_fused = num_fused
        self.num_heads: int = arch.num_attention_heads
        self.norm_eps: float = arch.layer_norm_eps
        self.dropout: float = arch.hidden_dropout_prob
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

    def embed(self, input_ids: Tensor) -> Tensor:
        """Embed tokens and their positions: (B, L) -> (B, L, D)."""
        if input_ids.shape[1] > self.max_tokens:
            raise ValueError(f"texts of {input_ids.shape[1]} tokens are too long for a text tower of {self.max_tokens} "
                             "positions: lower max_tokens or eval_max_tokens")
        return self.embeddings(input_ids=input_ids)


def _make_encoder(config: TextTowerConfig) -> Any:
    arch = config.resolve()
    model = _build(arch) if config.init is None else _load_encoder(config.init, arch)
    if not hasattr(model, "embeddings") or not hasattr(getattr(model, "encoder", None), "layer"):
        raise ValueError(f"text.arch: {arch.model_type} doesn't have BERT's layers; use roberta, bert or a similar one")
    return model


def _build(arch: PreTrainedConfig) -> PreTrainedModel:
    """Build a transformers model with random weights."""
    try:
        return AutoModel.from_config(arch)
    except STRUCTURE_ERRORS as error:  # transformers hardly validates its arguments
        raise ValueError(f"text.arch: transformers can't build it: {' '.join(str(error).split())[:200]}") from error


def _load_encoder(name_or_path: str, arch: PreTrainedConfig) -> PreTrainedModel:
    """Load a transformers model strictly; only the weights of its pooler, which is unused here, may be missing."""
    try:
        model, report = AutoModel.from_pretrained(name_or_path, config=arch, dtype=torch.float32,
                                                  output_loading_info=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"text.init: no weights that fit text.arch at {name_or_path!r}: {str(error).splitlines()[0]}"
                         " (offline, give a folder that save_pretrained wrote)") from error
    missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    if missing:
        raise ValueError(f"text.init: {name_or_path} lacks {', '.join(sorted(missing)[:5])}: it is another model than"
                         " text.arch says")
    return model


@lru_cache
def _check_parts(arch: str) -> None:
    """Check on a small copy that a `TextTower` computes the same as transformers; cached for each configuration.

    Args:
        arch: `TextTowerConfig.arch` as JSON.

    Raises:
        ValueError: The tower would leave out a part of the encoder or compute something else; names it.
    """
    config = TextTowerConfig(_small(json.loads(arch)))
    what = f"text.arch: {config.arch['model_type']}"
    with isolated_cpu():
        try:
            model = randomize(_make_encoder(config))
            tower = TextTower(config, 0, 1, model).eval()
        except STRUCTURE_ERRORS as error:
            raise ValueError(f"{what} is not supported: it has another structure ({error})") from error
        padding = model.config.pad_token_id or 0
        ids = torch.randint(padding + 1, tower.vocab_size, (2, min(9, max(tower.max_tokens, 1))))  # (B, L)
        mask = torch.ones_like(ids)
        ids[1, -2:], mask[1, -2:] = padding, 0

        def theirs() -> Tensor:
            return model(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]

        def ours() -> Tensor:
            x = tower.embed(ids)
            for block in tower.blocks:
                x = block(x, mask.bool())
            return x * mask[..., None]

        check_same_outputs(model, theirs, ours, what, "transformers", own_dropouts=True)


def _small(arch: dict[str, Any]) -> dict[str, Any]:
    """Shrink a configuration, keeping all parts; sizes that equal `hidden_size` stay equal to it."""
    plain = TextTowerConfig(arch).resolve()
    widths = {key: 32 for key, value in plain.to_dict().items()
              if value == plain.hidden_size and key.endswith(("_size", "_dim"))}
    vocabulary = min(plain.vocab_size, (plain.pad_token_id or 0) + 64)
    return {**arch, **widths, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 48, "vocab_size": vocabulary}

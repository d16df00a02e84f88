"""Guess the origin of weights that are not EgoVLPv2's from their names, for error messages."""

import re
from collections.abc import Iterable

# Pattern at the start of any name, without `module.` or `model.`, and its origin; the first match counts.
_ORIGINS = [
    (r"(features|unfused)$", "features that `egovlpv2 extract` wrote"),
    (r"text_model\.encoder\.layer\.\d+\.alpha_t2i|text_tower\.", "EgoVLPv2 with a part missing"),
    (r"text_model\.transformer\.layer\.", "EgoVLP, the first version"),
    (r"textual\.|text_model\.wte|visual\.blocks\.\d+\.(timeattn|norm3)", "LaViLa or AVION"),
    (r"visual\.transformer\.resblocks\.|transformer\.resblocks\.|visual\.(conv1|proj)", "CLIP of OpenAI or OpenCLIP"),
    (r"vision_model\.(encoder|embeddings)\.", "CLIP or SigLIP of transformers"),
    (r"video_model\.", "the video tower of Frozen in Time, EgoVLP or another TimeSformer alone"),
    (r"blocks\.\d+\.(temporal_|timeattn)|time_embed", "TimeSformer"),
    (r"encoder\.blocks\.\d+\.|decoder\.blocks\.|mask_token", "a masked autoencoder such as VideoMAE"),
    (r"blocks\.\d+\.attn\.|cls_token$", "a ViT of timm"),
    (r"(roberta|bert)\.|encoder\.layer\.\d+\.|embeddings\.word_embeddings\.", "BERT or RoBERTa of transformers"),
    (r"(head|answer_head|feature_encoder|xGPN|cq_attention)\.", "a head such as that of NLQ, MQ or QFVS, without a "
                                                                "backbone"),
]


def describe(names: Iterable[object]) -> str:
    """Describe the likely origin of weights with these names."""
    plain = [re.sub(r"^(module\.|model\.)+", "", name) for name in names if isinstance(name, str)]
    for pattern, origin in _ORIGINS:
        if any(re.match(pattern, name) for name in plain):
            return f"it looks like {origin}"
    return f"it begins with {plain[0]!r:.60}" if plain else "it is empty"

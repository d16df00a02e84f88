"""The authors' initialisation of the layers that have no pre-trained weights."""

from collections.abc import Iterator

from torch import nn

from egovlpv2.model.backbone import Backbone
from egovlpv2.model.fusion import GatedCrossAttention
from egovlpv2.model.space_time_block import SpaceTimeBlock

_STD = 0.02  # BERT's


def init_as_released(backbone: Backbone) -> None:
    """Initialise the new layers of a backbone as the authors' code does; towers and alphas are unchanged.

    Temporal embedding: zeros. Temporal attention: queries, keys, values and all biases zero, output weights one.
    Cross-attention of the video and projectors: torch's default. Cross-attention of the text, stacked layers,
    transforms, VTM and MLM heads: N(0, 0.02), biases zero.

    Args:
        backbone: Changed in place.
    """
    nn.init.zeros_(backbone.video_tower.temporal_embed)
    for block in backbone.video_tower.blocks:
        assert isinstance(block, SpaceTimeBlock)
        if block.time_attn is not None:
            for name, parameter in block.time_attn.named_parameters():
                if "norm" not in name:
                    nn.init.constant_(parameter, 1.0 if name == "proj.weight" else 0.0)
    in_video, in_text = (
        [module for module in tower.modules() if isinstance(module, GatedCrossAttention)]
        for tower in (backbone.video_tower, backbone.text_tower))
    for layer in _linears(*in_video, backbone.video_projector, backbone.text_projector):
        layer.reset_parameters()
    stacked = [] if backbone.stack is None else [backbone.stack]
    heads = [] if backbone.config.fusion == "none" else [backbone.fused_video_transform, backbone.fused_text_transform,
                                                         backbone.match_head, backbone.masked_word_head]
    for layer in _linears(*in_text, *stacked, *heads):
        nn.init.normal_(layer.weight, std=_STD)
        nn.init.zeros_(layer.bias)


def _linears(*modules: nn.Module) -> Iterator[nn.Linear]:
    for module in modules:
        yield from (part for part in module.modules() if isinstance(part, nn.Linear))

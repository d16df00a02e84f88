"""The authors' names of grounding heads, to ours."""

import re

from torch import Tensor

State = dict[str, Tensor]

# Released name -> ours, all applied in this order.
_VSLNET_NAMES = [
    (r"^feature_encoder\.", "encoder."),
    (r"\bpos_embedding\.position_embeddings\.", "positions."),
    (r"\bconv_block\.depthwise_separable_conv\.(\d)\.0\.", r"convolutions.\1.depthwise."),
    (r"\bconv_block\.depthwise_separable_conv\.(\d)\.1\.", r"convolutions.\1.pointwise."),
    (r"\bconv_block\.layer_norms\.", "norms."),
    (r"\battention_block\.layer_norm(\d)\.", r"attention.norm\1."),
    (r"\battention_block\.out_layer\.", "attention.out."),
    (r"\battention_block\.", "attention."),
    (r"^cq_attention\.w4C$", "attention.of_video.weight"),
    (r"^cq_attention\.w4Q$", "attention.of_query.weight"),
    (r"^cq_attention\.w4mlu$", "attention.of_both"),
    (r"^cq_attention\.cqa_linear\.", "attention.out."),
    (r"^cq_concat\.weighted_pool\.weight$", "query_pool.weight.weight"),
    (r"^cq_concat\.conv1d\.", "query_pool.out."),
    (r"^highlight_layer\.conv1d\.", "highlighter."),
    (r"^predictor\.(start|end)_layer_norm\.", r"predictor.\1_norm."),
    (r"^predictor\.(start|end)_block\.", r"predictor.\1."),
    (r"^video_affine\.linear\.", "video_affine."),
    (r"\bconv1d\.", ""),
]
_TRANSPOSED = ("cq_attention.w4C", "cq_attention.w4Q", "cq_concat.weighted_pool.weight")  # (D, 1) there, (1, D) here


def convert_vslnet(state: State) -> State:
    """A released VSLNet: its convolutions of width 1 are linear layers of ours."""
    converted = {}
    for name, tensor in state.items():
        ours = name
        for pattern, replacement in _VSLNET_NAMES:
            ours = re.sub(pattern, replacement, ours)
        if name.endswith("conv1d.weight") or ".1.weight" in name and tensor.ndim == 3:
            tensor = tensor.squeeze(2)  # (D', D, 1) -> (D', D)
        if name == "cq_attention.w4mlu":
            tensor = tensor.flatten()  # (1, 1, D) -> (D,)
        converted[ours] = tensor.T if name in _TRANSPOSED else tensor
    return converted

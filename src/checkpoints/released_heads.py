"""Conversion of the authors' heads for grounding, moments and answers to this project's names."""

import re

import torch
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
_VSGN_NAMES = [
    (r"^xGPN\.conv0\.0\.", "pyramid.stem."),
    (r"^xGPN\.levels_enc\.(\d)\.tconv1\.", r"pyramid.down.\1.convolution."),
    (r"^xGPN\.levels_enc\.(\d)\.nconv1\.mlp\.", r"pyramid.down.\1.graph."),
    (r"^xGPN\.levels_dec\.(\d)\.0\.", r"pyramid.up.\1."),
    (r"^xGPN\.levels1\.(\d)\.0\.", r"pyramid.merge.\1."),
    (r"^xGPN\.levels2\.(\d)\.0\.", r"pyramid.lateral.\1."),
    (r"^head_dec\.cls_(tower|logits)\.", r"class_\1."),
    (r"^head_dec\.bbox_tower\.", "segment_tower."),
    (r"^head_dec\.bbox_pred\.", "segment_deltas."),
    (r"^bd_adjust\.(start|end)_conv\.0\.", r"\1_offset.convolution."),
    (r"^bd_adjust\.(start|end)_conv\.2\.", r"\1_offset.out."),
    (r"^head_(actionness|startness|endness)\.", r"\1."),
]
_ACTIONFORMER_BLOCK = [
    (r"\.ln(\d)\.", r".norm\1."),
    (r"\.attn\.(query|key|value)_conv\.conv\.", r".attention.\1_conv."),
    (r"\.attn\.proj\.", ".attention.out."),
    (r"\.attn\.", ".attention."),
    (r"\.drop_path_attn\.scale$", ".attention_scale"),
    (r"\.drop_path_mlp\.scale$", ".mlp_scale"),
    (r"^neck\.fpn_norms\.", "norms."),
]
_ACTIONFORMER_NAMES = [
    (r"^backbone\.embd\.(\d+)\.conv\.", r"embedding.\1.convolution."),
    (r"^backbone\.embd_norm\.(\d+)\.", r"embedding.\1.norm."),
    (r"^backbone\.(stem|branch)\.", r"\1."),
    (r"^cls_head\.cls_head\.conv\.", "class_head.out."),
    (r"^reg_head\.offset_head\.conv\.", "offset_head.out."),
    (r"^cls_head\.head\.(\d+)\.conv\.", r"class_head.layers.\1.convolution."),
    (r"^reg_head\.head\.(\d+)\.conv\.", r"offset_head.layers.\1.convolution."),
    (r"^cls_head\.norm\.(\d+)\.", r"class_head.layers.\1.norm."),
    (r"^reg_head\.norm\.(\d+)\.", r"offset_head.layers.\1.norm."),
    *_ACTIONFORMER_BLOCK,
]
_OPENTAD_NAMES = [
    (r"^projection\.embed\.(\d+)\.conv\.", r"embedding.\1.convolution."),
    (r"^projection\.embed\.(\d+)\.norm\.", r"embedding.\1.norm."),
    (r"^projection\.(stem|branch)\.", r"\1."),
    (r"^rpn_head\.cls_head\.", "class_head.out."),
    (r"^rpn_head\.reg_head\.", "offset_head.out."),
    (r"^rpn_head\.cls_convs\.(\d+)\.conv\.", r"class_head.layers.\1.convolution."),
    (r"^rpn_head\.reg_convs\.(\d+)\.conv\.", r"offset_head.layers.\1.convolution."),
    (r"^rpn_head\.cls_convs\.(\d+)\.norm\.", r"class_head.layers.\1.norm."),
    (r"^rpn_head\.reg_convs\.(\d+)\.norm\.", r"offset_head.layers.\1.norm."),
    (r"^rpn_head\.loss_normalizer$", "loss_normalizer"),
    *_ACTIONFORMER_BLOCK,
]
_LEVEL_SCALE = re.compile(r"^(?:reg|rpn)_head\.scale\.(\d+)\.scale$")
_FIRST_NORMALIZER = 100.0  # which the authors' files don't store
_TASKQA_NAMES = {"projector_1": "hidden", "projector_2": "out"}
_TRANSPOSED = ("cq_attention.w4C", "cq_attention.w4Q", "cq_concat.weighted_pool.weight")  # (D, 1) -> (1, D)


def convert_vslnet(state: State) -> State:
    """Convert a released VSLNet; its convolutions of width 1 become linear layers."""
    converted = {}
    for name, tensor in state.items():
        ours = _rename(name, _VSLNET_NAMES)
        if name.endswith("conv1d.weight") or ".1.weight" in name and tensor.ndim == 3:
            tensor = tensor.squeeze(2)  # (D', D, 1) -> (D', D)
        if name == "cq_attention.w4mlu":
            tensor = tensor.flatten()  # (1, 1, D) -> (D,)
        converted[ours] = tensor.T if name in _TRANSPOSED else tensor
    return converted


def convert_vsgn(state: State) -> State:
    """Convert a released VSGN; the last convolution of a boundary offset, of width 1, becomes a linear layer."""
    converted = {_rename(name, _VSGN_NAMES): tensor for name, tensor in state.items()}
    return {name: tensor.squeeze(2) if name.endswith("_offset.out.weight") else tensor
            for name, tensor in converted.items()}


def convert_actionformer(state: State) -> State:
    """Convert a released ActionFormer of its authors or of OpenTAD; scales of all levels become one vector.

    Raises:
        ValueError: A name is of neither, or a level has no scale.
    """
    opentad = any(name.startswith("projection.") for name in state)
    rules = _OPENTAD_NAMES if opentad else _ACTIONFORMER_NAMES
    scales = {int(match[1]): tensor for name, tensor in state.items() if (match := _LEVEL_SCALE.match(name))}
    if sorted(scales) != list(range(len(scales))) or not scales:
        raise ValueError(f"an ActionFormer has a scale for each of its levels; these are there: {sorted(scales)}")
    converted = {"offset_scales": torch.stack([scales[level].reshape(()) for level in range(len(scales))]),
                 "loss_normalizer": torch.tensor(_FIRST_NORMALIZER)}
    for name, tensor in state.items():
        if _LEVEL_SCALE.match(name):
            continue
        ours = _rename(name, rules)
        if ours == name:
            raise ValueError(f"{name} is not a tensor of an ActionFormer")
        per_channel = "norm" in ours or ours.endswith("_scale")
        converted[ours] = tensor.flatten() if per_channel and tensor.ndim == 3 else tensor  # (1, D, 1) -> (D,)
    return converted


def convert_answer_head(state: State) -> State:
    """Extract and convert the answer head of a released EgoTaskQA model; the other keys belong to its backbone."""
    split = {name: name.rpartition(".") for name in state}
    return {f"{_TASKQA_NAMES[module]}.{kind}": state[name] for name, (module, _, kind) in split.items()
            if module in _TASKQA_NAMES}


def _rename(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name

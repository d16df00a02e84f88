"""The authors' checkpoints: read their tensors, convert their names, and derive the configuration from the shapes.

A released file pickles an object of the authors' package beside its tensors. It is read by torch's unpickler for
weights, which accepts tensors, containers and numbers; every other class is replaced by an inert stub. No code of a
file runs.
"""

import re
from pathlib import Path
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from egovlpv2.arguments import check_call
from egovlpv2.checkpoints.foreign import describe
from egovlpv2.checkpoints.neighbours import layout_of, rename
from egovlpv2.checkpoints.released_heads import (
    convert_actionformer,
    convert_answer_head,
    convert_vsgn,
    convert_vslnet,
)
from egovlpv2.checkpoints.torch_files import State, check_tensors, read_torch_file
from egovlpv2.model.config import BackboneConfig
from egovlpv2.model.encoder import TextTowerConfig
from egovlpv2.model.vit import VideoTowerConfig

_TEXT_LAYER = r"^text_model\.encoder\.layer\.(\d+)\."
# Released name -> ours, tried in this order.
_EGOVLPV2_NAMES = [
    (r"^video_model\.(cls_token|pos_embed|temporal_embed|patch_embed\.|norm\.)", r"video_tower.\1"),
    (r"^video_model\.blocks\.(\d+)\.attn\.alpha_i2t", r"video_tower.blocks.\1.fusion.alpha"),
    (r"^video_model\.blocks\.(\d+)\.attn\.norm_i2t_i\.", r"video_tower.blocks.\1.fusion.norm."),
    (r"^video_model\.blocks\.(\d+)\.attn\.qkv_i2t\.", r"video_tower.blocks.\1.fusion.query."),
    (r"^video_model\.blocks\.(\d+)\.attn\.qkv_text_i2t\.", r"video_tower.blocks.\1.fusion.key_value."),
    (r"^video_model\.blocks\.(\d+)\.attn\.proj_i2t\.", r"video_tower.blocks.\1.fusion.out."),
    (r"^video_model\.blocks\.(\d+)\.timeattn\.", r"video_tower.blocks.\1.time_attn."),
    (r"^video_model\.blocks\.(\d+)\.norm3\.", r"video_tower.blocks.\1.norm_time."),
    (r"^video_model\.blocks\.", r"video_tower.blocks."),
    (r"^text_model\.embeddings\.", r"text_tower.embeddings."),
    (_TEXT_LAYER + r"alpha_t2i", r"text_tower.blocks.\1.fusion.alpha"),
    (_TEXT_LAYER + r"crossattention_t2i\.self\.(query|key_value)\.", r"text_tower.blocks.\1.fusion.\2."),
    (_TEXT_LAYER + r"crossattention_t2i\.output\.dense\.", r"text_tower.blocks.\1.fusion.out."),
    (_TEXT_LAYER + r"attention\.self\.", r"text_tower.blocks.\1."),
    (_TEXT_LAYER + r"attention\.output\.dense\.", r"text_tower.blocks.\1.out."),
    (_TEXT_LAYER + r"attention\.output\.LayerNorm\.", r"text_tower.blocks.\1.norm1."),
    (_TEXT_LAYER + r"intermediate\.dense\.", r"text_tower.blocks.\1.fc1."),
    (_TEXT_LAYER + r"output\.dense\.", r"text_tower.blocks.\1.fc2."),
    (_TEXT_LAYER + r"output\.LayerNorm\.", r"text_tower.blocks.\1.norm2."),
    (r"^vid_proj\.", r"video_projector."),
    (r"^txt_proj\.", r"text_projector."),
    (r"^cls_token$", r"fused_cls_token"),
    (r"^norm\.", r"fused_norm."),
    (r"^cross_modal_(video|text)_transform\.", r"fused_\1_transform."),
    (r"^cross_modal_(video|text)_pooler\.dense\.", r"match_head.\1_pooler."),
    (r"^itm_score\.fc\.", r"match_head.classifier."),
    (r"^mlm_score\.transform\.dense\.", r"masked_word_head.transform."),
    (r"^mlm_score\.transform\.LayerNorm\.", r"masked_word_head.norm."),
    (r"^mlm_score\.decoder\.", r"masked_word_head.decoder."),
    (r"^mlm_score\.bias$", r"masked_word_head.decoder.bias"),
]
# Dropped: a buffer that counts from 0, and a second name of `mlm_score.bias`.
_EGOVLPV2_DROPPED = re.compile(r"\.position_ids$|^mlm_score\.decoder\.bias$")

# Tensors that the sizes of a released model are derived from, and their number of dimensions.
_SIZED = {
    "video_model.patch_embed.proj.weight": 4, "video_model.pos_embed": 3, "video_model.temporal_embed": 3,
    "video_model.blocks.0.attn.qkv.weight": 2, "text_model.embeddings.word_embeddings.weight": 2,
    "text_model.embeddings.position_embeddings.weight": 2, "text_model.encoder.layer.0.intermediate.dense.weight": 2,
}
NEIGHBOURS = {"egovlp": "EgoVLP", "lavila": "LaViLa", "avion": "AVION"}


def convert(kind: str, state_dict: State) -> State:
    """Convert a released state dict to this project's names.

    Args:
        kind: `egovlpv2` for a pre-trained backbone with either projector; `taskqa` for a backbone with an answer head,
            here named `backbone.` and `answer_head.`; `vslnet`, `vsgn` or `actionformer` (of its authors or of OpenTAD)
            for a head on features; `egovlp`, `lavila` or `avion` for those dual encoders.
        state_dict: A released state dict, with or without the `module.` of a data-parallel wrapper.

    Returns:
        The state dict of the module of this project.

    Raises:
        ValueError: An argument has another type, `kind` is unknown, or a key doesn't belong to that kind.
    """
    check_call(convert, locals())
    state = {k.removeprefix("module."): v for k, v in state_dict.items()}
    heads = {"vslnet": convert_vslnet, "vsgn": convert_vsgn, "actionformer": convert_actionformer}
    if kind in heads:
        return heads[kind](state)
    if kind == "taskqa":
        return _convert_taskqa(state)
    if kind in NEIGHBOURS:
        return _convert_neighbour(kind, state)
    if kind != "egovlpv2":
        known = ["egovlpv2", "taskqa", *heads, *NEIGHBOURS]
        raise ValueError(f"kind is {kind!r}; known: {', '.join(map(repr, known))}")
    state = _join_key_value({k: v for k, v in state.items() if not _EGOVLPV2_DROPPED.search(k)})
    return {rename(k, _EGOVLPV2_NAMES, "EgoVLPv2 checkpoint"): v for k, v in state.items()}


def _convert_neighbour(kind: str, state: State) -> State:
    layout = layout_of(state)
    if layout is None or layout.name != NEIGHBOURS[kind]:
        raise ValueError(f"these are not weights of a dual encoder of {NEIGHBOURS[kind]}: {describe(state)}")
    return layout.convert(state)


def _convert_taskqa(state: State) -> State:
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(("projector_1.", "projector_2."))}
    head = {f"answer_head.{name}": tensor for name, tensor in convert_answer_head(state).items()}
    return {f"backbone.{name}": tensor for name, tensor in convert("egovlpv2", rest).items()} | head


def _join_key_value(state: State) -> State:
    """Join keys and values of the text's cross-attention into one matrix, as on the video side."""
    joined = {}
    for name, tensor in state.items():
        if "crossattention_t2i.self.value." in name:
            continue
        if "crossattention_t2i.self.key." in name:
            value = state.get(name.replace("self.key.", "self.value."))
            if value is None or value.shape[1:] != tensor.shape[1:]:
                raise ValueError(f"{name} has keys without values, or values of another shape")
            name, tensor = name.replace("self.key.", "self.key_value."), torch.cat([tensor, value])
        joined[name] = tensor
    return joined


def released_config(state: State) -> dict[str, Any]:
    """Derive the configuration of a released checkpoint from its shapes (released names, without `module.`)."""
    depth = 1 + max(int(m[1]) for k in state if (m := re.match(r"video_model\.blocks\.(\d+)\.", k)))
    vocab_size, dim = state["text_model.embeddings.word_embeddings.weight"].shape
    video_dim, _, patch, _ = state["video_model.patch_embed.proj.weight"].shape
    image = patch * round(max(state["video_model.pos_embed"].shape[1] - 1, 0) ** 0.5)
    overrides = {"depth": depth, "embed_dim": video_dim, "num_heads": video_dim // 64, "patch_size": patch,
                 "img_size": image}
    arch = {"model_type": "roberta", "vocab_size": vocab_size, "hidden_size": dim,
            "num_attention_heads": dim // 64,
            "num_hidden_layers": 1 + max(int(m[1]) for k in state if (m := re.match(_TEXT_LAYER, k))),
            "intermediate_size": state["text_model.encoder.layer.0.intermediate.dense.weight"].shape[0],
            "max_position_embeddings": state["text_model.embeddings.position_embeddings.weight"].shape[0],
            "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    widths = [v.shape[0] for k, v in sorted(state.items()) if re.match(r"vid_proj\.\d+\.weight", k)]
    frames = state["video_model.temporal_embed"].shape[1]
    video = VideoTowerConfig(  # with ImageNet's pixel statistics, which are not those of timm's ViT
        overrides=overrides, num_frames=frames, norm_eps=1e-5, pixel_mean=list(IMAGENET_DEFAULT_MEAN),
        pixel_std=list(IMAGENET_DEFAULT_STD))
    return BackboneConfig(
        video, TextTowerConfig(arch),
        num_fused_layers=sum(k.endswith("alpha_t2i") for k in state),
        text_attends_to="previous", fusion_cls="own", projector=widths,
    ).to_dict()


def strip_prefix(state: State, prefix: str) -> State:
    """Select the tensors whose names start with a prefix, and remove it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def read_released(path: Path) -> State:
    """Read the tensors of a released `.pth` of EgoVLPv2 or a neighbour, under their released names without `module.`.

    Pre-trained: `{"state_dict": {"module.<key>": ...}, "config": <object of theirs>, ...}`; fine-tuned on EgoTaskQA:
    `{"model_state_dict": ..., ...}`. A bare state dict is accepted too.

    Raises:
        ValueError: The file is missing, damaged or of another kind, or its tensors are another model's.
    """
    content = read_torch_file(path, stubs=True)
    wrapper = next((name for name in ("state_dict", "model_state_dict") if name in content), None)
    bare = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    state = check_tensors(content[wrapper] if wrapper else bare, f"{path}, {wrapper}" if wrapper else str(path))
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    looks = describe(state if wrapper else content)
    if (layout := layout_of(state)) is not None:
        if lacking := layout.lacking(state):
            raise ValueError(f"{path} holds no EgoVLPv2 weights ({looks}): it lacks {lacking[0]}, so it is not a whole "
                             f"dual encoder of {layout.name} either")
        return state
    lacking = [name for name, dims in _SIZED.items() if name not in state or state[name].ndim != dims]
    if lacking or not any(name.endswith("alpha_t2i") for name in state):
        lacks = lacking[0] if lacking else "the gates of its text tower"
        raise ValueError(f"{path} holds no EgoVLPv2 weights ({looks}): it lacks {lacks}, so it is not a released "
                         "EgoVLPv2 checkpoint")
    return state

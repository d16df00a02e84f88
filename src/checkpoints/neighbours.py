"""Checkpoints of other dual encoders: EgoVLP, LaViLa and AVION, recognised by the names of their tensors.

They become backbones without fusion. What their names don't show is set here as in their code: epsilons, activations,
pixel statistics, attention, and 64 channels in every head.
"""

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any, NamedTuple

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from egovlpv2.checkpoints.torch_files import State
from egovlpv2.model.config import BackboneConfig
from egovlpv2.model.encoder import TextTowerConfig
from egovlpv2.model.vit import VideoTowerConfig

Rules = list[tuple[str, str]]  # pattern of a name and its replacement; the first match counts

_HEAD_WIDTH = 64
_CLIP_VOCABULARY = 49408  # its last token ends a text
# Pixel statistics of LaViLa and AVION, where CLIP's weights were the first. The mean of red differs from CLIP's.
_PIXEL_MEAN, _PIXEL_STD = [0.4248129, 0.4578275, 0.4082107], [0.2686295, 0.2613026, 0.2757771]
_DROPPED = re.compile(r"^logit_scale$|\.position_ids$")  # the temperature, and a buffer that counts from 0


class _Part(NamedTuple):
    """Layout of a tower, or of a projection."""

    sized: Mapping[str, tuple[int, ...]]  # tensors that sizes are derived from: their possible numbers of dimensions
    rules: Rules


class Layout(NamedTuple):
    """Layout of a neighbour's checkpoint."""

    name: str
    video: str  # prefix of the names of the video tower
    text: str  # and of the text tower
    divided: bool  # attention in time and in space, else joint
    distilbert: bool  # text tower: DistilBERT, else CLIP's
    clip: bool  # video tower: CLIP's with a norm before the blocks, else a plain ViT
    projections: tuple[str, str]  # matrices (D, P) without bias, or prefixes of linear layers

    def lacking(self, state: State) -> list[str]:
        """Names of the tensors that sizes are derived from, where they are missing or have other dimensions."""
        return [name for part in self._parts() for name, dims in part.sized.items()
                if name not in state or state[name].ndim not in dims]

    def convert(self, state: State) -> State:
        """Convert names and shapes to those of a backbone.

        Raises:
            ValueError: A key is missing, there twice or not one of the layout; names it.
        """
        if lacking := self.lacking(state):
            raise ValueError(f"{lacking[0]} is missing or has another shape: it is not a whole dual encoder of "
                             f"{self.name}")
        rules = [rule for part in self._parts() for rule in part.rules]
        found: State = {}
        for name, tensor in state.items():
            if not _DROPPED.search(name):
                ours = _shape(rename(name, rules, f"checkpoint of {self.name}"), tensor)
                if twice := ours.keys() & found.keys():
                    raise ValueError(f"{name} is there under another name too: both are {min(twice)}")
                found |= ours
        if "video_tower.temporal_embed" not in found:  # AVION with one frame
            found["video_tower.temporal_embed"] = torch.zeros_like(found["video_tower.cls_token"])
        return found

    def config(self, state: State) -> dict[str, Any]:
        """Derive the configuration, in plain values, from the shapes of a state dict that lacks nothing."""
        name = self.projections[0]
        linear = not name.endswith(".")
        width = state[name].shape[1] if linear else len(state[f"{name}weight"])
        text = _distilbert_config(state, self.text) if self.distilbert else _clip_config(
            state, self.text, "quick_gelu" if self.divided else "gelu")
        return BackboneConfig(self._video_config(state), text, "none", 0, projector=[width], linear_projector=linear
                              ).to_dict()

    def _parts(self) -> list[_Part]:
        return [_divided(self.video) if self.divided else _joint(self.video),
                _distilbert(self.text) if self.distilbert else _clip(self.text),
                *(_projection(name, side) for name, side in zip(self.projections, ("video", "text"), strict=True))]

    def _video_config(self, state: State) -> VideoTowerConfig:
        v = self.video
        weight = state[f"{v}patch_embed.proj.weight" if self.divided else f"{v}conv1.weight"]
        patch = isqrt(weight.shape[1:].numel() // 3)
        tokens = state[f"{v}pos_embed"].shape[1] if self.divided else len(state[f"{v}positional_embedding"])
        time = state.get(f"{v}temporal_embed" if self.divided else f"{v}temporal_embedding")
        depth = count(state, rf"{v}blocks\." if self.divided else rf"{v}transformer\.resblocks\.")
        dim = len(weight)
        names = {(True, True): "vit_base_patch16_clip_quickgelu_224", (True, False): "vit_base_patch16_clip_224",
                 (False, True): "vit_base_patch16_224"}
        return VideoTowerConfig(
            names[self.clip, self.divided],
            {"depth": depth, "embed_dim": dim, "num_heads": dim // _HEAD_WIDTH, "patch_size": patch,
             "img_size": patch * isqrt(max(tokens - 1, 0))},
            num_frames=1 if time is None or time.ndim < 2 else time.shape[-2], norm_eps=1e-6,
            norm_pre_eps=1e-5 if self.clip and self.divided else None,
            pixel_mean=list(_PIXEL_MEAN if self.clip else IMAGENET_DEFAULT_MEAN),
            pixel_std=list(_PIXEL_STD if self.clip else IMAGENET_DEFAULT_STD),
            attention="divided" if self.divided else "joint")


def layout_of(state: State) -> Layout | None:
    """Recognise the layout of a state dict without `module.`; None if it is not a neighbour's dual encoder."""
    def has(pattern: str) -> bool:
        return any(re.match(pattern, name) for name in state)

    if has(r"video_model\.") and has(r"text_model\.transformer\.layer\."):
        return Layout("EgoVLP", "video_model.", "text_model.", True, True, False, ("vid_proj.0.", "txt_proj.1."))
    if has(r"visual\.blocks\.\d+\.timeattn\.") and has("image_projection"):
        distilbert, linear = has(r"textual\.transformer\.layer\."), "image_projection" in state
        return Layout("LaViLa", "visual.", "textual." if distilbert else "", True, distilbert, has(r"visual\.ln_pre\."),
                      ("image_projection", "text_projection") if linear else ("image_projection.0.",
                                                                              "text_projection.1."))
    if has(r"visual\.transformer\.resblocks\.") and has(r"textual\.transformer\.resblocks\."):
        return Layout("AVION", "visual.", "textual.", False, False, True,
                      ("visual.image_projection", "textual.text_projection"))
    return None


def rename(name: str, rules: Rules, what: str) -> str:
    """Rename a tensor by the first rule that matches.

    Raises:
        ValueError: None does; says that it is not a key of a released `what`.
    """
    for pattern, replacement in rules:
        new, hits = re.subn(pattern, replacement, name)
        if hits:
            return new
    raise ValueError(f"{name} is not a key of a released {what}")


def count(state: State, pattern: str) -> int:
    """Count layers: one more than the highest number that follows a pattern at the start of a name."""
    return 1 + max((int(m[1]) for name in state if (m := re.match(rf"{pattern}(\d+)\.", name))), default=-1)


def _shape(name: str, tensor: Tensor) -> State:
    """Reshape a renamed tensor to the backbone's; CLIP's joined queries, keys and values of texts are split."""
    if name.startswith("text_tower.") and ".in_proj." in name:
        if not tensor.ndim or len(tensor) % 3:
            raise ValueError(f"{name} is {tuple(tensor.shape)}: it doesn't hold queries, keys and values")
        parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
        return {name.replace("in_proj", part): rows for part, rows in parts}
    if name.startswith(("video_projector.0.matrix", "text_projector.0.matrix")):
        return {name.replace("matrix", "weight"): tensor.T.contiguous()}
    if name == "video_tower.patch_embed.proj.weight" and tensor.ndim == 2:  # AVION's linear layer, of (3, h, w)
        patch = isqrt(tensor.shape[1] // 3)
        if tensor.shape[1] != 3 * patch**2:
            raise ValueError(f"visual.conv1.weight is {tuple(tensor.shape)}: its rows aren't square patches")
        return {name: tensor.unflatten(1, (3, patch, patch))}
    if name in ("video_tower.cls_token", "video_tower.pos_embed", "video_tower.temporal_embed"):
        while tensor.ndim < 3:
            tensor = tensor[None]
    return {name: tensor}


def _divided(v: str) -> _Part:
    """Frozen in Time's video transformer, with CLIP's `ln_pre` in LaViLa."""
    start = "^" + re.escape(v)
    block = start + r"blocks\.(\d+)\."
    return _Part({f"{v}patch_embed.proj.weight": (4,), f"{v}pos_embed": (3,), f"{v}temporal_embed": (3,)}, [
        (start + r"(cls_token$|pos_embed$|temporal_embed$|patch_embed\.proj\.|norm\.)", r"video_tower.\1"),
        (start + r"ln_pre\.", "video_tower.norm_pre."),
        (block + r"timeattn\.", r"video_tower.blocks.\1.time_attn."),
        (block + r"norm3\.", r"video_tower.blocks.\1.norm_time."),
        (block + r"(attn\.qkv|attn\.proj|norm1|norm2|mlp\.fc1|mlp\.fc2)\.", r"video_tower.blocks.\1.\2.")])


def _joint(v: str) -> _Part:
    """AVION's video transformer, with torch's attention or flash-attn's."""
    start = "^" + re.escape(v)
    block = start + r"transformer\.resblocks\.(\d+)\."
    return _Part({f"{v}conv1.weight": (2, 4), f"{v}class_embedding": (1,), f"{v}positional_embedding": (2,)}, [
        (start + r"class_embedding$", "video_tower.cls_token"),
        (start + r"positional_embedding$", "video_tower.pos_embed"),
        (start + r"temporal_embedding$", "video_tower.temporal_embed"),
        (start + r"conv1\.", "video_tower.patch_embed.proj."),
        (start + r"ln_pre\.", "video_tower.norm_pre."), (start + r"ln_post\.", "video_tower.norm."),
        (block + r"ln_([12])\.", r"video_tower.blocks.\1.norm\2."),
        (block + r"attn\.(?:in_proj_|Wqkv\.)", r"video_tower.blocks.\1.attn.qkv."),
        (block + r"attn\.out_proj\.", r"video_tower.blocks.\1.attn.proj."),
        (block + r"mlp\.(?:c_fc|fc1)\.", r"video_tower.blocks.\1.mlp.fc1."),
        (block + r"mlp\.(?:c_proj|fc2)\.", r"video_tower.blocks.\1.mlp.fc2.")])


def _distilbert(t: str) -> _Part:
    """DistilBERT of transformers."""
    start = "^" + re.escape(t)
    layer = start + r"transformer\.layer\.(\d+)\."
    sized = {f"{t}embeddings.word_embeddings.weight": (2,), f"{t}embeddings.position_embeddings.weight": (2,),
             f"{t}transformer.layer.0.ffn.lin1.weight": (2,)}
    return _Part(sized, [
        (start + r"embeddings\.", "text_tower.embeddings."),
        *((layer + rf"attention\.{theirs}_lin\.", rf"text_tower.blocks.\1.{ours}.")
          for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out"))),
        (layer + r"sa_layer_norm\.", r"text_tower.blocks.\1.norm1."),
        (layer + r"ffn\.lin([12])\.", r"text_tower.blocks.\1.fc\2."),
        (layer + r"output_layer_norm\.", r"text_tower.blocks.\1.norm2.")])


def _clip(t: str) -> _Part:
    """CLIP's text transformer, in OpenAI's names."""
    start = "^" + re.escape(t)
    block = start + r"transformer\.resblocks\.(\d+)\."
    sized = {f"{t}token_embedding.weight": (2,), f"{t}positional_embedding": (2,),
             f"{t}transformer.resblocks.0.mlp.c_fc.weight": (2,)}
    return _Part(sized, [
        (start + r"token_embedding\.", "text_tower.embeddings.token_embedding."),
        (start + r"positional_embedding$", "text_tower.embeddings.position_embedding.weight"),
        (start + r"ln_final\.", "text_tower.norm."),
        (block + r"attn\.in_proj_", r"text_tower.blocks.\1.in_proj."),
        (block + r"attn\.out_proj\.", r"text_tower.blocks.\1.out."),
        (block + r"ln_([12])\.", r"text_tower.blocks.\1.norm\2."),
        (block + r"mlp\.c_fc\.", r"text_tower.blocks.\1.fc1."),
        (block + r"mlp\.c_proj\.", r"text_tower.blocks.\1.fc2.")])


def _projection(name: str, side: str) -> _Part:
    """A matrix, or a linear layer, which on the text's side follows a ReLU."""
    if not name.endswith("."):
        return _Part({name: (2,)}, [(f"^{re.escape(name)}$", f"{side}_projector.0.matrix")])
    return _Part({f"{name}weight": (2,)}, [(f"^{re.escape(name)}", f"{side}_projector.{name[-2]}.")])


def _distilbert_config(state: State, t: str) -> TextTowerConfig:
    vocabulary, dim = state[f"{t}embeddings.word_embeddings.weight"].shape
    return TextTowerConfig({
        "model_type": "distilbert", "vocab_size": vocabulary, "dim": dim, "n_heads": dim // _HEAD_WIDTH,
        "n_layers": count(state, rf"{t}transformer\.layer\."),
        "hidden_dim": len(state[f"{t}transformer.layer.0.ffn.lin1.weight"]),
        "max_position_embeddings": len(state[f"{t}embeddings.position_embeddings.weight"]),
    }, tokenizer="distilbert-base-uncased")


def _clip_config(state: State, t: str, activation: str) -> TextTowerConfig:
    vocabulary, dim = state[f"{t}token_embedding.weight"].shape
    return TextTowerConfig({
        "model_type": "clip_text_model", "vocab_size": vocabulary, "hidden_size": dim,
        "num_attention_heads": dim // _HEAD_WIDTH, "num_hidden_layers": count(state, rf"{t}transformer\.resblocks\."),
        "intermediate_size": len(state[f"{t}transformer.resblocks.0.mlp.c_fc.weight"]), "hidden_act": activation,
        "max_position_embeddings": len(state[f"{t}positional_embedding"]), "layer_norm_eps": 1e-5,
        "eos_token_id": min(vocabulary, _CLIP_VOCABULARY) - 1,
    }, tokenizer="openai/clip-vit-base-patch16")

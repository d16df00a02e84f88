"""Weights of a tower with other settings than the configuration's are refused, where shapes don't show them."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import timm
from safetensors.torch import save_file
from test_families import SIZES, TEXT, mapping
from transformers import AutoConfig, AutoModel

import egovlpv2
from egovlpv2.checkpoints.weights import check_traits, load_backbone, save_backbone

CLIP, DINO = "vit_base_patch16_clip_quickgelu_224", "vit_small_patch16_dinov3"


@pytest.mark.parametrize("video, text, change, named", [
    (CLIP, "bert", {"video": {"name": "vit_base_patch16_clip_224"}}, "video activation"),
    ("vit_tiny_patch16_224", "bert", {"video": {"overrides": {"global_pool": "avg", "fc_norm": False}}}, "pooling"),
    (DINO, "bert", {"video": {"overrides": {"rope_temperature": 10.0}}}, "video rotary positions"),
    ("vit_tiny_patch16_224", "clip_text_model", {"arch": {"hidden_act": "gelu"}}, "text activation"),
    ("vit_tiny_patch16_224", "clip_text_model", {"arch": {"eos_token_id": 57}}, "text eos_token_id"),
    ("vit_tiny_patch16_224", "modernbert", {"arch": {"local_attention": 2}}, "text attention windows"),
])
def test_another_setting_is_named(video: str, text: str, change: dict[str, Any], named: str) -> None:
    ours = mapping(video, text)
    theirs = deepcopy(ours)
    ours["video"]["overrides"] |= change.get("video", {}).pop("overrides", {})
    ours["video"] |= change.get("video", {})
    ours["text"]["arch"] |= change.get("arch", {})
    trained, backbone = egovlpv2.build_backbone(theirs), egovlpv2.build_backbone(ours)
    assert trained.state_dict().keys() == backbone.state_dict().keys()
    check_traits(trained, trained.config.to_dict(), "a.ckpt")
    with pytest.raises(ValueError, match=f"a.ckpt was trained as another model.*{named}"):
        check_traits(backbone, trained.config.to_dict(), "a.ckpt")


def test_first_weights_of_another_model_are_named(tmp_path: Path) -> None:
    """timm itself leaves out what it doesn't know, and what is missing stays random."""
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=7, **SIZES)
    whole = {key: value.contiguous() for key, value in vit.state_dict().items()}
    for change, message in (({}, None), ({"blocks.1.attn.qkv.weight": None}, r"it lacks blocks.1.attn.qkv.weight \(1 "),
                            ({"norm_pre.weight": whole["norm.weight"].clone()}, "it also has norm_pre.weight")):
        state = {key: value for key, value in (whole | change).items() if value is not None}
        save_file(state, tmp_path / "a.safetensors")
        config = mapping(video_more={"init": str(tmp_path / "a.safetensors")})
        if message is None:
            egovlpv2.build_backbone(config)
            continue
        with pytest.raises(ValueError, match=f"video.init: .*a.safetensors holds weights of another model.*{message}"):
            egovlpv2.build_backbone(config)
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:500])
    with pytest.raises(ValueError, match="timm can't build vit_tiny_patch16_224"):
        egovlpv2.build_backbone(config)


def test_an_encoder_of_another_family_gives_no_first_weights(tmp_path: Path) -> None:
    arch = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 48, "max_position_embeddings": 20, "type_vocab_size": 2}
    AutoModel.from_config(AutoConfig.for_model("roberta", **arch)).save_pretrained(tmp_path)
    config = mapping(text_more={"arch": {"model_type": "bert", **arch}, "init": str(tmp_path), "tokenizer": ""})
    with pytest.raises(ValueError, match="text.init: .* holds a roberta, and text.arch is a bert"):
        egovlpv2.build_backbone(config)


def test_a_hybrid_is_the_same_after_saving(tmp_path: Path) -> None:
    hybrid = mapping("vit_base_r50_s16_224")
    hybrid["video"]["overrides"] = {"embed_dim": 48, "depth": 1, "num_heads": 3, "img_size": 64}
    backbone = egovlpv2.build_backbone(hybrid).eval()
    save_backbone(backbone, tmp_path / "a.safetensors")
    again = load_backbone(tmp_path / "a.safetensors")
    epsilons = [[getattr(module, "eps", None) for module in one.modules()] for one in (backbone, again)]
    assert epsilons[0] == epsilons[1] and len({*epsilons[0]}) > 2


def test_modernbert_with_its_layers_kinds_spelled_out_is_taken() -> None:
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    spelled = mapping(text="modernbert", text_more={"arch": {"model_type": "modernbert", **TEXT["modernbert"],
                                                             "layer_types": kinds}, "tokenizer": ""})
    assert egovlpv2.build_backbone(spelled).text_tower.traits["attention windows"] == [0, 3]

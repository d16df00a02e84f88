"""Towers compute what the library computes with the same model, or the model is refused by name."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from transformers import AutoModel

from egovlpv2.model.backbone import Backbone
from egovlpv2.model.encoder import TextTowerConfig
from egovlpv2.model.text_tower import TextTower
from egovlpv2.model.video_tower import VideoTower
from egovlpv2.model.vit import VideoTowerConfig

SMALL_VIT = {"depth": 2, "embed_dim": 48, "num_heads": 3}
SMALL_BERT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 64,
              "vocab_size": 90}
VITS = ["vit_base_patch16_224", "deit_small_patch16_224", "vit_base_patch16_plus_240", "vit_base_patch14_dinov2",
        "vit_small_patch16_36x1_224", "deit3_small_patch16_224", "vit_base_patch14_reg4_dinov2",
        "vit_giant_patch14_reg4_dinov2", "vit_base_patch16_clip_224", "vit_large_patch14_clip_quickgelu_336",
        "vit_base_patch16_siglip_224", "vit_so400m_patch16_siglip_256", "vit_base_patch16_siglip_gap_224",
        "vit_so150m2_patch16_reg1_gap_256", "vit_intern300m_patch14_448", "vit_small_patch16_dinov3",
        "vit_base_patch16_dinov3_qkvb", "vit_small_plus_patch16_dinov3", "eva02_tiny_patch14_224",
        "eva02_base_patch14_224", "eva02_base_patch16_clip_224", "eva_large_patch14_196", "beit3_base_patch16_224",
        "vit_pe_core_tiny_patch16_384", "vit_pe_core_gigantic_patch14_448", "vit_small_patch16_rope_ape_224"]
TEXT = ["bert", "roberta", "xlm-roberta", "camembert", "ernie", "data2vec-text", "markuplm", "splinter", "visual_bert",
        "bert-generation", "electra", pytest.param("roc_bert", marks=pytest.mark.slow)]  # with large embeddings
REFUSED = {
    "vit_small_patch16_rope_mixed_224": "rotary positions are learned", "vit_base_patch16_18x2_224": "structure",
    "vit_base_patch16_xp_224": "structure", "vit_base_patch16_rpn_224": "something else",
    "vit_relpos_base_patch16_224": "a model of timm's vision_transformer_relpos.py",
    "deit_small_distilled_patch16_224": "neither a CLS token nor registers", "beit_base_patch16_224": "timm's beit.py",
    "eva02_enormous_patch14_clip_224": "something else",
}


def draw(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, mean=float(parameter.ndim == 1 and name.endswith("weight")),
                        std=(parameter.numel() / len(parameter)) ** -0.5 if parameter.ndim > 1 else 0.3)
    return model.eval()


def vit_and_tower(name: str, **overrides: Any) -> tuple[nn.Module, VideoTower]:
    """timm's model with drawn parameters, and our tower with the same ones and no part in time."""
    theirs = draw(timm.create_model(name, num_classes=0, **SMALL_VIT, **overrides))
    # The copy's forward pass in training mode draws rotary positions at random in some models.
    tower = VideoTower(VideoTowerConfig(name, SMALL_VIT | overrides, norm_eps=theirs.blocks[0].norm1.eps), 0, 8).eval()
    ours = {key: value for key, value in tower.state_dict().items() if "time" in key or "temporal" in key}
    tower.load_state_dict({**renamed(theirs.state_dict()), **{key: value * 0 for key, value in ours.items()}})
    return theirs, tower


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's names of layer scales in `EvaBlock`, which have modules here."""
    return {key.replace(".gamma_1", ".ls1.gamma").replace(".gamma_2", ".ls2.gamma"): value
            for key, value in state.items()}


@torch.no_grad()
def differs(theirs: nn.Module, tower: VideoTower) -> float:
    video = torch.randn(2, 3, *tower.patch_embed.img_size)
    x = tower.embed(video[:, None])
    for block in tower.blocks:
        x = block(x, 1)
    x = tower.norm(x)
    return float((theirs.forward_features(video) - x).abs().max() + (theirs(video) - tower.pool(x)).abs().max())


@pytest.mark.parametrize("name", VITS)
def test_one_frame_is_timms_image(name: str) -> None:
    assert differs(*vit_and_tower(name, img_size=64 if "16" in name else 56)) < 1e-4


@pytest.mark.parametrize("name", REFUSED)
def test_a_vit_with_parts_that_are_not_used_is_refused_by_name(name: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=f"{name}.*{REFUSED[name]}"):
        VideoTower(VideoTowerConfig(name, dict(SMALL_VIT)), 0, 8)


@pytest.mark.parametrize("overrides, message", [
    ({"global_pool": "max"}, "pooling is 'max'"), ({"global_pool": ""}, "pooling is ''"),
    ({"proj_drop_rate": 0.1}, r"attn.proj_drop \(rate 0.1\)"), ({"pos_drop_rate": 0.2}, r"pos_drop \(rate 0.2\)"),
    ({"attn_drop_rate": 0.1}, r"attn.attn_drop \(rate 0.1\)"), ({"patch_drop_rate": 0.5}, r"patch_drop \(rate 0.5\)"),
    ({"dynamic_img_size": True}, "has another structure"),
])
def test_an_override_that_is_not_used_is_refused_by_name(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"vit_tiny_patch16_224.*{message}"):
        VideoTower(VideoTowerConfig("vit_tiny_patch16_224", SMALL_VIT | overrides), 0, 8)


@pytest.mark.parametrize("overrides", [{"qk_norm": True}, {"init_values": 1e-5}, {"qkv_bias": False},
                                       {"mlp_ratio": 2.5}, {"pre_norm": True}, {"no_embed_class": True},
                                       {"scale_mlp_norm": True}, {"final_norm": False}, {"scale_attn_norm": True},
                                       {"reg_tokens": 4}, {"reg_tokens": 2, "no_embed_class": True},
                                       {"global_pool": "avg"}, {"global_pool": "avg", "fc_norm": False},
                                       {"global_pool": "avg", "pool_include_prefix": True}, {"global_pool": "map"},
                                       {"class_token": False, "global_pool": "avg"}])
def test_parts_that_are_used_are_taken(overrides: dict[str, Any]) -> None:
    assert differs(*vit_and_tower("vit_tiny_patch16_224", img_size=32, **overrides)) < 1e-4


def encoder_and_tower(kind: str, **more: Any) -> tuple[nn.Module, TextTower]:
    config = TextTowerConfig({"model_type": kind, **SMALL_BERT, **more})
    theirs = draw(AutoModel.from_config(config.resolve()))
    TextTower(config, 0, 8)  # which compares
    return theirs, TextTower(config, 0, 8, theirs).eval()


@pytest.mark.parametrize("kind", TEXT)
@torch.no_grad()
def test_words_are_transformers_words(kind: str) -> None:
    more = {"embedding_size": 48} if kind == "electra" else {}
    theirs, tower = encoder_and_tower(kind, **more)
    ids, mask = torch.randint(5, 90, (2, 8)), torch.ones(2, 8, dtype=torch.long)
    ids[1, 6:], mask[1, 6:] = theirs.config.pad_token_id or 0, 0
    x = tower.embed(ids)
    for block in tower.blocks:
        x = block(x, mask.bool())
    expected = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(x[mask.bool()], expected[mask.bool()], atol=1e-4, rtol=0)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("kind, more, message", [
    ("roformer", {"embedding_size": 48}, "something else"),
    ("rembert", {"input_embedding_size": 48}, "embedding_hidden_mapping_in.weight"),
    ("nystromformer", {}, "attention.self.conv.weight"), ("mra", {}, "something else"),
    ("yoso", {}, "something else"), ("deberta-v2", {}, "doesn't have BERT's layers"),
    ("megatron-bert", {}, "doesn't have BERT's layers"), ("mpnet", {}, "doesn't have BERT's layers"),
    ("longformer", {}, "doesn't have BERT's layers"),
    ("electra", {"embedding_size": 24}, "embeddings_project.weight|another structure"),
    ("bert", {"is_decoder": True}, "something else"),
    ("gpt2", {}, "intermediate_size is not an argument"),
    pytest.param("git", {}, "something else", marks=SLOW),
])
def test_an_encoder_that_is_not_berts_is_refused_by_name(kind: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"text.arch: .*({message})") as found:
        TextTower(TextTowerConfig({"model_type": kind, **SMALL_BERT, **more}), 0, 8)
    assert "\n" not in str(found.value)


def test_comparing_leaves_the_random_numbers_and_the_settings_alone(small_config: Callable[..., Any]) -> None:
    first: list[Tensor] = []
    for arch in ({}, {"attention_probs_dropout_prob": 0.123}):  # compared anew, and in the second round not
        for _ in range(2):
            config = small_config()
            config.text.arch |= arch
            torch.manual_seed(7)
            first.append(Backbone(config).video_tower.pos_embed.detach())
    assert all(torch.equal(one, first[0]) for one in first)
    config = small_config()
    config.text.arch["hidden_dropout_prob"] = 0.0421
    with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu"):
        assert Backbone(config).text_tower.blocks[0].query.weight.is_meta


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in timm.list_models()
                                  if name.startswith(("vit_", "deit", "beit", "eva", "flexivit", "naflex", "samvit"))])
def test_every_vit_of_timm_is_refused_or_computed_as_timm_does(name: str) -> None:
    warnings.simplefilter("ignore")
    try:
        with torch.device("meta"):
            VideoTower(VideoTowerConfig(name, dict(SMALL_VIT), norm_eps=1e-6), 0, 8)
    except ValueError as error:
        assert name in str(error) and "\n" not in str(error)
    else:
        assert differs(*vit_and_tower(name)) < 1e-4

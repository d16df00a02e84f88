"""Families of ViTs and encoders as towers of a backbone: first weights, features, gate and gradients."""

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers import draw_parameters, make_clips, small_tokenizer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModel, SiglipTextModel

import egovlpv2
from egovlpv2.batch import Text
from egovlpv2.checkpoints.weights import load_backbone, resize_frames, save_backbone
from egovlpv2.model.backbone import Backbone
from egovlpv2.model.config import BackboneConfig
from egovlpv2.model.encoder import TextTowerConfig
from egovlpv2.model.text_tower import TextTower
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.pretrain import Pretrain

SIZES = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 32, "patch_size": 16}
VIDEO = ["vit_tiny_patch16_224", "deit_tiny_patch16_224", "vit_base_patch16_clip_quickgelu_224",
         "vit_base_patch16_siglip_224", "vit_base_patch16_siglip_gap_224", "vit_small_patch14_dinov2",
         "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3", "vit_small_plus_patch16_dinov3",
         "eva02_tiny_patch14_224", "eva02_base_patch14_224", "eva02_base_patch16_clip_224",
         "vit_pe_core_tiny_patch16_384"]
WORDS, EOS = 60, 2  # of the test's tokenizer: <s> 0, <pad> 1, </s> 2
COMMON = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
          "intermediate_size": 48, "max_position_embeddings": 20}
TEXT: dict[str, dict[str, Any]] = {
    "bert": COMMON, "roberta": COMMON | {"type_vocab_size": 1},
    "distilbert": {"vocab_size": WORDS, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48,
                   "max_position_embeddings": 20},
    "modernbert": COMMON | {"pad_token_id": 1, "cls_token_id": 0, "sep_token_id": 2, "bos_token_id": 0,
                            "eos_token_id": 2, "local_attention": 6, "num_hidden_layers": 4},
    "clip_text_model": COMMON | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": WORDS - 2},
    "siglip_text_model": COMMON | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "projection_size": 32},
}


def mapping(video: str = "vit_tiny_patch16_224", text: str = "bert", **more: Any) -> dict[str, Any]:
    return {"video": {"name": video, "overrides": dict(SIZES), "num_frames": 4} | more.pop("video_more", {}),
            "text": {"arch": {"model_type": text, **TEXT[text]}, "tokenizer": ""} | more.pop("text_more", {}),
            "num_fused_layers": 1, "projector": [8]} | more


def texts(kind: str) -> Text:
    ids, mask = torch.randint(3, WORDS - 2, (8, 7)), torch.ones(8, 7, dtype=torch.long)
    ids[:, 0], ids[:, -1] = 0, WORDS - 2 if kind == "clip_text_model" else EOS
    ids[0, 4], ids[0, 5:], mask[0, 5:] = ids[0, -1], 1, 0
    return Text(input_ids=ids, attention_mask=mask)


def without_time(backbone: Backbone) -> None:
    nn.init.zeros_(backbone.video_tower.temporal_embed)


@pytest.mark.parametrize("attention", ["divided", "joint"])
@pytest.mark.parametrize("name", VIDEO)
@torch.no_grad()
def test_video_features_of_a_frame_are_those_of_the_vit_that_gave_first_weights(name: str, attention: str,
                                                                                tmp_path: Path) -> None:
    vit = timm.create_model(name, num_classes=0, **SIZES).eval()
    draw_parameters(vit)
    save_file({key: value.contiguous() for key, value in vit.state_dict().items()}, tmp_path / "model.safetensors")
    for init in (tmp_path, tmp_path / "model.safetensors"):
        backbone = egovlpv2.build_backbone(mapping(name, video_more={"init": str(init), "attention": attention}))
        without_time(backbone.eval())
        picture = torch.randn(3, 3, 32, 32)
        torch.testing.assert_close(backbone.video_features(picture[:, None]), vit(picture), atol=1e-4, rtol=0)
    assert backbone.video_tower.pixels == {"mean": list(vit.default_cfg["mean"]), "std": list(vit.default_cfg["std"])}


@pytest.mark.parametrize("kind", TEXT)
@torch.no_grad()
def test_text_features_are_those_of_the_encoder_that_gave_first_weights(kind: str, tmp_path: Path) -> None:
    arch = TextTowerConfig({"model_type": kind, **TEXT[kind]}).resolve()
    model = SiglipTextModel(arch) if kind == "siglip_text_model" else AutoModel.from_config(arch)
    draw_parameters(model.eval())
    model.save_pretrained(tmp_path)
    backbone = egovlpv2.build_backbone(mapping(text=kind, text_more={"init": str(tmp_path)})).eval()
    text = texts(kind)
    mask = torch.ones(8, 7, dtype=torch.long) if kind == "siglip_text_model" else text["attention_mask"]
    theirs = model(input_ids=text["input_ids"], attention_mask=mask)
    states = backbone.text_features(text)
    torch.testing.assert_close(states[mask.bool()], theirs.last_hidden_state[mask.bool()], atol=1e-4, rtol=0)
    own = kind in ("clip_text_model", "siglip_text_model")
    pooled = theirs.pooler_output if own else theirs.last_hidden_state[:, 0]
    torch.testing.assert_close(backbone.pooled_text(*backbone.trunk_text(text)), pooled, atol=1e-4, rtol=0)
    torch.testing.assert_close(backbone.embed_text(text), backbone.project_text(pooled), atol=1e-3, rtol=0)


PAIRS = [*((name, "bert") for name in VIDEO), *(("vit_tiny_patch16_224", kind) for kind in TEXT),
         ("vit_base_patch16_clip_quickgelu_224", "clip_text_model"), ("vit_base_patch16_siglip_224",
                                                                      "siglip_text_model")]


@pytest.mark.parametrize("video, text", PAIRS)
@torch.no_grad()
def test_an_open_gate_at_zero_is_a_closed_one(video: str, text: str, fusion: str) -> None:
    backbone = egovlpv2.build_backbone(mapping(video, text, fusion=fusion)).eval()
    clip, words = torch.randn(8, 4, 3, 32, 32), texts(text)
    trunk = backbone.trunk(clip, words, gate=True)
    tops = [backbone.top(trunk, 4, gate) for gate in (False, True)]
    if fusion == "backbone":
        for closed, opened in zip(*tops, strict=True):
            torch.testing.assert_close(closed, opened)
    assert tops[1].video_cls.shape == (8, 48) and tops[1].text_cls.shape == (8, 32)
    torch.testing.assert_close(backbone.fused_features(clip, words), tops[1].video_cls)
    torch.testing.assert_close(backbone.top(trunk, 4, True, "cls").video_cls, tops[1].video_cls)


@pytest.mark.parametrize("video, text", PAIRS)
def test_objectives_reach_every_parameter(video: str, text: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    words = small_tokenizer(tmp_path, WORDS, WORDS - 2 if text == "clip_text_model" else EOS,
                            has_mask=text not in ("clip_text_model", "siglip_text_model"))
    config = BackboneConfig.from_dict(mapping(video, text, text_more={"tokenizer": words}))
    task = Pretrain(config, OptimizerConfig())
    draw_parameters(task)
    batch = make_clips(8)
    batch["text"] = texts(text)
    total, losses = task.objectives(batch, torch.Generator().manual_seed(0))
    total.backward()
    assert set(losses) == {"ego_nce", "mlm", "vtm"} and math.isfinite(total)
    assert not [name for name, parameter in task.named_parameters() if parameter.grad is None]
    assert not [name for name, parameter in task.named_parameters() if not parameter.grad.isfinite().all()]


@pytest.mark.parametrize("video", VIDEO)
@torch.no_grad()
def test_files_of_every_family_are_loaded_and_resized(video: str, tmp_path: Path) -> None:
    backbone = egovlpv2.build_backbone(mapping(video)).eval()
    draw_parameters(backbone)
    save_backbone(backbone, tmp_path / "a.safetensors")
    clip = torch.randint(0, 256, (1, 4, 3, 32, 32), dtype=torch.uint8)
    again = load_backbone(tmp_path / "a.safetensors")
    assert torch.equal(again.video_features(clip), backbone.video_features(clip))
    wide = load_backbone(tmp_path / "a.safetensors", img_size=(32, 64))
    assert wide.video_features(torch.cat([clip, clip], dim=-1)).shape == (1, 48)
    resize_frames(wide, (32, 32))
    if wide.video_tower.pos_embed is None:  # others are interpolated twice
        torch.testing.assert_close(wide.video_features(clip), backbone.video_features(clip))


def test_a_model_without_a_cls_token_has_none_of_its_own_for_the_open_gate() -> None:
    with pytest.raises(ValueError, match="fusion_cls: own needs a CLS token.*vit_base_patch16_siglip_224"):
        egovlpv2.build_backbone(mapping("vit_base_patch16_siglip_224", fusion_cls="own"))


def test_a_causal_encoder_without_an_end_is_refused() -> None:
    for eos in (None, WORDS):
        arch = {"model_type": "clip_text_model", **TEXT["clip_text_model"], "eos_token_id": eos}
        with pytest.raises(ValueError, match=f"eos_token_id is {eos}, but clip_text_model is causal"):
            TextTower(TextTowerConfig(arch), 0, 8)


@torch.no_grad()
def test_the_state_of_a_causal_text_is_that_of_its_first_end(tmp_path: Path) -> None:
    tower = TextTower(TextTowerConfig({"model_type": "clip_text_model", **TEXT["clip_text_model"]}), 0, 8).eval()

    def pooled(*ids: int) -> Tensor:
        text = Text(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long))
        x, mask = tower.embed(text["input_ids"]), tower.mask(text)
        for block in tower.blocks:
            x = block(x, mask)
        return tower.pool(tower.norm(x), mask)

    end = WORDS - 2
    torch.testing.assert_close(pooled(0, 7, 9, end), pooled(0, 7, 9, end, end, 5, 1))
    assert not torch.equal(pooled(0, 7, 9, end), pooled(0, 9, 7, end))


@torch.no_grad()
def test_padding_far_from_a_text_is_no_trouble() -> None:
    """A window of padding alone has nothing to attend to."""
    tower = TextTower(TextTowerConfig({"model_type": "modernbert", **TEXT["modernbert"]}), 0, 8).eval()
    mask = (torch.arange(20) < 3)[None]
    x = tower.embed(torch.randint(3, WORDS, (1, 20)))
    for block in tower.blocks:
        x = block(x, mask)
    assert x.isfinite().all()

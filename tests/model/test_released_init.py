"""The new layers' first weights as the authors' code draws them, and nothing else changed."""

import pytest
import torch
from helpers import KINDS, draw_parameters, make_clips
from torch import Tensor, nn

from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.model.backbone import Backbone
from egovlpv2.model.released_init import init_as_released
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.pretrain import Pretrain


def build(small_config, **changes: object) -> tuple[dict[str, Tensor], Backbone]:
    """A backbone's first weights, and the backbone as released."""
    torch.manual_seed(0)
    backbone = Backbone(small_config(**changes))
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    init_as_released(backbone)
    return before, backbone


def linears(backbone: Backbone, *starts: str) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in backbone.named_modules()
            if isinstance(layer, nn.Linear) and name.startswith(starts)}


def fused(backbone: Backbone, tower: str) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in linears(backbone, f"{tower}_tower.").items() if ".fusion." in name}


def test_time_starts_as_nothing(small_config) -> None:
    _, backbone = build(small_config)
    tower = backbone.video_tower
    assert not tower.temporal_embed.any()
    for block in tower.blocks:
        assert not block.time_attn.qkv.weight.any() and not block.time_attn.qkv.bias.any()
        assert (block.time_attn.proj.weight == 1).all() and not block.time_attn.proj.bias.any()
        assert (block.norm_time.weight == 1).all() and not block.norm_time.bias.any()
    video = torch.randn(1, 4, 3, 32, 32)
    still = video[:, :1].expand(-1, 4, -1, -1, -1)
    x = tower.embed(still, tower.cls_token)
    first = x[:, 1:].unflatten(1, (4, -1))
    assert torch.equal(first[:, 0], first[:, 3])  # all frames are alike


@pytest.mark.parametrize("width, projector", [(24, [4096, 64, 8]), (96, [256])])
def test_projectors_and_the_videos_cross_attention_are_torchs_default(small_config, width: int, projector: list[int]
                                                                     ) -> None:
    config = small_config(projector=projector)
    config.video.overrides["embed_dim"] = width
    torch.manual_seed(0)
    backbone = Backbone(config)
    init_as_released(backbone)
    layers = fused(backbone, "video") | linears(backbone, "video_projector.", "text_projector.")
    assert len(layers) == 2 * 3 + 2 * len(projector)
    for name, layer in layers.items():
        bound = layer.in_features**-0.5
        for tensor in (layer.weight, layer.bias) if layer.bias is not None else (layer.weight,):
            assert tensor.abs().max() <= bound, name
            if tensor.numel() > 500:
                assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.1), name
                assert tensor.abs().max() > 0.9 * bound, name
        assert layer.bias is None or layer.bias.any(), name


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[-1]])
def test_the_texts_cross_attention_and_the_heads_are_berts(small_config, kind: dict[str, str]) -> None:
    _, backbone = build(small_config, **kind)
    heads = linears(backbone, "fused_video_transform", "fused_text_transform", "match_head.", "masked_word_head.")
    layers = heads | fused(backbone, "text") | linears(backbone, "stack.")
    assert len(layers) == 7 + (2 * 2 * 8 if kind.get("fusion") == "stacked" else 2 * 3)
    for name, layer in layers.items():
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.3 if layer.weight.numel() < 500 else 0.1), name
        assert abs(layer.weight.mean()) < 0.006 and not layer.bias.any(), name


@pytest.mark.parametrize("kind", KINDS)
def test_towers_norms_gates_and_tokens_stay(small_config, kind: dict[str, str]) -> None:
    before, backbone = build(small_config, **kind)
    new = ("stack.", "fused_video_transform.", "fused_text_transform.", "match_head.", "masked_word_head.",
           "video_projector.", "text_projector.", "video_tower.temporal_embed")
    for name, tensor in backbone.state_dict().items():
        redrawn = (name.startswith(new) or ".fusion." in name or ".time_attn." in name)
        if not redrawn or "norm" in name or name.endswith("alpha"):
            assert torch.equal(tensor, before[name]), name
        elif name.endswith("weight"):
            assert not torch.equal(tensor, before[name]), name
    for name, tensor in backbone.state_dict().items():
        assert not name.endswith("alpha") or not tensor.any()


def test_a_fixed_gate_stays_where_it_is_set(small_config) -> None:
    _, backbone = build(small_config, alpha=0.25)
    gates = [parameter for name, parameter in backbone.named_parameters() if name.endswith("alpha")]
    assert len(gates) == 4 and all((gate == 0.25).all() and not gate.requires_grad for gate in gates)


def test_a_vit_without_biases_on_queries_is_taken(small_config) -> None:
    config = small_config()
    config.video.overrides["qkv_bias"] = False
    backbone = Backbone(config)
    init_as_released(backbone)
    assert backbone.video_tower.blocks[0].time_attn.qkv.bias is None
    assert not backbone.video_tower.blocks[0].time_attn.qkv.weight.any()


def test_pre_training_draws_them_unless_weights_come_from_a_file(small_config, tokenizer: str, tmp_path) -> None:
    torch.manual_seed(0)
    default = Pretrain(small_config(tokenizer), OptimizerConfig()).backbone
    assert default.video_tower.temporal_embed.any() and default.video_tower.blocks[0].time_attn.qkv.weight.any()
    released = Pretrain(small_config(tokenizer), OptimizerConfig(), init="released")
    assert not released.backbone.video_tower.temporal_embed.any()
    total, losses = released.objectives(make_clips(8), torch.Generator().manual_seed(0))
    total.backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert released.backbone.video_tower.blocks[0].time_attn.qkv.weight.grad.any()  # time can be learned
    draw_parameters(default)
    save_backbone(default, tmp_path / "some.safetensors")
    loaded = Pretrain(small_config(tokenizer), OptimizerConfig(), str(tmp_path / "some.safetensors"), init="released")
    for name, tensor in default.state_dict().items():
        assert torch.equal(tensor, loaded.backbone.state_dict()[name]), name

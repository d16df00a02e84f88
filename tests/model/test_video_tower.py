"""The video tower beyond its layers: pixels, positions, times, first weights and stochastic depth."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers import draw_parameters
from safetensors.torch import save_file
from torch import nn

from egovlpv2.model.config import BackboneConfig
from egovlpv2.model.video_tower import VideoTower, interpolate_time
from egovlpv2.model.vit import VideoTowerConfig

VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 4, "num_heads": 2}


def video_tower(num_fused: int = 2, **changes: Any) -> VideoTower:
    torch.manual_seed(0)
    config = VideoTowerConfig("vit_tiny_patch16_224", **({"overrides": VIT, "norm_eps": 1e-5} | changes))
    return VideoTower(config, num_fused, 16)


def test_defaults_of_the_video_tower_are_the_released_models() -> None:
    config = VideoTowerConfig()
    assert (config.name, config.num_frames, config.norm_eps) == ("vit_base_patch16_224", 4, None)
    with torch.device("meta"):
        assert VideoTower(config, 0, 8).norm_eps == 1e-5
        assert VideoTower(VideoTowerConfig("vit_small_patch16_224"), 0, 8).norm_eps == 1e-6  # timm's
    assert (config.overrides, config.init, config.drop_path) == ({}, None, 0.0)
    assert config.pixel_mean is None and config.pixel_std is None


@pytest.mark.parametrize("fused", [0, 1, 4])
def test_the_last_video_blocks_are_fused(fused: int) -> None:
    tower = video_tower(fused)
    assert (tower.dim, tower.num_fused, len(tower.blocks)) == (24, fused, 4)
    assert [block.fusion is not None for block in tower.blocks] == [i >= 4 - fused for i in range(4)]
    for block in tower.blocks[4 - fused :]:
        assert block.fusion.num_heads == 2 and block.fusion.norm.eps == 1e-5
        assert block.fusion.query.in_features == 24 and block.fusion.key_value.in_features == 16
    with pytest.raises(ValueError, match="num_fused_layers is 5, but vit_tiny_patch16_224 has 4 blocks"):
        video_tower(5)


def test_every_norm_of_the_video_tower_has_its_epsilon() -> None:
    tower = video_tower(norm_eps=0.125)
    epsilons = [module.eps for module in tower.modules() if isinstance(module, nn.LayerNorm)]
    assert set(epsilons) == {0.125} and len(epsilons) == 4 * 3 + 2 + 1  # of blocks, of cross-attention, the last


def test_time_starts_as_if_it_were_not_there() -> None:
    tower = video_tower(0).eval()
    for block in tower.blocks:
        assert not block.time_attn.proj.weight.any() and not block.time_attn.proj.bias.any()
        assert torch.equal(block.time_attn.qkv.weight, block.attn.qkv.weight)
        assert block.time_attn.qkv.weight is not block.attn.qkv.weight and block.attn.proj.weight.any()
    assert 0.01 < tower.temporal_embed.std() < 0.03 and tower.temporal_embed.shape == (1, 4, 24)
    assert video_tower(num_frames=7).temporal_embed.shape == (1, 7, 24)


def test_positions_of_a_new_tower_have_their_standard_deviation(tmp_path: Path) -> None:
    tower, usual = video_tower(position_std=0.5), video_tower()
    assert 0.4 < tower.pos_embed.std() < 0.6 and 0.4 < tower.temporal_embed.std() < 0.6
    assert usual.pos_embed.std() < 0.03 and usual.temporal_embed.std() < 0.03
    assert torch.equal(tower.patch_embed.proj.weight, usual.patch_embed.proj.weight)
    with pytest.raises(ValueError, match="position_std"):
        VideoTowerConfig(position_std=0.0)
    with pytest.raises(ValueError, match="position_std=0.5 is for a tower without init"):
        VideoTowerConfig(position_std=0.5, init="timm")
    plain = BackboneConfig(VideoTowerConfig(position_std=0.5), projector=[8]).to_dict()
    assert plain == BackboneConfig(VideoTowerConfig(), projector=[8]).to_dict()  # it decides first weights alone


def test_stochastic_depth_rises_to_the_last_block_and_falls_on_all_that_a_block_adds() -> None:
    def rates(tower: VideoTower) -> list[float]:
        return [getattr(block.drop_path1, "drop_prob", 0.0) for block in tower.blocks]

    assert rates(video_tower()) == [0.0] * 4
    tower = video_tower(drop_path=0.3)
    assert rates(tower) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    x, block = torch.randn(64, 1 + 2 * 4, 24), video_tower(drop_path=0.9).blocks[-1].train()
    changed = (block(x, 2) != x).flatten(1).any(1)
    assert 0 < changed.sum() < 40  # a clip goes through untouched with 0.9 ** 2


@torch.no_grad()
def test_a_block_gives_the_cls_token_alone_where_nothing_else_is_read() -> None:
    block, x, text = video_tower(1).blocks[-1].eval(), torch.randn(2, 1 + 2 * 4, 24), torch.randn(2, 5, 16)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.2)
    for given in ((), (text,), (text, torch.tensor([[True] * 4 + [False], [True] * 5]))):
        alone = block(x, 2, *given, *[None] * (2 - len(given)), True)
        assert alone.shape == (2, 1, 24)
        torch.testing.assert_close(alone, block(x, 2, *given)[:, :1])
        attended = block(x, 2, attention_only=True)
        torch.testing.assert_close(block(x, 2, *given, attended=attended), block(x, 2, *given))


@pytest.mark.parametrize("mean, std", [(None, None), ([0.1, 0.2, 0.3], None), (None, [0.5, 0.25, 1.0]),
                                       ([0.1, 0.2, 0.3], [0.5, 0.25, 1.0])])
def test_bytes_are_normalised_with_the_pixels_of_the_configuration_or_of_timm(
        mean: list[float] | None, std: list[float] | None) -> None:
    tower = video_tower(pixel_mean=mean, pixel_std=std).eval()
    mean, std = mean or [0.5] * 3, std or [0.5] * 3  # timm's ViTs have one half
    assert tower.pixels == {"mean": mean, "std": std}
    assert not {"mean", "std"} & tower.state_dict().keys()
    video = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    floats = torch.stack([(video[:, :, i] / 255 - mean[i]) / std[i] for i in range(3)], dim=2)
    torch.testing.assert_close(tower.embed(video, tower.cls_token), tower.embed(floats, tower.cls_token))


def test_tokens_are_of_the_clips_own_frames() -> None:
    tower = video_tower().eval()
    video = torch.randn(2, 4, 3, 32, 32)
    tokens = tower.embed(video, tower.cls_token)
    assert tokens.shape == (2, 1 + 4 * 4, 24)
    cls = torch.full((1, 1, 24), 3.0)
    torch.testing.assert_close(tower.embed(video, cls)[:, 0], (cls + tower.pos_embed[:, :1])[0].expand(2, -1))
    torch.testing.assert_close(tower.embed(video, cls)[:, 1:], tokens[:, 1:])
    shorter = tower.embed(video[:, :2], tower.cls_token)  # two frames have the first and the last time
    expected = tokens[:, [*range(1, 5), *range(5, 9)]] + torch.cat([
        torch.zeros(4, 24), (tower.temporal_embed[0, 3] - tower.temporal_embed[0, 1]).expand(4, -1)])
    torch.testing.assert_close(shorter[:, 1:], expected)
    half = tower.bfloat16()
    assert half.embed(video.bfloat16(), tower.cls_token.float()).dtype == torch.bfloat16


@pytest.mark.parametrize("height, width", [(32, 48), (16, 32), (48, 48)])
def test_frames_of_another_size_are_named(height: int, width: int) -> None:
    tower = video_tower()
    with pytest.raises(ValueError, match=f"clips are {height} x {width} px and the video tower takes 32 x 32"):
        tower.embed(torch.zeros(1, 4, 3, height, width), tower.cls_token)


def test_times_are_interpolated_linearly_between_the_ends() -> None:
    times = torch.tensor([[0.0, 10.0], [4.0, 20.0], [0.0, 30.0]])[None]  # three frames of width 2
    assert interpolate_time(times, 3) is times
    torch.testing.assert_close(interpolate_time(times, 5)[0],
                               torch.tensor([[0.0, 10], [2, 15], [4, 20], [2, 25], [0, 30]]))
    torch.testing.assert_close(interpolate_time(times, 2)[0], torch.tensor([[0.0, 10], [0, 30]]))


def test_first_weights_of_a_vit_come_from_its_file(tmp_path: Path) -> None:
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    tower = video_tower(init=str(tmp_path / "vit.pth"))
    for name in ("pos_embed", "cls_token", "patch_embed.proj.weight", "blocks.3.attn.proj.bias", "norm.weight"):
        assert torch.equal(tower.get_parameter(name), vit.get_parameter(name)), name
    assert not torch.equal(video_tower().pos_embed, vit.pos_embed)


def test_timms_own_weights_are_fetched_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    create = timm.create_model

    def offline(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
        asked.append((name, pretrained, "pretrained_cfg_overlay" in kwargs))
        if pretrained:
            raise OSError("no route\nto anywhere")
        return create(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    video_tower()
    with pytest.raises(ValueError, match=r"no weights of vit_tiny_patch16_224 from the Hugging Face hub \(no route\)"):
        video_tower(init="timm")
    assert asked == [("vit_tiny_patch16_224", False, False), ("vit_tiny_patch16_224", True, False)]


def test_a_file_that_is_missing_and_weights_of_another_width_are_named(tmp_path: Path) -> None:
    for missing in ("missing.bin", str(tmp_path)):  # a folder without weights
        with pytest.raises(ValueError, match=f"video.init: {missing} is missing or has no model.safetensors"):
            video_tower(init=missing)
    wide = timm.create_model("vit_tiny_patch16_224", num_classes=0, **{**VIT, "embed_dim": 48})
    torch.save(wide.state_dict(), tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"video.init: the weights of .*wide.pth don't fit vit_tiny_patch16_224.*size"):
        video_tower(init=str(tmp_path / "wide.pth"))


def test_first_weights_come_from_a_folder(tmp_path: Path) -> None:
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT)
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    assert torch.equal(video_tower(init=str(tmp_path)).pos_embed, vit.pos_embed)


@torch.no_grad()
def test_joint_attention_is_the_vits_over_the_patches_of_all_frames() -> None:
    tower = video_tower(attention="joint").eval()
    draw_parameters(tower)
    assert not [name for name, _ in tower.named_parameters() if "time_attn" in name or "norm_time" in name]
    x, block = torch.randn(2, 1 + 3 * 4, tower.dim), tower.blocks[0]
    qkv = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, tower.num_heads, -1)).permute(2, 0, 3, 1, 4)
    weights = (qkv[0] @ qkv[1].transpose(-2, -1) * qkv.shape[-1] ** -0.5).softmax(-1)  # (B, h, S, S)
    y = x + block.attn.proj((weights @ qkv[2]).transpose(1, 2).flatten(2))
    expected = y + block.mlp(block.norm2(y))
    torch.testing.assert_close(block(x, 3), expected)
    torch.testing.assert_close(block(x, 3, cls_only=True), expected[:, :1])

"""Initialisation of the pre-training heads, computed blocks and frozen parameters."""

import math
from collections import Counter

import pytest
import torch
from helpers import KINDS, make_clips, make_text
from torch import nn

from egovlpv2.checkpoints.weights import check_traits
from egovlpv2.model.backbone import Backbone
from egovlpv2.model.freeze import freeze_all_but_fused_video, freeze_fusion
from egovlpv2.model.heads import MLMHead, VTMHead, projector

# ---- first weights ----


@pytest.mark.parametrize("kind", KINDS[:2] + KINDS[4:])
def test_new_linear_layers_keep_the_size_of_what_goes_through(small_config, kind: dict[str, str]) -> None:
    torch.manual_seed(0)
    backbone = Backbone(small_config(**kind))
    linear = {name: layer for name, layer in backbone.named_modules() if isinstance(layer, nn.Linear)}
    new = {name: layer for name, layer in linear.items() if ".fusion." in name or name.startswith(
        ("stack.", "fused_video_transform", "fused_text_transform", "match_head.", "masked_word_head."))}
    assert len(new) == (2 * 2 * 3 if "fusion" not in kind else 2 * 2 * 8) + 7
    for name, layer in new.items():
        spread = layer.in_features**-0.5
        if layer.weight.numel() > 100:
            assert layer.weight.std().item() == pytest.approx(spread, rel=0.15), name
        assert abs(layer.weight.mean()) < 0.3 * spread and not layer.bias.any(), name
    for name in ("text_tower.blocks.0.query", "text_tower.blocks.2.fc1", "video_tower.blocks.2.attn.qkv"):
        assert linear[name].weight.std() < 0.03  # the towers keep theirs


def test_a_token_and_a_norm_of_its_own(small_config) -> None:
    shared, own = Backbone(small_config()), Backbone(small_config(fusion_cls="own"))
    assert shared.shares_trunk and not own.shares_trunk
    assert not hasattr(shared, "fused_cls_token") and not hasattr(shared, "fused_norm")
    assert own.fused_cls_token.shape == (1, 1, 24) and not own.fused_cls_token.any()
    assert own.fused_norm.eps == 1e-6 and own.fused_norm.normalized_shape == (24,)


@pytest.mark.parametrize("modality", ["video", "text"])
def test_projectors_of_the_paper_and_of_its_retrieval_checkpoints(modality: str) -> None:
    torch.manual_seed(0)
    large = projector(100, [60, 50, 40], modality)
    assert [type(layer) for layer in large] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [(layer.in_features, layer.out_features) for layer in large[::2]] == [(100, 60), (60, 50), (50, 40)]
    assert [layer.bias is not None for layer in large[::2]] == [False, True, True]
    small = projector(100, [40], modality)
    assert [type(layer) for layer in small] == ([nn.ReLU, nn.Linear] if modality == "text" else [nn.Linear])
    assert small[-1].bias is not None
    for layer in (*large[::2], small[-1]):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / layer.in_features), rel=0.06)


@torch.no_grad()
def test_heads_are_their_formulas() -> None:
    match, words = VTMHead(5, 3), MLMHead(4, 7)
    video, text, x = torch.randn(2, 5), torch.randn(2, 3), torch.randn(2, 3, 4)
    pooled = torch.cat([torch.tanh(match.text_pooler(text)), torch.tanh(match.video_pooler(video))], dim=1)
    assert torch.equal(match(video, text), pooled @ match.classifier.weight.T + match.classifier.bias)
    assert match(video, text).shape == (2, 2) and words(x).shape == (2, 3, 7)
    hidden = nn.functional.gelu(words.transform(x))
    hidden = (hidden - hidden.mean(-1, keepdim=True)) / (hidden.var(-1, keepdim=True, correction=0) + 1e-12).sqrt()
    torch.testing.assert_close(words(x), words.decoder(hidden))
    assert words.norm.eps == 1e-12


# ---- what is computed ----


def run_counted(backbone: Backbone, gate: bool, video_output: str, text_output: bool) -> Counter[str]:
    """Count the runs of the upper blocks and their MLPs' tokens, as `video 1: 17`."""
    ran: Counter[str] = Counter()
    handles = [block.norm2.register_forward_hook(
        lambda _, args, out, key=f"{side} {i}": ran.update([f"{key}: {out.shape[1]}"]))
        for side in ("video", "text") for i, block in enumerate(getattr(backbone, f"{side}_tower").blocks)]
    trunk = backbone.trunk(torch.randn(2, 4, 3, 32, 32), make_text(2), gate)
    ran.clear()
    top = backbone.top(trunk, 4, gate, video_output, text_output)
    for handle in handles:
        handle.remove()
    shapes = [None if part is None else tuple(part.shape) for part in top[:2]]
    assert shapes == [{"all": (2, 17, 24), "cls": (2, 1, 24), "none": None}[video_output],
                      (2, 7, 32) if text_output else None]
    return ran


V1, V2, CLS, T1, T2 = "video 1: 17", "video 2: 17", "video 2: 1", "text 1: 7", "text 2: 7"


@torch.no_grad()
@pytest.mark.parametrize("attends_to, gate, video_output, text_output, expected", [
    ("current", False, "all", True, [V1, V2, T1, T2]), ("current", False, "cls", True, [V1, CLS, T1, T2]),
    ("current", False, "none", True, [T1, T2]), ("current", False, "all", False, [V1, V2]),
    ("current", False, "cls", False, [V1, CLS]), ("current", True, "all", True, [V1, V2, T1, T2]),
    ("current", True, "cls", True, [V1, V2, T1, T2]), ("current", True, "none", True, [V1, V2, T1, T2]),
    ("current", True, "all", False, [V1, V2, T1]), ("current", True, "cls", False, [V1, CLS, T1]),
    ("previous", True, "all", True, [V1, V2, T1, T2]), ("previous", True, "cls", True, [V1, CLS, T1, T2]),
    ("previous", True, "none", True, [V1, T1, T2]), ("previous", True, "cls", False, [V1, CLS, T1]),
])
def test_what_is_not_read_is_not_computed(make_backbone, attends_to: str, gate: bool, video_output: str,
                                          text_output: bool, expected: list[str]) -> None:
    backbone = make_backbone(text_attends_to=attends_to)
    assert run_counted(backbone, gate, video_output, text_output) == Counter(expected)


@torch.no_grad()
@pytest.mark.parametrize("kind, tokens, first_tokens", [
    ({"num_fused_layers": 0}, 1, 1), ({"num_fused_layers": 1}, 1, 1), ({"num_fused_layers": 2}, 17, 17),
    ({"num_fused_layers": 3}, 17, 17), ({"fusion": "stacked"}, 17, 1),
])
def test_texts_of_a_video_share_its_first_fused_layer(make_backbone, kind: dict, tokens: int,
                                                      first_tokens: int) -> None:
    backbone = make_backbone(**kind)
    video, text = torch.randn(2, 4, 3, 32, 32), make_text(4)
    attended = backbone.precompute_video(backbone.trunk_video(video, gate=True), 4)
    assert (attended.video.shape[1], attended.first.shape[1]) == (tokens, first_tokens)
    index = torch.tensor([1, 0, 1, 1])
    found = backbone.fused_video_cls(attended.of(index), 4, *backbone.trunk_text(text))
    torch.testing.assert_close(found, backbone.fused_features(video[index], text))
    whole = backbone.top(backbone.trunk(video[index], text, True), 4, True).video[:, 0]
    torch.testing.assert_close(found, whole)


@torch.no_grad()
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("attends_to", ["current", "previous"])
@pytest.mark.parametrize("fused", [1, 2])
def test_passes_share_the_self_attention_of_the_first_fused_layer(
    make_backbone, monkeypatch: pytest.MonkeyPatch, fused: int, attends_to: str, gate: bool
) -> None:
    backbone = make_backbone(num_fused_layers=fused, text_attends_to=attends_to)
    trunk = backbone.trunk(torch.randn(2, 4, 3, 32, 32), make_text(2), gate)
    shared = trunk._replace(attended=backbone.attend_first(trunk.video, 4))
    assert shared.attended.shape[1] == (1 if (fused, attends_to) == (1, "previous") else 17)
    whole = [backbone.top(trunk, 4, gate, output) for output in ("cls", "none")]
    monkeypatch.setattr(backbone.video_tower.blocks[-fused], "_attend", None)  # no pass computes it again
    for expected, output in zip(whole, ("cls", "none"), strict=True):
        for part, again in zip(expected, backbone.top(shared, 4, gate, output), strict=True):
            assert (part is None) == (again is None)
            if part is not None:
                torch.testing.assert_close(again, part)


@pytest.mark.parametrize("kind", [{"num_fused_layers": 0}, {"fusion": "stacked"}])
def test_without_fused_layers_in_the_towers_passes_share_the_trunk_alone(make_backbone, kind: dict) -> None:
    assert make_backbone(**kind).attend_first(torch.randn(2, 17, 24), 4) is None


@torch.no_grad()
def test_stacked_layers_stand_on_both_whole_towers(make_backbone) -> None:
    backbone = make_backbone(fusion="stacked")
    assert backbone.video_tower.num_fused == backbone.text_tower.num_fused == 0
    assert len(backbone.stack.video) == len(backbone.stack.text) == 2
    video_layer, text_layer = backbone.stack.video[0], backbone.stack.text[0]
    assert (video_layer.attn.num_heads, text_layer.attn.num_heads) == (2, 4)  # those of the towers
    assert (video_layer.norm1.eps, text_layer.norm1.eps) == (1e-12, 1e-12)
    assert (video_layer.attn.dropout.p, text_layer.attn.dropout.p) == (0.0, 0.1)
    trunk = backbone.trunk(torch.randn(2, 4, 3, 32, 32), make_text(2), True)
    normed = backbone.video_tower.norm(trunk.video)
    cls, words = backbone.stack(normed, normed[:, :1], trunk.text, trunk.mask, True, True)
    top = backbone.top(trunk, 4, True)
    torch.testing.assert_close(top.video, torch.cat([cls, normed[:, 1:]], dim=1))
    torch.testing.assert_close(top.text, words)
    closed = backbone.top(trunk, 4, False)
    torch.testing.assert_close(closed.video, normed)
    torch.testing.assert_close(closed.text, trunk.text)
    for reads in ("cls", "none"):
        top = backbone.top(trunk, 4, True, reads, text_output=False)
        assert top.text is None and (top.video is None) == (reads == "none")
        if reads == "cls":
            torch.testing.assert_close(top.video, cls)


def test_blocks_are_recomputed_in_the_backward_pass_if_so_configured(make_backbone) -> None:
    text, video, runs = make_text(2), torch.randn(2, 4, 3, 32, 32), []
    for again in (False, True):
        backbone = make_backbone(gradient_checkpointing=again)
        ran: list[int] = []
        backbone.text_tower.blocks[1].query.register_forward_hook(lambda *_, ran=ran: ran.append(1))
        backbone.eval()
        backbone.vtm_logits(video, text).sum().backward()
        backbone.train()
        with torch.no_grad():
            backbone.vtm_logits(video, text)
        assert len(ran) == 2  # neither in evaluation nor without gradients
        backbone.vtm_logits(video, text).sum().backward()
        runs.append(len(ran))
    assert runs == [3, 4]


# ---- what is frozen ----


def split_by_gradient(backbone: Backbone, total: torch.Tensor) -> tuple[set[str], set[str]]:
    """Names of parameters that `total` depends on and of the others."""
    total.backward()
    named = dict(backbone.named_parameters())
    return {n for n, p in named.items() if p.grad is not None}, {n for n, p in named.items() if p.grad is None}


@pytest.mark.parametrize("kind", [*KINDS, {"num_fused_layers": 0}, {"num_fused_layers": 3}])
def test_only_what_the_open_gate_reads_is_frozen_with_the_fusion(make_backbone, kind: dict) -> None:
    backbone = make_backbone(**kind)
    video, text = make_clips(2)["video"], make_text(2)
    freeze_fusion(backbone)
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    backbone.requires_grad_(True)
    _, unread = split_by_gradient(backbone, backbone.embed_video(video).sum() + backbone.embed_text(text).sum())
    assert frozen == unread


@pytest.mark.parametrize("kind", [*KINDS, {"num_fused_layers": 1}, {"num_fused_layers": 3}])
def test_all_but_what_the_fused_video_reads_is_frozen(make_backbone, kind: dict) -> None:
    backbone = make_backbone(**kind)
    video, text = make_clips(2)["video"], make_text(2)
    freeze_all_but_fused_video(backbone)
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    backbone.requires_grad_(True)
    read, _ = split_by_gradient(backbone, backbone.fused_features(video, text).sum())
    assert trained == read


# ---- what shapes don't tell ----


def change(config, side: str, name: str, value: object) -> None:
    if side == "config":
        setattr(config, name, value)
    elif side == "arch":
        config.text.arch[name] = value
    elif side == "overrides":
        config.video.overrides[name] = value
    else:
        setattr(config.video, name, value)


@pytest.mark.parametrize("side, name, value, message", [
    ("config", "text_attends_to", "previous", "text_attends_to: current in the file, previous in your config"),
    ("config", "alpha", 0.5, "alpha: None in the file, 0.5 in your config"),
    ("overrides", "num_heads", 3, "video num_heads: 2 in the file, 3 in your config"),
    ("arch", "num_attention_heads", 2, "text num_attention_heads: 4 in the file, 2 in your config"),
    ("overrides", "act_layer", "quick_gelu", "video activation: GELU in the file, QuickGELU in your config"),
    ("arch", "hidden_act", "relu", "text activation: GELUActivation in the file, ReLU in your config"),
    ("video", "norm_eps", 1e-6, "video norm_eps: 1e-05 in the file, 1e-06 in your config"),
    ("arch", "layer_norm_eps", 1e-6, "text layer_norm_eps: 1e-12 in the file, 1e-06 in your config"),
    ("video", "pixel_mean", [0.1, 0.2, 0.3], "video pixel_mean: .0.5, 0.5, 0.5. in the file, .0.1, 0.2, 0.3. in your"),
    ("video", "pixel_std", [0.1, 0.2, 0.3], "video pixel_std: .0.5, 0.5, 0.5. in the file, .0.1, 0.2, 0.3. in your"),
])
def test_weights_of_a_model_that_differs_in_what_shapes_do_not_tell_are_refused(
        small_config, side: str, name: str, value: object, message: str) -> None:
    config = small_config()
    change(config, side, name, value)
    with pytest.raises(ValueError, match=f"file.ckpt was trained as another model; .*: {message}"):
        check_traits(Backbone(config), small_config().to_dict(), "file.ckpt")
    check_traits(Backbone(config), config.to_dict(), "file.ckpt")

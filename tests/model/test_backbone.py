"""The gate, and outputs that are skipped when they aren't requested."""

from dataclasses import replace

import pytest
import timm
import torch
from helpers import KINDS, draw_parameters, make_clips, make_text
from torch import nn
from transformers import AutoModel

from egovlpv2 import build_backbone
from egovlpv2.checkpoints.weights import check_traits
from egovlpv2.model.backbone import Backbone


def towers(small_config, **video: object) -> Backbone:
    config = small_config()
    config.video = replace(config.video, **video)
    return Backbone(config).eval()


@pytest.mark.parametrize("attention", ["divided", "joint"])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_base_patch16_clip_quickgelu_224",
                                  "deit3_small_patch16_224"])
def test_each_kind_of_vit_and_attention_can_be_fused(small_config, name: str, attention: str) -> None:
    backbone = towers(small_config, name=name, attention=attention)
    video, text = torch.randn(2, 4, 3, 32, 32), make_text(2)
    with torch.no_grad():
        trunk = backbone.trunk(video, text, gate=False)
        closed, opened = (backbone.top(trunk, 4, gate).video for gate in (False, True))
        torch.testing.assert_close(opened, closed, atol=1e-6, rtol=0)  # alphas start at zero
    draw_parameters(backbone)
    (backbone.vtm_logits(video, text).square().sum() + backbone.mlm_logits(video, text).square().sum()
     + backbone.embed_video(video).sum() + backbone.embed_text(text).sum()).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    again = build_backbone(backbone.config.to_dict())
    again.load_state_dict(backbone.state_dict())
    assert torch.equal(again.eval().embed_video(video), backbone.embed_video(video))


@pytest.mark.parametrize("attends_to", ["current", "previous"])
def test_an_open_gate_of_zero_is_a_closed_gate(make_backbone, attends_to: str) -> None:
    backbone = make_backbone(text_attends_to=attends_to)
    for name, parameter in backbone.named_parameters():
        if name.endswith("alpha"):
            nn.init.zeros_(parameter)
    video, text = torch.randn(2, 4, 3, 32, 32), make_text(2)
    trunk = backbone.trunk(video, text, gate=False)
    closed, opened = (backbone.top(trunk, 4, gate) for gate in (False, True))
    torch.testing.assert_close(opened.video, closed.video, atol=1e-6, rtol=0)
    torch.testing.assert_close(opened.text, closed.text, atol=1e-6, rtol=0)


def test_gates_start_at_zero(small_config) -> None:
    alphas = [p for n, p in Backbone(small_config()).named_parameters() if n.endswith("alpha")]
    assert len(alphas) == 4 and all(a.item() == 0 for a in alphas)


def test_an_open_gate_lets_each_modality_see_the_other(make_backbone, fusion: str) -> None:
    backbone = make_backbone(fusion=fusion)
    video, text = torch.randn(2, 4, 3, 32, 32), make_text(2)
    other = {**text, "input_ids": text["input_ids"].flip(1)}
    assert not torch.allclose(backbone.fused_features(video, text), backbone.fused_features(video, other))
    assert not torch.allclose(backbone.mlm_logits(video, text), backbone.mlm_logits(video.flip(0), text))


def test_a_closed_gate_computes_no_cross_attention(make_backbone) -> None:
    backbone, calls = make_backbone(), []
    for tower in (backbone.video_tower, backbone.text_tower):
        for block in tower.blocks[-2:]:
            block.fusion.register_forward_hook(lambda *_: calls.append(1))
    video, text = torch.randn(2, 4, 3, 32, 32), make_text(2)
    backbone.embed_video(video), backbone.embed_text(text)
    assert not calls
    backbone.vtm_logits(video, text)
    assert len(calls) == 4


def test_a_stack_changes_no_closed_gate(make_backbone) -> None:
    backbone, calls = make_backbone(fusion="stacked"), []
    backbone.stack.register_forward_hook(lambda *_: calls.append(1))
    plain = make_backbone(fusion="backbone", num_fused_layers=0)
    plain.load_state_dict({name: tensor for name, tensor in backbone.state_dict().items() if "stack." not in name})
    video, text = torch.randn(2, 4, 3, 32, 32), make_text(2)
    torch.testing.assert_close(backbone.embed_video(video), plain.embed_video(video))
    torch.testing.assert_close(backbone.embed_text(text), plain.embed_text(text))
    torch.testing.assert_close(plain.fused_features(video, text), plain.video_features(video))  # nothing is fused
    assert not calls
    backbone.vtm_logits(video, text)
    assert len(calls) == 1


def test_stacked_words_see_the_video_tower_as_it_is(make_backbone) -> None:
    """ALBEF's: one layer of it is torch's decoder layer."""
    backbone = make_backbone(fusion="stacked", num_fused_layers=1)
    layer, dim = backbone.stack.text[0], backbone.text_tower.dim
    theirs = nn.TransformerDecoderLayer(dim, layer.attn.num_heads, 4 * dim, 0.0, "gelu", layer.norm1.eps, True).eval()
    given = {"self_attn": layer.attn, "multihead_attn": layer.cross}
    theirs.multihead_attn = nn.MultiheadAttention(dim, layer.cross.num_heads, batch_first=True,
                                                  kdim=backbone.video_tower.dim, vdim=backbone.video_tower.dim)
    state = {name: tensor for i in (1, 2, 3) for name, tensor in (
        (f"norm{i}.weight", getattr(layer, f"norm{i}").weight), (f"norm{i}.bias", getattr(layer, f"norm{i}").bias))}
    state |= {"linear1.weight": layer.mlp.fc1.weight, "linear1.bias": layer.mlp.fc1.bias,
              "linear2.weight": layer.mlp.fc2.weight, "linear2.bias": layer.mlp.fc2.bias}
    for name, attention in given.items():
        key, value = attention.key_value.weight.chunk(2)
        weights = {"in_proj_weight": torch.cat([attention.query.weight, key, value])} if name == "self_attn" else {
            "q_proj_weight": attention.query.weight, "k_proj_weight": key, "v_proj_weight": value}
        weights |= {"in_proj_bias": torch.cat([attention.query.bias, attention.key_value.bias]),
                    "out_proj.weight": attention.out.weight, "out_proj.bias": attention.out.bias}
        state |= {f"{name}.{key}": tensor for key, tensor in weights.items()}
    theirs.load_state_dict(state)
    video, text = torch.randn(2, 4, 3, 32, 32), make_text(2)
    trunk = backbone.trunk(video, text, gate=True)
    expected = theirs(trunk.text, backbone.video_tower.norm(trunk.video), tgt_key_padding_mask=~trunk.mask)
    torch.testing.assert_close(backbone.top(trunk, 4, True).text, expected)


def test_a_gate_can_be_fixed(small_config) -> None:
    gates = {n: p for n, p in Backbone(small_config(alpha=0.25)).named_parameters() if n.endswith("alpha")}
    assert len(gates) == 4 and all(p.item() == 0.25 and not p.requires_grad for p in gates.values())
    check_traits(Backbone(small_config()), small_config().to_dict(), "file")
    with pytest.raises(ValueError, match="alpha: 0.25 in the file, None in your config"):
        check_traits(Backbone(small_config()), small_config(alpha=0.25).to_dict(), "file")
    stacks = [small_config(fusion="stacked", text_attends_to=layer) for layer in ("current", "previous")]
    check_traits(Backbone(stacks[0]), stacks[1].to_dict(), "file")  # which no layer of a stack reads
    for impossible in ({"alpha": 0.5}, {"fusion_cls": "own"}):
        with pytest.raises(ValueError, match="stacked has neither gates nor a CLS token"):
            small_config(fusion="stacked", **impossible)


def test_padding_is_not_seen(make_backbone, fusion: str) -> None:
    backbone = make_backbone(fusion=fusion)
    video, text = torch.randn(2, 4, 3, 32, 32), make_text(2)
    ids = text["input_ids"].clone()
    ids[0, -2:] = 9  # where the mask is zero
    changed = {**text, "input_ids": ids}
    # RoBERTa's places are counted from the ids, so only the places of the padding itself differ.
    torch.testing.assert_close(backbone.embed_text(text), backbone.embed_text(changed))
    torch.testing.assert_close(backbone.fused_features(video, text), backbone.fused_features(video, changed))


@pytest.mark.parametrize("changes", KINDS)
def test_what_is_not_read_changes_nothing(make_backbone, changes: dict[str, str]) -> None:
    backbone = make_backbone(**changes)
    video, text = torch.randn(2, 4, 3, 32, 32), make_text(2)
    for gate in (False, True):
        trunk = backbone.trunk(video, text, gate)
        whole = backbone.top(trunk, 4, gate)
        cls = backbone.top(trunk, 4, gate, "cls")
        torch.testing.assert_close(cls.video[:, 0], whole.video[:, 0])
        torch.testing.assert_close(cls.text, whole.text)
        words = backbone.top(trunk, 4, gate, "none")
        assert words.video is None
        torch.testing.assert_close(words.text, whole.text)
        features = backbone.top(trunk, 4, gate, "cls", text_output=False)
        assert features.text is None
        torch.testing.assert_close(features.video[:, 0], whole.video[:, 0])
    fused = backbone.top(backbone.trunk(video, text, True), 4, True).video[:, 0]
    torch.testing.assert_close(backbone.fused_features(video, text), fused)


def test_gradient_checkpointing_gives_the_same_gradients(make_backbone, fusion: str) -> None:
    plain, saving = (make_backbone(fusion=fusion, gradient_checkpointing=again) for again in (False, True))
    video, text = make_clips(2)["video"], make_text(2)
    for backbone in (plain, saving):
        torch.manual_seed(1)
        backbone.train().vtm_logits(video, text).sum().backward()
    pairs = zip(plain.named_parameters(), saving.parameters(), strict=True)
    compared = [torch.testing.assert_close(p.grad, q.grad) for (_, p), q in pairs if p.grad is not None]
    assert len(compared) > 50


def test_bytes_and_normalised_floats_are_the_same_clip(make_backbone) -> None:
    backbone, video = make_backbone(), make_clips(2)["video"]
    floats = (video / 255 - 0.5) / 0.5  # timm's tiny ViT has mean and deviation of one half
    torch.testing.assert_close(backbone.embed_video(video), backbone.embed_video(floats))


@pytest.mark.parametrize("changes, message", [
    ({"config": {"num_fused_layers": 4}}, "num_fused_layers is 4, but"),
    ({"video": {"name": "resnet18", "overrides": {}}}, "resnet18 is not supported: it is a model of timm's resnet.py"),
    ({"video": {"init": "missing.bin"}}, "missing.bin is missing"),
    ({"text": {"arch": {"model_type": "gpt2"}}}, "doesn't have BERT's layers"),
    ({"text": {"arch": {"hidden_size": 8}}}, "needs a `model_type`"),
    ({"text": {"init": "/no/such/folder"}}, "no weights that fit text.arch at '/no/such/folder'"),
])
def test_impossible_models_are_named(small_config, changes: dict, message: str) -> None:
    config = small_config()
    for part, values in changes.items():
        for name, value in values.items():
            setattr(config if part == "config" else getattr(config, part), name, value)
    with pytest.raises(ValueError, match=message):
        Backbone(config)


def test_first_weights_from_local_files(small_config, tmp_path) -> None:
    config = small_config()
    theirs = AutoModel.from_config(config.text.resolve())
    theirs.save_pretrained(tmp_path / "roberta")
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **config.video.overrides)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    config.text.init, config.video.init = str(tmp_path / "roberta"), str(tmp_path / "vit.pth")
    backbone = Backbone(config)
    query = theirs.encoder.layer[0].attention.self.query.weight
    torch.testing.assert_close(backbone.text_tower.blocks[0].query.weight, query)
    torch.testing.assert_close(backbone.video_tower.blocks[1].attn.qkv.weight, vit.blocks[1].attn.qkv.weight)
    config.text.arch["num_hidden_layers"] = 4
    with pytest.raises(ValueError, match="trained as another model: num_hidden_layers is 3 there and 4 in text.arch"):
        Backbone(config)


@pytest.mark.parametrize("attention", ["divided", "joint"])
def test_a_backbone_in_float64_computes_in_float64(small_config, attention: str) -> None:
    backbone = towers(small_config, attention=attention)
    draw_parameters(backbone)
    video, text = make_clips(2)["video"], make_text(2)
    single = backbone.vtm_logits(video, text)
    double = backbone.double().vtm_logits(video, text)
    assert double.dtype == torch.float64 and 0 < (double - single).abs().max() < 1e-4
    alone = backbone.vtm_logits(video[:1], {name: x[:1] for name, x in text.items()})
    assert (alone - double[:1]).abs().max() < 1e-12  # in float32 a part of a batch would differ by 1e-7

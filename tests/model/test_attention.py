"""Attention in pieces: masks, heads, groups of patches, precision and dropout."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from egovlpv2.model import attention
from egovlpv2.model.attention import (
    Axis,
    attend,
    attention_weights,
    divided_attention,
    merge_heads,
    scaled_dot_product,
    split_heads,
)
from egovlpv2.model.fusion import CrossAttention, GatedCrossAttention, StackedFusionEncoder
from egovlpv2.model.vit_attention import ViTAttention


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


QUERY, KEY, VALUE = draw(2, 5, 12), draw(2, 4, 12), draw(2, 4, 12) * 2
MASK = torch.tensor([[True, True, False, True], [True, False, False, False]])


def by_hand(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Attention and its weights, clip by clip, head by head and query by query."""
    d = query.shape[-1] // heads
    out, weights = torch.zeros_like(query), torch.zeros(len(query), heads, query.shape[1], key.shape[1])
    for b in range(len(query)):
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            for i in range(query.shape[1]):
                e = [math.exp(query[b, i, part] @ key[b, j, part] / d**0.5) * bool(mask[b, j])
                     for j in range(key.shape[1])]
                weights[b, h, i] = torch.tensor(e) / sum(e)
                out[b, i, part] = weights[b, h, i] @ value[b, :, part]
    return out, weights


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("mask", [None, MASK])
def test_attention_and_its_weights_are_the_formula(heads: int, mask: Tensor | None) -> None:
    everywhere = torch.ones(2, 4, dtype=torch.bool)
    out, weights = by_hand(QUERY, KEY, VALUE, heads, everywhere if mask is None else mask)
    torch.testing.assert_close(attend(QUERY, KEY, VALUE, heads, mask), out)
    torch.testing.assert_close(attention_weights(QUERY, KEY, heads, mask), weights)


def test_heads_are_split_and_merged_in_order() -> None:
    x = torch.arange(24.0).view(1, 2, 12)
    heads = split_heads(x, 3)
    assert heads.shape == (1, 3, 2, 4) and heads[0, 1, 1].tolist() == [16, 17, 18, 19]
    assert torch.equal(merge_heads(heads), x)


def test_low_precision_is_computed_in_float32_on_a_cpu_and_stays_low_outside() -> None:
    q, k, v = (x.bfloat16() for x in (QUERY, KEY, VALUE))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attend(q, k, v, 3, MASK)
    exact = attend(q.float(), k.float(), v.float(), 3, MASK)
    assert found.dtype == torch.bfloat16 and torch.equal(found, exact.bfloat16())
    weights = attention_weights(q, k, 3, MASK)
    assert torch.equal(weights, attention_weights(q.float(), k.float(), 3, MASK))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attend(QUERY, KEY, VALUE, 3, MASK)
    torch.testing.assert_close(found, by_hand(QUERY, KEY, VALUE, 3, MASK)[0])


def test_another_device_takes_torchs_attention_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args, **kwargs: calls.append((args, kwargs)))
    q, k, v, mask = (torch.empty(1, 1, 2, 3, device="meta", dtype=torch.bfloat16) for _ in range(4))
    scaled_dot_product(q, k, v, mask, 0.25)
    (args, kwargs), = calls
    assert args[0] is q and args[1] is k and args[2] is v
    assert kwargs["attn_mask"] is mask and kwargs["dropout_p"] == 0.25


@pytest.mark.parametrize("kind, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-12), (torch.bfloat16, 0.02)])
def test_few_keys_are_attended_to_by_plain_products(kind: torch.dtype, tolerance: float,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """The same values and gradients, whichever way they are computed."""
    torch.manual_seed(0)
    given = [torch.randn(2, 3, 6, n, 8, dtype=kind, requires_grad=True) for n in (4, 5, 5)]
    results, few = [], attention._FEW_KEYS
    for keys in (few, 0):
        monkeypatch.setattr(attention, "_FEW_KEYS", keys)
        with torch.autocast("cpu"):  # neither way is changed by it
            out = scaled_dot_product(*given)
        results.append([out, *torch.autograd.grad(out.square().sum(), given)])
    for plain, library in zip(*results, strict=True):
        assert plain.dtype == library.dtype == kind
        torch.testing.assert_close(plain, library, atol=tolerance * float(library.abs().max()), rtol=0)
    monkeypatch.setattr(attention, "_FEW_KEYS", few)
    for kinds in ((torch.float32, kind, kind), (kind, torch.float32, kind), (kind, kind, torch.float32)):
        mixed = [x.detach().to(other) for x, other in zip(given, kinds, strict=True)]  # as norms may give them
        assert scaled_dot_product(*mixed).dtype == kinds[0]
        torch.testing.assert_close(scaled_dot_product(*mixed).to(kind), results[1][0].detach(), atol=0.05, rtol=0)
    called = []
    monkeypatch.setattr(attention, "_plain_products", lambda q, k, v: called.append(k.shape[-2]) or q)
    for n in (few, few + 1):
        scaled_dot_product(*(torch.zeros(1, 1, n, 8) for _ in range(3)))
    assert called == [few]


@pytest.mark.parametrize("on_cpu", [True, False])
def test_dropout_of_the_weights_is_off_by_default(monkeypatch: pytest.MonkeyPatch, on_cpu: bool) -> None:
    asked = []
    monkeypatch.setattr(attention, "_FEW_KEYS", 0)
    monkeypatch.setattr(F, "scaled_dot_product_attention",
                        lambda q, *_, dropout_p, **__: asked.append(dropout_p) or torch.zeros_like(q))
    x = torch.zeros(1, 2, 4, device="cpu" if on_cpu else "meta")
    attend(x, x, x, 2), attend(x, x, x, 2, None, 0.5), scaled_dot_product(x, x, x)
    assert asked == [0.0, 0.5, 0.0]


def divided_by_hand(attn: nn.Module, x: Tensor, frames: int, axis: str) -> Tensor:
    q, k, v = attn.qkv(x).chunk(3, dim=-1)
    q, k = (merge_heads(norm(split_heads(y, attn.num_heads))) for y, norm in ((q, attn.q_norm), (k, attn.k_norm)))
    patches = (x.shape[1] - 1) // frames
    out = torch.zeros_like(x)
    for token in range(x.shape[1]):
        seen = [other for other in range(x.shape[1]) if token == 0 or other == 0 or (
            (token - 1) % patches == (other - 1) % patches if axis == "time"
            else (token - 1) // patches == (other - 1) // patches)]
        out[:, token : token + 1] = by_hand(q[:, token : token + 1], k[:, seen], v[:, seen], attn.num_heads,
                                            torch.ones(len(x), len(seen), dtype=torch.bool))[0]
    return out


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"qkv_bias": False}, {"qk_norm": True}])
def test_patches_see_the_cls_token_and_those_of_their_place_or_frame(options: dict[str, bool]) -> None:
    vit = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=12, num_heads=3, **options)
    attn, x = vit.blocks[0].attn.eval(), draw(2, 1 + 3 * 2, 12)  # 3 frames of 2 patches
    for name, parameter in attn.named_parameters():
        nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(len(name)))
    for axis in ("time", "space"):
        expected = divided_by_hand(attn, x, 3, axis)
        ours = ViTAttention(attn, 1, None)
        expected = attn.proj(expected)
        given = ours.in_time(x, 3) if axis == "time" else ours.in_space(x, 3)
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.of_cls(x), expected[:, :1], atol=1e-5, rtol=1e-5)


# ---- cross-attention ------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("norm_eps", [None, 0.5])
def test_cross_attention_normalises_its_queries(norm_eps: float | None) -> None:
    torch.manual_seed(0)
    layer, x, context = GatedCrossAttention(12, 8, 3, norm_eps), QUERY, draw(2, 4, 8)
    assert layer.alpha.shape == (1,) and torch.equal(layer(x, context, MASK), x)  # the gate starts at zero
    nn.init.constant_(layer.alpha, 0.5)
    query = x if norm_eps is None else F.layer_norm(x, (12,), eps=norm_eps)
    key, value = layer.key_value(context).chunk(2, dim=-1)
    out, weights = by_hand(layer.query(query), key, value, 3, MASK)
    torch.testing.assert_close(layer(x, context, MASK), x + 0.5 * layer.out(out), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(CrossAttention.forward(layer, x, context, MASK), layer.out(out), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.weights(x, context, MASK), weights)
    assert not torch.allclose(layer(x, context, MASK), layer(x, context))


@torch.no_grad()
@pytest.mark.parametrize("kind", [CrossAttention, GatedCrossAttention])
def test_dropout_is_for_training_and_falls_on_weights_and_output(kind: type[CrossAttention],
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    asked, context = [], draw(2, 4, 8)
    plain = F.scaled_dot_product_attention

    def recorded(*args: Tensor, dropout_p: float, **kwargs: Tensor) -> Tensor:
        asked.append(dropout_p)
        return plain(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    monkeypatch.setattr(attention, "_FEW_KEYS", 0)
    layer, default = kind(12, 8, 3, None, 0.5), kind(12, 8, 3, None)
    inner = CrossAttention.forward
    outputs = [inner(layer.train(training), QUERY, context) for training in (False, False, True)]
    assert asked == [0.0, 0.0, 0.5] and torch.equal(outputs[0], outputs[1])
    dropped = outputs[2] == 0
    assert 0.3 < dropped.float().mean() < 0.7
    torch.testing.assert_close(outputs[2][~dropped], 2 * outputs[0][~dropped])
    assert torch.equal(default.train()(QUERY, context), default.eval()(QUERY, context))


def layer_by_hand(layer: nn.Module, x: Tensor, tokens: Tensor, mask: Tensor | None, context: Tensor,
                  context_mask: Tensor | None) -> Tensor:
    """ALBEF's: self-attention, cross-attention and MLP, each with a residual and a norm behind."""
    x = layer.norm1(x + layer.attn(x, tokens, mask))
    x = layer.norm2(x + layer.cross(x, context, context_mask))
    return layer.norm3(x + layer.mlp.fc2(F.gelu(layer.mlp.fc1(x))))


@torch.no_grad()
def test_stacked_layers_read_the_layer_below() -> None:
    torch.manual_seed(0)
    stack = StackedFusionEncoder(2, video_dim=12, text_dim=8, video_heads=3, text_heads=2, norm_eps=1e-3, dropout=0.0)
    for parameter in stack.parameters():
        nn.init.normal_(parameter, std=0.4)
    video, text = QUERY, draw(2, 4, 8)
    first = layer_by_hand(stack.text[0], text, text, MASK, video, None)
    last = layer_by_hand(stack.text[1], first, first, MASK, video, None)
    cls = layer_by_hand(stack.video[0], video[:, :1], video, None, text, MASK)
    cls = layer_by_hand(stack.video[1], cls, video, None, first, MASK)
    for reads in ((True, True), (True, False), (False, True)):
        found_cls, found_text = stack(video, video[:, :1], text, MASK, *reads)
        torch.testing.assert_close(found_cls, cls if reads[0] else video[:, :1])
        torch.testing.assert_close(found_text, last if reads[1] else first)
    for side, dim, heads in ((stack.video, 12, 3), (stack.text, 8, 2)):
        assert len(side) == 2
        for layer in side:
            assert layer.attn.num_heads == layer.cross.num_heads == heads
            assert layer.mlp.fc1.out_features == 4 * dim
            assert {layer.norm1.eps, layer.norm2.eps, layer.norm3.eps} == {1e-3}
            assert isinstance(layer.attn.norm, nn.Identity) and isinstance(layer.cross.norm, nn.Identity)


@torch.no_grad()
def test_only_the_words_of_a_stack_have_dropout() -> None:
    stack = StackedFusionEncoder(1, 12, 8, 3, 2, 1e-5, dropout=0.5).train()
    video, text = QUERY, draw(2, 4, 8)
    one, two = (stack(video, video[:, :1], text, MASK, True, True) for _ in range(2))
    assert torch.equal(one[0], two[0]) and not torch.equal(one[1], two[1])
    layer = stack.text[0]
    assert layer.mlp.drop1.p == layer.mlp.drop2.p == layer.attn.dropout.p == layer.cross.dropout.p == 0.5


@pytest.mark.parametrize("axis", ["time", "space"])
def test_divided_attention_keeps_no_queries_keys_and_values_twice(axis: Axis) -> None:
    attn, kept = timm.layers.Attention(24, num_heads=3, qkv_bias=True), []
    x = draw(2, 1 + 4 * 9, 24).requires_grad_()
    with saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        divided_attention(attn.qkv(x).unflatten(-1, (3, 3, -1)), 1, 4, axis)
    whole = {saved.untyped_storage().data_ptr(): saved.untyped_storage().nbytes() for saved in kept}
    assert max(whole.values()) < 3 * x.nbytes  # the output of the projection to all three would be as large
    assert sum(whole.values()) < 7 * x.nbytes  # input, queries, keys, values and outputs; the weights are small

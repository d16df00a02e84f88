"""The backbone computes the paper's formulas (Sec. 3.1), written out here with a loop over clips and heads.

Every parameter is drawn, gates included. Letters: `T` frames, `N` patches, `S = 1 + T * N`, `L` tokens, `D` width.
"""

import math

import pytest
import torch
from helpers import make_text
from torch import Tensor, nn

from egovlpv2.batch import Text
from egovlpv2.model.backbone import Backbone

FRAMES, PATCHES, SIDE, PATCH = 5, 4, 32, 16  # no other side is 5 long


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def norm(x: Tensor, layer: nn.LayerNorm, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / ((centred**2).mean(-1, keepdim=True) + eps).sqrt() * layer.weight + layer.bias


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, allowed: Tensor) -> Tensor:
    """(A, D), (C, D), (C, D) and (A, C) bool, who may attend to whom -> (A, D)."""
    results = []
    for q, k, v in zip(*(x.chunk(heads, dim=-1) for x in (query, key, value)), strict=True):
        scores = (q @ k.T / math.sqrt(q.shape[1])).masked_fill(~allowed, -math.inf)
        results.append(scores.exp() / scores.exp().sum(1, keepdim=True) @ v)
    return torch.cat(results, dim=-1)


def self_attention(x: Tensor, attn: nn.Module, heads: int, allowed: Tensor) -> Tensor:
    """A ViT's: (S, D) -> (S, D)."""
    query, key, value = linear(x, attn.qkv).chunk(3, dim=-1)
    return linear(attention(query, key, value, heads, allowed), attn.proj)


def gated(z: Tensor, context: Tensor, fusion: nn.Module, heads: int, allowed: Tensor, normed: bool) -> Tensor:
    """`z + alpha * CA(z, context)`; on the video side the queries come from a norm."""
    key, value = linear(context, fusion.key_value).chunk(2, dim=-1)
    query = linear(norm(z, fusion.norm) if normed else z, fusion.query)
    allowed = allowed.expand(len(z), -1)
    return z + fusion.alpha * linear(attention(query, key, value, heads, allowed), fusion.out)


def space_and_time() -> tuple[Tensor, Tensor]:
    """(S, S) each: the CLS token and a patch see each other; patches see those of their place, or of their frame."""
    frame = torch.arange(FRAMES).repeat_interleave(PATCHES)
    place = torch.arange(PATCHES).repeat(FRAMES)
    pairs = []
    for kind in (frame, place):
        allowed = torch.ones(1 + len(kind), 1 + len(kind), dtype=torch.bool)
        allowed[1:, 1:] = kind[:, None] == kind
        pairs.append(allowed)
    return pairs[0], pairs[1]


def video_layer(block: nn.Module, x: Tensor, text: Tensor | None, mask: Tensor) -> Tensor:
    """`z = SPACE(x + TIME(x))`, `x = x + z + alpha * CA(z, text)`, `x = x + MLP(x)`: (S, D) -> (S, D)."""
    heads, (space, time) = 2, space_and_time()
    moved = x + self_attention(norm(x, block.norm_time), block.time_attn, heads, time)
    z = self_attention(norm(moved, block.norm1), block.attn, heads, space)
    x = x + (z if text is None else gated(z, text, block.fusion, heads, mask, normed=True))
    return x + linear(gelu(linear(norm(x, block.norm2), block.mlp.fc1)), block.mlp.fc2)


def text_layer(block: nn.Module, y: Tensor, video: Tensor | None, mask: Tensor) -> Tensor:
    """`y = LN(y + SA(y) + alpha * CA(SA(y), video))`, `y = LN(y + FFN(y))`: (L, D) -> (L, D)."""
    heads, eps = 4, 1e-12  # RoBERTa's default
    query, key, value = (linear(y, part) for part in (block.query, block.key, block.value))
    z = linear(attention(query, key, value, heads, mask.expand(len(y), -1)), block.out)
    if video is not None:
        z = gated(z, video, block.fusion, heads, torch.ones(len(video), dtype=torch.bool), normed=False)
    y = norm(y + z, block.norm1, eps)
    return norm(y + linear(gelu(linear(y, block.fc1)), block.fc2), block.norm2, eps)


def embed(tower: nn.Module, video: Tensor, cls_token: Tensor) -> Tensor:
    """(T, 3, H, W) -> (S, D): each patch a linear map of its pixels, plus its place and its time."""
    rows, places = [cls_token[0, 0] + tower.pos_embed[0, 0]], SIDE // PATCH
    for t in range(FRAMES):
        for place in range(PATCHES):
            top, left = place // places * PATCH, place % places * PATCH
            pixels = video[t, :, top : top + PATCH, left : left + PATCH].flatten()
            conv = tower.patch_embed.proj
            token = conv.weight.flatten(1) @ pixels + conv.bias
            rows.append(token + tower.pos_embed[0, 1 + place] + tower.temporal_embed[0, t])
    return torch.stack(rows)


def expected(backbone: Backbone, video: Tensor, text: Text, gate: bool, attends_to: str, own_cls: bool, fused: int = 2
             ) -> tuple[Tensor, Tensor]:
    """States of the last layers, (B, S, D) after the final norm and (B, L, D'), clip by clip."""
    tower, words = backbone.video_tower, backbone.text_tower
    cls_token = backbone.fused_cls_token if gate and own_cls else tower.cls_token
    last_norm = backbone.fused_norm if gate and own_cls else tower.norm
    eps = 1e-6 if gate and own_cls else 1e-5
    videos, texts = [], []
    for clip, ids, mask in zip(video, text["input_ids"], text["attention_mask"].bool(), strict=True):
        x, y = embed(tower, clip, cls_token), words.embeddings(input_ids=ids[None])[0]
        for i, (of_video, of_text) in enumerate(zip(tower.blocks, words.blocks, strict=True)):
            open_here = gate and i >= len(tower.blocks) - fused
            before, x = x, video_layer(of_video, x, y if open_here else None, mask)
            seen = {"current": x, "previous": before}[attends_to]
            y = text_layer(of_text, y, seen if open_here else None, mask)
        videos.append(norm(x, last_norm, eps))
        texts.append(y)
    return torch.stack(videos), torch.stack(texts)


@torch.no_grad()
@pytest.mark.parametrize("attends_to", ["current", "previous"])
@pytest.mark.parametrize("cls", ["shared", "own"])
@pytest.mark.parametrize("gate", [True, False])
def test_layers_follow_the_paper(make_backbone, attends_to: str, cls: str, gate: bool) -> None:
    backbone = make_backbone(frames=FRAMES, text_attends_to=attends_to, fusion_cls=cls)
    video, text = torch.randn(2, FRAMES, 3, SIDE, SIDE), make_text(2)
    video_states, text_states = expected(backbone, video, text, gate, attends_to, cls == "own")
    top = backbone.top(backbone.trunk(video, text, gate), FRAMES, gate)
    torch.testing.assert_close(top.video, video_states, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(top.text, text_states, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_text_of_the_default_attends_to_the_current_video_layer(make_backbone) -> None:
    backbone = make_backbone(frames=FRAMES)
    video, text = torch.randn(2, FRAMES, 3, SIDE, SIDE), make_text(2)
    text_states = backbone.top(backbone.trunk(video, text, True), FRAMES, True).text
    current, previous = (expected(backbone, video, text, True, layer, False)[1] for layer in ("current", "previous"))
    torch.testing.assert_close(text_states, current, atol=1e-4, rtol=1e-4)
    assert (text_states - previous).abs().max() > 0.01


@torch.no_grad()
def test_heads_follow_the_paper(make_backbone) -> None:
    """Matching reads both CLS states, masked tokens are told from the text's, retrieval compares projections."""
    backbone = make_backbone(frames=FRAMES)
    video, text = torch.randn(2, FRAMES, 3, SIDE, SIDE), make_text(2)
    video_states, text_states = expected(backbone, video, text, True, "current", False)
    of_video = linear(video_states[:, 0], backbone.fused_video_transform)
    of_text = linear(text_states[:, 0], backbone.fused_text_transform)
    head = backbone.match_head
    pooled = torch.cat([linear(of_text, head.text_pooler).tanh(), linear(of_video, head.video_pooler).tanh()], dim=1)
    torch.testing.assert_close(backbone.vtm_logits(video, text), linear(pooled, head.classifier), atol=1e-4, rtol=1e-4)
    mlm = backbone.masked_word_head
    tokens = gelu(linear(linear(text_states, backbone.fused_text_transform), mlm.transform))
    torch.testing.assert_close(backbone.mlm_logits(video, text), linear(norm(tokens, mlm.norm, 1e-12), mlm.decoder),
                               atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(backbone.fused_features(video, text), video_states[:, 0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_projections_follow_the_paper(make_backbone) -> None:
    """Three linear layers with ReLU between them, the first without bias, on the closed gate's CLS states."""
    backbone = make_backbone(frames=FRAMES)
    video, text = torch.randn(2, FRAMES, 3, SIDE, SIDE), make_text(2)
    states = expected(backbone, video, text, False, "current", False)
    projectors = (backbone.video_projector, backbone.text_projector)
    for projector, cls, found in zip(projectors, (s[:, 0] for s in states),
                                     (backbone.embed_video(video), backbone.embed_text(text)), strict=True):
        first, second, third = (projector[i] for i in (0, 2, 4))
        assert first.bias is None and found.shape == (2, 8)
        hidden = linear(linear(cls, first).clamp(min=0), second).clamp(min=0)
        torch.testing.assert_close(found, linear(hidden, third), atol=1e-4, rtol=1e-4)

"""Scaled dot-product attention over named projections.

Letters: `B` clips, `T` frames, `N` patches of a frame, `S = 1 + T * N` video tokens, `h` heads, `D` width.
"""

from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Axis = Literal["time", "space"]


class QKVAttention(Protocol):
    """The parts of timm's attention layer that are used here."""

    num_heads: int
    qkv: nn.Linear
    q_norm: nn.Module
    k_norm: nn.Module
    proj: nn.Linear


def scaled_dot_product(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None,
                       dropout: float = 0.0) -> Tensor:
    """Apply torch's attention to (..., h, S, d); on a CPU in float32.

    There, its backward pass is 5 times faster in float32 than in bfloat16 (at the sizes of `conf/model/tiny.yaml`).
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    with torch.autocast("cpu", enabled=False):
        q, k, v = query.float(), key.float(), value.float()
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout).to(query.dtype)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Split features into heads: (..., S, D) -> (..., h, S, D/h)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """Merge heads into features, the inverse of `split_heads`: (..., h, S, D/h) -> (..., S, D)."""
    return x.transpose(-3, -2).flatten(-2)


def attend(query: Tensor, key: Tensor, value: Tensor, num_heads: int, mask: Tensor | None = None,
           dropout: float = 0.0) -> Tensor:
    """Apply multi-head attention of projected queries over projected keys and values.

    Args:
        query: (B, S, D).
        key: (B, L, D).
        value: (B, L, D).
        mask: (B, L) bool, True where a key may be attended to.
        dropout: Rate of dropout on the attention weights.

    Returns:
        (B, S, D), before the output projection.
    """
    q, k, v = (split_heads(x, num_heads) for x in (query, key, value))
    bias = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, L)
    return merge_heads(scaled_dot_product(q, k, v, bias, dropout))


def attention_weights(query: Tensor, key: Tensor, num_heads: int, mask: Tensor | None = None) -> Tensor:
    """Compute the weights of `attend`, which fused kernels don't expose: (B, S, D), (B, L, D) -> (B, h, S, L)."""
    q, k = split_heads(query, num_heads).float(), split_heads(key, num_heads).float()
    logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5  # (B, h, S, L)
    return (logits if mask is None else logits.masked_fill(~mask[:, None, None], -torch.inf)).softmax(-1)


def _groups(x: Tensor, num_frames: int, axis: Axis) -> Tensor:
    """Group patches that attend to each other: (B, h, T*N, d) -> (B*N, h, T, d) or (B*T, h, N, d)."""
    x = x.unflatten(2, (num_frames, -1))  # (B, h, T, N, d)
    x = x.permute(0, 3, 1, 2, 4) if axis == "time" else x.permute(0, 2, 1, 3, 4)  # (B, groups, h, members, d)
    return x.flatten(0, 1)


def _ungroup(x: Tensor, batch: int, axis: Axis) -> Tensor:
    x = x.unflatten(0, (batch, -1))  # (B, groups, h, members, d)
    x = x.permute(0, 3, 1, 2, 4) if axis == "time" else x.permute(0, 1, 3, 2, 4)  # (B, T, N, h, d)
    return x.flatten(3).flatten(1, 2)  # (B, T*N, D)


def divided_attention(attn: QKVAttention, x: Tensor, num_frames: int, axis: Axis) -> Tensor:
    """Apply divided space-time attention (TimeSformer, as in Frozen in Time), before the output projection.

    The CLS token attends to every token; a patch attends to the CLS token and to the patches at the same position in
    all frames (`time`) or of the same frame (`space`).

    Args:
        attn: timm's attention layer; its output projection is not applied.
        x: (B, S, D) normalised tokens, CLS first.
        num_frames: `T`.
        axis: Axis of attention between patches.

    Returns:
        (B, S, D).
    """
    qkv = split_heads(attn.qkv(x), 3 * attn.num_heads)  # (B, 3h, S, d)
    q, k, v = qkv.chunk(3, dim=1)  # (B, h, S, d)
    q, k = attn.q_norm(q), attn.k_norm(k)
    cls = scaled_dot_product(q[:, :, :1], k, v)  # (B, h, 1, d)
    grouped = [_groups(y[:, :, 1:], num_frames, axis) for y in (q, k, v)]
    num_groups = grouped[0].shape[0] // len(x)
    k, v = (
        torch.cat([y[:, :, :1].repeat_interleave(num_groups, dim=0), group], dim=2)  # (B*groups, h, 1 + members, d)
        for y, group in zip((k, v), grouped[1:], strict=True)
    )
    patches = scaled_dot_product(grouped[0], k, v)  # (B*groups, h, members, d)
    return torch.cat([merge_heads(cls), _ungroup(patches, len(x), axis)], dim=1)  # (B, S, D)


def cls_attention(attn: QKVAttention, x: Tensor) -> Tensor:
    """Compute the CLS token's output of `divided_attention` alone, without the queries of patches.

    Args:
        attn: timm's attention layer.
        x: (B, S, D) normalised tokens, CLS first.

    Returns:
        (B, 1, D), before the output projection.
    """
    dim = x.shape[-1]
    weight, bias = attn.qkv.weight, attn.qkv.bias
    q_bias, kv_bias = (None, None) if bias is None else (bias[:dim], bias[dim:])
    q = split_heads(F.linear(x[:, :1], weight[:dim], q_bias), attn.num_heads)  # (B, h, 1, d)
    k, v = split_heads(F.linear(x, weight[dim:], kv_bias), 2 * attn.num_heads).chunk(2, dim=1)  # (B, h, S, d)
    return merge_heads(scaled_dot_product(attn.q_norm(q), attn.k_norm(k), v))

"""Scaled dot-product attention over named projections.

Letters: `B` clips, `T` frames, `N` patches of a frame, `S = 1 + T * N` video tokens, `h` heads, `D` width.
"""

from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

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
    """Apply torch's attention to (..., h, S, d); on a CPU in float32 at least.

    There, its backward pass is 5 times faster in float32 than in bfloat16 (at the sizes of `conf/model/tiny.yaml`).
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    with torch.autocast("cpu", enabled=False):
        kind = torch.promote_types(query.dtype, torch.float32)  # keeps float64
        q, k, v = query.to(kind), key.to(kind), value.to(kind)
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


def _grouped(x: Tensor, num_frames: int, axis: Axis) -> Tensor:
    """View patches by groups that attend to each other: (B, T*N, h, d) -> (B, h, N, T, d) or (B, h, T, N, d)."""
    x = x.unflatten(1, (num_frames, -1))  # (B, T, N, h, d)
    return x.permute(0, 3, 2, 1, 4) if axis == "time" else x.permute(0, 3, 1, 2, 4)  # (B, h, groups, members, d)


class _Split(Function):
    """Queries, keys and values of groups of patches, each in one copy, and the CLS token's query.

    Nothing refers to `qkv` afterwards, so that its memory is free. Autograd's own backward pass of these slices would
    fill and add up tensors of full size five times.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, num_frames: int, axis: Axis) -> tuple[Tensor, ...]:
        """Split (B, S, 3, h, d) into (B, h, 1, d), (B, h, groups, members, d), 2 of (B, h, groups, 1 + members, d)."""
        ctx.shape, ctx.num_frames, ctx.axis = qkv.shape, num_frames, axis
        query, *context = (_grouped(y, num_frames, axis) for y in qkv[:, 1:].unbind(2))  # (B, h, groups, members, d)
        cls, *cls_context = qkv[:, 0].unsqueeze(3).unbind(1)  # (B, h, 1, d)
        copies = (y.unsqueeze(2).expand(-1, -1, query.shape[2], -1, -1) for y in cls_context)
        with_cls = (torch.cat(pair, dim=3) for pair in zip(copies, context, strict=True))
        return cls.clone(), query.clone(memory_format=torch.contiguous_format), *with_cls

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cls, query, *context = grads
        out = cls.new_empty(ctx.shape)  # (B, S, 3, h, d)
        out[:, 0, 0] = cls.squeeze(2)
        patches = [_grouped(y, ctx.num_frames, ctx.axis) for y in out[:, 1:].unbind(2)]
        patches[0].copy_(query)
        for i, group in enumerate(context, start=1):
            patches[i].copy_(group[:, :, :, 1:])
            out[:, 0, i] = group[:, :, :, 0].sum(2)
        return out, None, None


class _Join(Function):
    """Outputs of the CLS token and of the groups of patches, back in the order of the tokens, in one copy."""

    @staticmethod
    def forward(ctx: Any, cls: Tensor, patches: Tensor, num_frames: int, axis: Axis) -> Tensor:
        """Join (B, h, 1, d) and (B, h, groups, members, d) to (B, S, D)."""
        ctx.num_frames, ctx.axis, ctx.num_heads = num_frames, axis, cls.shape[1]
        batch, heads, groups, members, dim = patches.shape
        out = cls.new_empty(batch, 1 + groups * members, heads, dim)
        out[:, :1] = cls.transpose(1, 2)
        _grouped(out[:, 1:], num_frames, axis).copy_(patches)
        return out.flatten(2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        heads = grad.unflatten(-1, (ctx.num_heads, -1))  # (B, S, h, d)
        return heads[:, :1].transpose(1, 2), _grouped(heads[:, 1:], ctx.num_frames, ctx.axis), None, None


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
    qkv = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1))  # (B, S, 3, h, d)
    if not (isinstance(attn.q_norm, nn.Identity) and isinstance(attn.k_norm, nn.Identity)):
        q, k, v = qkv.unbind(2)
        qkv = torch.stack([attn.q_norm(q), attn.k_norm(k), v], dim=2)
    cls, query, key, value = _Split.apply(qkv, num_frames, axis)
    # The CLS token attends to the groups' keys and values, of which each group's first is a copy of its own.
    once = torch.ones(key.shape[2:4], dtype=torch.bool, device=x.device)  # (groups, 1 + members)
    once[1:, 0] = False
    cls = scaled_dot_product(cls, key.flatten(2, 3), value.flatten(2, 3), once.view(1, 1, 1, -1))  # (B, h, 1, d)
    patches = scaled_dot_product(*(y.flatten(1, 2) for y in (query, key, value)))  # (B, h*groups, members, d)
    return _Join.apply(cls, patches.unflatten(1, query.shape[1:3]), num_frames, axis)


def joint_attention(attn: QKVAttention, x: Tensor) -> Tensor:
    """Apply attention of all tokens to all, of every frame, before the output projection: (B, S, D) -> (B, S, D)."""
    q, k, v = (split_heads(y, attn.num_heads) for y in attn.qkv(x).chunk(3, dim=-1))  # (B, h, S, d)
    return merge_heads(scaled_dot_product(attn.q_norm(q), attn.k_norm(k), v))


def cls_attention(attn: QKVAttention, x: Tensor) -> Tensor:
    """Compute the CLS token's output of `divided_attention` or `joint_attention`, without the queries of patches.

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

"""Scaled dot-product attention over named projections.

Letters: `B` clips, `T` frames, `N` patches of a frame, `P` prefix tokens of a clip (CLS token, registers),
`S = P + T * N` video tokens, `h` heads, `d` width of a head, `D` width.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

Axis = Literal["time", "space"]
_FEW_KEYS = 80  # the backward pass needs the weights: of so many keys they take about the memory of the queries
_SHORT, _SHORTEST = 20, 8  # queries and keys on a GPU for plain products, and for sums that are compiled


def scaled_dot_product(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None,
                       dropout: float = 0.0) -> Tensor:
    """Apply torch's attention to (..., h, S, d).

    Its kernels are meant for long sequences. With 5 keys, those of attention in time, plain products take a third to a
    quarter of its time on a CPU and half of it on a GPU, and a sixth if they are compiled. On a CPU, with many keys, it
    works in float32, where its backward pass is 5 times faster than in bfloat16 (at the sizes of
    `conf/model/tiny.yaml`).
    """
    compiling = torch.compiler.is_compiling()
    plain = mask is None and not dropout and query.dtype != torch.float16  # in which plain products may overflow
    if query.device.type != "cpu":
        longest = max(query.shape[-2], key.shape[-2])
        if query.is_cuda and plain and longest <= _SHORT:
            return (_sums if compiling and longest <= _SHORTEST else _plain_products)(query, key, value)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    if plain and key.shape[-2] <= _FEW_KEYS and not compiling:
        return _plain_products(query, key, value)
    with torch.autocast("cpu", enabled=False):
        kind = torch.promote_types(query.dtype, torch.float32)  # keeps float64
        q, k, v = query.to(kind), key.to(kind), value.to(kind)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout).to(query.dtype)


def _plain_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Apply attention by two matrix products in the query's precision, with a softmax in float32 at least."""
    kind = query.dtype
    with torch.autocast(query.device.type, enabled=False):
        logits = query @ key.to(kind).transpose(-2, -1)  # (..., h, S, L)
        logits = logits.to(torch.promote_types(kind, torch.float32)) * query.shape[-1] ** -0.5
        return logits.softmax(-1).to(kind) @ value.to(kind)


def _sums(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Apply attention by products of elements and sums in float32 at least, which a compiler makes one kernel of."""
    kind = torch.promote_types(query.dtype, torch.float32)
    q, k, v = query.to(kind).unsqueeze(-2), key.to(kind).unsqueeze(-3), value.to(kind).unsqueeze(-3)
    logits = (q * k).sum(-1) * query.shape[-1] ** -0.5  # (..., S, L)
    return (logits.softmax(-1).unsqueeze(-1) * v).sum(-2).to(query.dtype)


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
        mask: (B, L) or, for each query, (B, S, L) bool, True where a key may be attended to.
        dropout: Rate of dropout on the attention weights.

    Returns:
        (B, S, D), before the output projection.
    """
    q, k, v = (split_heads(x, num_heads) for x in (query, key, value))
    if mask is not None:
        mask = mask[:, None] if mask.ndim == 3 else mask[:, None, None]  # (B, 1, S or 1, L)
    return merge_heads(scaled_dot_product(q, k, v, mask, dropout))


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
    """Queries, keys and values of groups of patches, each in one copy, and the prefix tokens' queries.

    Nothing refers to `qkv` afterwards, so that its memory is free. Autograd's own backward pass of these slices would
    fill and add up tensors of full size five times.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, num_prefix: int, num_frames: int, axis: Axis) -> tuple[Tensor, ...]:
        """Split (B, S, 3, h, d) into (B, h, P, d), (B, h, groups, members, d), 2 of (B, h, groups, P + members, d)."""
        ctx.shape, ctx.num_prefix, ctx.num_frames, ctx.axis = qkv.shape, num_prefix, num_frames, axis
        query, *context = (_grouped(y, num_frames, axis) for y in qkv[:, num_prefix:].unbind(2))
        prefix, *prefix_context = qkv[:, :num_prefix].permute(2, 0, 3, 1, 4)  # (B, h, P, d)
        copies = (y.unsqueeze(2).expand(-1, -1, query.shape[2], -1, -1) for y in prefix_context)
        with_prefix = (torch.cat(pair, dim=3) for pair in zip(copies, context, strict=True))
        return prefix.clone(), query.clone(memory_format=torch.contiguous_format), *with_prefix

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        prefix, query, *context = grads
        out, num_prefix = prefix.new_empty(ctx.shape), ctx.num_prefix  # (B, S, 3, h, d)
        out[:, :num_prefix, 0] = prefix.transpose(1, 2)
        patches = [_grouped(y, ctx.num_frames, ctx.axis) for y in out[:, num_prefix:].unbind(2)]
        patches[0].copy_(query)
        for i, group in enumerate(context, start=1):
            patches[i].copy_(group[:, :, :, num_prefix:])
            out[:, :num_prefix, i] = group[:, :, :, :num_prefix].sum(2).transpose(1, 2)
        return out, None, None, None


class _Join(Function):
    """Outputs of the prefix tokens and of the groups of patches, back in the order of the tokens, in one copy."""

    @staticmethod
    def forward(ctx: Any, prefix: Tensor, patches: Tensor, num_frames: int, axis: Axis) -> Tensor:
        """Join (B, h, P, d) and (B, h, groups, members, d) to (B, S, D)."""
        ctx.num_frames, ctx.axis, (ctx.num_heads, ctx.num_prefix) = num_frames, axis, prefix.shape[1:3]
        batch, heads, groups, members, dim = patches.shape
        out = prefix.new_empty(batch, ctx.num_prefix + groups * members, heads, dim)
        out[:, :ctx.num_prefix] = prefix.transpose(1, 2)
        _grouped(out[:, ctx.num_prefix:], num_frames, axis).copy_(patches)
        return out.flatten(2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        heads = grad.unflatten(-1, (ctx.num_heads, -1))  # (B, S, h, d)
        patches = _grouped(heads[:, ctx.num_prefix:], ctx.num_frames, ctx.axis)
        return heads[:, :ctx.num_prefix].transpose(1, 2), patches, None, None


def divided_attention(qkv: Tensor, num_prefix: int, num_frames: int, axis: Axis) -> Tensor:
    """Apply divided space-time attention (TimeSformer, as in Frozen in Time), before the output projection.

    A prefix token attends to every token; a patch attends to the prefix tokens and to the patches at the same position
    in all frames (`time`) or of the same frame (`space`).

    Args:
        qkv: (B, S, 3, h, d) queries, keys and values, prefix tokens first.
        num_prefix: `P`; may be 0.
        num_frames: `T`.
        axis: Axis of attention between patches.

    Returns:
        (B, S, D).
    """
    prefix, query, key, value = _Split.apply(qkv, num_prefix, num_frames, axis)
    if num_prefix:
        # The prefix tokens attend to the groups' keys and values, of which each group's first are copies of their own.
        once = torch.ones(key.shape[2:4], dtype=torch.bool, device=qkv.device)  # (groups, P + members)
        once[1:, :num_prefix] = False
        prefix = scaled_dot_product(prefix, key.flatten(2, 3), value.flatten(2, 3), once.view(1, 1, 1, -1))
    patches = scaled_dot_product(*(y.flatten(1, 2) for y in (query, key, value)))  # (B, h*groups, members, d)
    return _Join.apply(prefix, patches.unflatten(1, query.shape[1:3]), num_frames, axis)


def joint_attention(qkv: Tensor) -> Tensor:
    """Apply attention of all tokens to all, of every frame, before the output projection.

    (B, S, 3, h, d) -> (B, S, D).
    """
    return merge_heads(scaled_dot_product(*qkv.permute(2, 0, 3, 1, 4)))

"""Queries, keys, values and outputs of timm's attention layers, with the parameters of each family of ViTs.

Letters: `B` clips, `T` frames, `N` patches of a frame, `P` prefix tokens, `S = P + T * N` video tokens, `h` heads,
`d` width of a head, `D` width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from torch import Tensor, nn

from egovlpv2.model.attention import divided_attention, joint_attention, merge_heads, scaled_dot_product, split_heads


class ViTAttention(nn.Module):
    """Space-time attention with the layers of a timm ViT's attention.

    timm's `Attention`, `EvaAttention` and `AttentionRope` are known: one projection `qkv`, with its own bias or with
    `q_bias` and `v_bias`, or `q_proj`, `k_proj` and `v_proj`; norms of queries and keys; a norm of the output.

    Args:
        attn: timm's layer, whose modules are taken over.
        num_prefix: `P`.
        rope: (N, 2d) sines and cosines of the patches' rotary positions; None without.
    """

    rope: Tensor | None

    def __init__(self, attn: Any, num_prefix: int, rope: Tensor | None) -> None:
        super().__init__()
        self.num_heads: int = attn.num_heads
        self.num_prefix = num_prefix
        self.rotate_half: bool = getattr(attn, "rotate_half", False)
        self.register_buffer("rope", rope, persistent=False)
        self.qkv: nn.Linear | None = attn.qkv
        if attn.qkv is None:
            self.q_proj, self.k_proj, self.v_proj = attn.q_proj, attn.k_proj, attn.v_proj
        self.q_bias: nn.Parameter | None = getattr(attn, "q_bias", None)
        self.v_bias: nn.Parameter | None = getattr(attn, "v_bias", None)
        self.q_norm, self.k_norm = attn.q_norm, attn.k_norm
        self.norm: nn.Module = getattr(attn, "norm", nn.Identity())
        self.proj: nn.Linear = attn.proj

    def joint(self, x: Tensor) -> Tensor:
        """Attend to all tokens: (B, S, D) normalised -> (B, S, D)."""
        return self._output(joint_attention(self._project(x, self.rope)))

    def in_space(self, x: Tensor, num_frames: int) -> Tensor:
        """Attend to the patches of the same frame: (B, S, D) normalised -> (B, S, D)."""
        return self._output(divided_attention(self._project(x, self.rope), self.num_prefix, num_frames, "space"))

    def in_time(self, x: Tensor, num_frames: int) -> Tensor:
        """Attend to the patches at the same position, which have the same rotary position: so it is left out."""
        return self._output(divided_attention(self._project(x, None), self.num_prefix, num_frames, "time"))

    def of_cls(self, x: Tensor) -> Tensor:
        """Compute the CLS token's output of `joint` or `in_space`: (B, S, D) normalised -> (B, 1, D)."""
        weight, bias = self._weights()
        dim = weight.shape[0] // 3
        q_bias, kv_bias = (None, None) if bias is None else (bias[:dim], bias[dim:])
        q = split_heads(F.linear(x[:, :1], weight[:dim], q_bias), self.num_heads)  # (B, h, 1, d)
        k, v = split_heads(F.linear(x, weight[dim:], kv_bias), 2 * self.num_heads).chunk(2, dim=1)  # (B, h, S, d)
        k = self.k_norm(k)
        if self.rope is not None:
            k = self._rotate(k.transpose(1, 2), self.rope).transpose(1, 2)
        return self._output(merge_heads(scaled_dot_product(self.q_norm(q), k, v)))

    def _project(self, x: Tensor, rope: Tensor | None) -> Tensor:
        """Compute queries, keys and values: (B, S, D) -> (B, S, 3, h, d)."""
        if self.qkv is not None and self.q_bias is None:
            qkv = self.qkv(x)
        else:
            qkv = F.linear(x, *self._weights())
        qkv = qkv.unflatten(-1, (3, self.num_heads, -1))
        if rope is None and isinstance(self.q_norm, nn.Identity) and isinstance(self.k_norm, nn.Identity):
            return qkv
        q, k, v = qkv.unbind(2)  # (B, S, h, d)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = self._rotate(q, rope), self._rotate(k, rope)
        return torch.stack([q, k, v], dim=2)

    def _weights(self) -> tuple[Tensor, Tensor | None]:
        """Weights (3hd, D) and biases (3hd,) of queries, keys and values."""
        if self.qkv is None:
            layers = (self.q_proj, self.k_proj, self.v_proj)
            zeros = layers[1].weight.new_zeros(layers[1].out_features)
            biases = [zeros if layer.bias is None else layer.bias for layer in layers]
            return torch.cat([layer.weight for layer in layers]), torch.cat(biases)
        if self.q_bias is None:
            return self.qkv.weight, self.qkv.bias
        assert self.v_bias is not None
        return self.qkv.weight, torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])

    def _rotate(self, x: Tensor, rope: Tensor) -> Tensor:
        """Rotate the patches of each frame by their positions: (B, S, h, d) -> (B, S, h, d)."""
        patches = x[:, self.num_prefix:].unflatten(1, (-1, len(rope))).transpose(2, 3)  # (B, T, h, N, d)
        patches = apply_rot_embed_cat(patches, rope, half=self.rotate_half).to(x.dtype)
        return torch.cat([x[:, : self.num_prefix], patches.transpose(2, 3).flatten(1, 2)], dim=1)

    def _output(self, y: Tensor) -> Tensor:
        return self.proj(self.norm(y))

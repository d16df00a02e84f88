"""Space-time video transformer, built from a ViT of timm.

Source: TimeSformer (Bertasius et al., 2021) in the form of Frozen in Time (Bain et al., 2021), as EgoVLPv2 uses it;
joint attention as in AVION (Zhao and Kraehenbuehl, 2023).
Letters: `B` clips, `T` frames, `N` patches of a frame, `P` prefix tokens of a clip (CLS token, registers),
`S = P + T * N` tokens, `D` width.
"""

import json
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed, resample_abs_pos_embed
from torch import Tensor, nn

from egovlpv2.model.fusion import GatedCrossAttention
from egovlpv2.model.library_check import Comparison
from egovlpv2.model.space_time_block import SpaceTimeBlock
from egovlpv2.model.vit import VideoTowerConfig, make_vit


class VideoTower(nn.Module):
    """Video embeddings and blocks, which the backbone runs one by one.

    The state that represents a clip is the one that the ViT pools for an image: of its CLS token, or, in families
    without, the mean of the patches or their pooling by attention, here over the patches of all frames.

    Args:
        config: The ViT to build.
        num_fused: Number of blocks, counted from the last, with cross-attention.
        text_dim: Width of the text tower.
        vit: A timm ViT whose modules the tower takes over; None to build the one of `config`.
        text_is_normed: False if the text tower's hidden states have no norm of their own (pre-norm towers):
            cross-attention then normalises them.

    Raises:
        ValueError: timm has no such ViT, or the tower can't reproduce its outputs.
    """

    mean: Tensor  # (3, 1, 1)
    std: Tensor  # (3, 1, 1)
    cls_token: nn.Parameter | None  # (1, 1, D)
    reg_token: nn.Parameter | None  # (1, P - 1, D), or (1, P, D) without a CLS token
    pos_embed: nn.Parameter | None  # (1, P + N, D), or (1, N, D) where prefix tokens have no position
    patch_embed: PatchEmbed

    def __init__(self, config: VideoTowerConfig, num_fused: int, text_dim: int, vit: Any = None,
                 text_is_normed: bool = True) -> None:
        super().__init__()
        if build := vit is None:
            vit = make_vit(config)
            _check_parts(config.name, json.dumps(config.overrides, default=str), config.norm_eps, config.attention,
                         _patch_size(vit.patch_embed))
        depth, self.dim, self.num_fused = len(vit.blocks), vit.embed_dim, num_fused
        if num_fused > depth:
            raise ValueError(f"num_fused_layers is {num_fused}, but {config.name} has {depth} blocks")
        self.pixels = {"mean": list(config.pixel_mean or vit.default_cfg["mean"]),
                       "std": list(config.pixel_std or vit.default_cfg["std"])}
        for name, values in self.pixels.items():
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.patch_embed, self.cls_token, self.pos_embed = vit.patch_embed, vit.cls_token, vit.pos_embed
        self.reg_token, self.num_prefix = vit.reg_token, vit.num_prefix_tokens
        time = torch.randn(1, config.num_frames, self.dim) * config.position_std
        self.temporal_embed = nn.Parameter(torch.zeros_like(time))
        self.norm_pre: nn.Module = vit.norm_pre  # CLIP's; an identity in others
        self.num_heads: int = vit.blocks[0].attn.num_heads
        self.norm_eps: float = vit.blocks[0].norm1.eps
        self.activation = type(getattr(vit.blocks[0].mlp, "act", None)).__name__
        self.rope = getattr(vit, "rope", None)
        rope = None if self.rope is None else _rotations(self.rope)
        self.blocks = nn.ModuleList(
            SpaceTimeBlock(
                block,
                GatedCrossAttention(self.dim, text_dim, self.num_heads, self.norm_eps, normed_context=text_is_normed)
                if i >= depth - num_fused else None,
                config.attention, self.num_prefix, rope,
            )
            for i, block in enumerate(vit.blocks)
        )
        self.norm, self.fc_norm, self.attn_pool = vit.norm, vit.fc_norm, vit.attn_pool
        self.pooling: str = vit.global_pool
        # Prefix tokens are left out of a mean; of attention pooling as well, but not in timm's eva.py.
        pools_prefix = getattr(vit, "pool_include_prefix", vit.global_pool == "map")
        self.pool_from = 0 if pools_prefix else self.num_prefix
        if build and config.init is not None:
            COMPARISON.check_weights(vit, self, f"video.init: {config.name} with the weights of {config.init}")
        self.temporal_embed.data.copy_(time)

    def num_tokens(self, num_frames: int) -> int:
        """Count the tokens of a clip, `S`."""
        return self.num_prefix + num_frames * self.patch_embed.num_patches

    @property
    def traits(self) -> dict[str, Any]:
        """Settings of the ViT that change the outputs but not the names or shapes of the weights."""
        rope = {} if self.rope is None else {key: value for key, value in vars(self.rope).items()
                                             if isinstance(value, str | float) and not key.startswith("_")}
        return {"activation": self.activation, "pooling": f"{self.pooling} from {self.pool_from}",
                "norm_pre_eps": getattr(self.norm_pre, "eps", None), "rotary positions": rope}

    @property
    def reads_cls(self) -> bool:
        """True if the CLS token alone represents the clip."""
        return self.pooling == "token"

    def embed(self, video: Tensor, cls_token: Tensor | None = None) -> Tensor:
        """Embed patches with their positions in space and time.

        Args:
            video: (B, T, 3, H, W), uint8 RGB or already normalised floats.
            cls_token: (1, 1, D) in place of the tower's own.

        Returns:
            (B, S, D), the prefix tokens first.
        """
        if video.shape[-2:] != self.patch_embed.img_size:
            raise ValueError(f"clips are {video.shape[-2]} x {video.shape[-1]} px and the video tower takes "
                             f"{self.patch_embed.img_size[0]} x {self.patch_embed.img_size[1]}: set data.init_args.size"
                             " to it, or img_size in video.overrides")
        if video.dtype == torch.uint8:  # normalised here, not in the loader's workers: bytes are cheaper to copy
            video = video.to(self.mean.dtype).div_(255).sub_(self.mean).div_(self.std)
        batch, num_frames = video.shape[:2]
        x = self.patch_embed(video.flatten(0, 1)).unflatten(0, (batch, num_frames))  # (B, T, N, D)
        place = interpolate_time(self.temporal_embed, num_frames)[:, :, None]  # (1, T, 1, D)
        if self.pos_embed is not None:
            x = x + self.pos_embed[:, None, -x.shape[2]:]  # (B, T, N, D)
        x = torch.cat([*self._prefix(x, cls_token), (x + place).flatten(1, 2)], dim=1)  # (B, S, D)
        return self.norm_pre(x)

    def _prefix(self, x: Tensor, cls_token: Tensor | None) -> list[Tensor]:
        """Tokens before the patches, of all clips of `x` (B, T, N, D): none, or one of (B, P, D)."""
        cls_token = self.cls_token if cls_token is None else cls_token
        tokens = [token for token in (cls_token, self.reg_token) if token is not None]
        if not tokens:
            return []
        prefix = torch.cat(tokens, dim=1)  # (1, P, D)
        if self.pos_embed is not None and self.pos_embed.shape[1] > x.shape[2]:
            prefix = prefix + self.pos_embed[:, : self.num_prefix]
        return [prefix.expand(x.shape[0], -1, -1).to(x.dtype)]

    def pool(self, x: Tensor) -> Tensor:
        """Compute the state that represents each clip, of tokens after `norm`.

        (B, S, D), or of the CLS token alone (B, 1, D) if that is what represents it -> (B, D).
        """
        if self.attn_pool is not None:
            x = self.attn_pool(x[:, self.pool_from:])
        elif self.reads_cls:
            x = x[:, 0]
        else:
            x = x[:, self.pool_from:].mean(1)
        return self.fc_norm(x)

    def resize(self, size: tuple[int, int]) -> None:
        """Take frames of another size, with interpolated positions (bicubic, timm's).

        Args:
            size: Height and width in pixels, multiples of a patch's.
        """
        old = list(self.patch_embed.grid_size)
        self.patch_embed.set_input_size(size)
        new = self.patch_embed.grid_size
        if self.pos_embed is not None:
            before = self.pos_embed.detach()
            self.pos_embed = nn.Parameter(resample_abs_pos_embed(before, list(new), old,
                                                                 num_prefix_tokens=before.shape[1] - old[0] * old[1]))
        if self.rope is not None:
            self.rope.update_feat_shape(new)
            for block in self.blocks:
                assert isinstance(block, SpaceTimeBlock)
                block.attn.rope = _rotations(self.rope)


def interpolate_time(temporal_embed: Tensor, num_frames: int) -> Tensor:
    """Interpolate a temporal embedding linearly, as the released model inflates 4 frames to 16.

    (1, T, D) -> (1, num_frames, D).
    """
    if temporal_embed.shape[1] == num_frames:
        return temporal_embed
    grid = F.interpolate(temporal_embed[None], (num_frames, temporal_embed.shape[2]), mode="bilinear",
                         align_corners=True)
    return grid[0]


def _rotations(rope: Any) -> Tensor:
    """Sines and cosines of a frame's patches, (N, 2d), of timm's module without its variation in training."""
    training = rope.training
    embed = rope.eval().get_embed().detach().clone()
    rope.train(training)
    return embed


def _patch_size(patch_embed: PatchEmbed) -> tuple[int, ...]:
    if min(patch_embed.grid_size) < 1:
        raise ValueError(f"video.overrides: frames of {patch_embed.img_size} px are smaller than a patch")
    sides = zip(patch_embed.img_size, patch_embed.grid_size, strict=True)
    return tuple(pixels // patches for pixels, patches in sides)


def _one_frame(tower: VideoTower, picture: Tensor) -> Tensor:
    """Run the tower on pictures (B, 3, H, W) without its temporal part: tokens and pooled states, (B, S + 1, D)."""
    x = tower.embed(picture[:, None])
    for block in tower.blocks:
        x = block(x, 1)
    x = tower.norm(x)
    return torch.cat([x, tower.pool(x)[:, None]], dim=1)


def _library_outputs(vit: Any, tower: VideoTower, picture: Tensor) -> Tensor:
    """Compute the same as `_one_frame` by timm's own forward pass."""
    tokens = vit.forward_features(picture)  # (B, S, D)
    return torch.cat([tokens, vit.forward_head(tokens, pre_logits=True)[:, None]], dim=1)


def _example(vit: Any, tower: VideoTower) -> Tensor:
    """Make a random picture, (1, 3, H, W)."""
    return torch.randn(1, 3, *tower.patch_embed.img_size).to(tower.temporal_embed.device)


COMPARISON = Comparison("timm", _example, _library_outputs, _one_frame, spare_tensors=("k_bias",))


@lru_cache
def _check_parts(name: str, overrides: str, norm_eps: float | None, attention: Any, patch: tuple[int, ...]) -> None:
    """Check on a small copy that a `VideoTower` without its temporal part computes the same as timm on one frame.

    Cached for each kind of ViT.

    Args:
        name: Name of the timm model.
        overrides: Its arguments, as JSON.
        norm_eps: Epsilon of its norms.
        attention: See `VideoTowerConfig`.
        patch: Height and width of a patch.

    Raises:
        ValueError: The tower would leave out a part of the ViT or compute something else; names it.
    """
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": [2 * patch[0], 3 * patch[1]]}
    config = VideoTowerConfig(name, {**json.loads(overrides), **small}, norm_eps=norm_eps, attention=attention)

    def build() -> tuple[nn.Module, nn.Module]:
        vit = make_vit(config)
        tower = VideoTower(config, 0, 1, vit)
        nn.init.zeros_(tower.temporal_embed)
        return vit, tower

    COMPARISON.check_copy(build, f"video.name: {name}" + (f" with overrides {overrides}" if overrides != "{}" else ""))

"""Space-time video transformer, built from a plain timm ViT.

Source: TimeSformer (Bertasius et al., 2021) in the form of Frozen in Time (Bain et al., 2021), as EgoVLPv2 uses it;
joint attention as in AVION (Zhao and Kraehenbuehl, 2023).
Letters: `B` clips, `T` frames, `N` patches of a frame, `S = 1 + T * N` tokens, `D` width.
"""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from inspect import signature
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import timm
import torch
import torch.nn.functional as F
from msgspec import Meta
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from egovlpv2.io.schema import check
from egovlpv2.model.bounds import Depth, Width, require
from egovlpv2.model.fusion import GatedCrossAttention
from egovlpv2.model.library_check import STRUCTURE_ERRORS, check_same_outputs, isolated_cpu, randomize
from egovlpv2.model.space_time_block import SpaceTimeAttention, SpaceTimeBlock

_Pixels = Annotated[int, Meta(ge=1, le=1 << 14)]
_Sides = _Pixels | Annotated[list[_Pixels], Meta(min_length=2, max_length=2)]


class _Overrides(TypedDict, total=False):
    """Types and bounds of the sizes of a timm ViT."""

    img_size: _Sides
    patch_size: _Sides
    in_chans: Literal[3]
    embed_dim: Width
    depth: Depth
    num_heads: Width
    mlp_ratio: Annotated[float, Meta(gt=0, le=1024)]


@dataclass
class VideoTowerConfig:
    """Configuration of the video tower.

    Args:
        name: A ViT of timm with a class token and absolute positions, such as `vit_base_patch16_224`, or CLIP's
            `vit_base_patch16_clip_quickgelu_224`.
        overrides: Arguments of that timm model to change (`depth`, `embed_dim`, `img_size`, `patch_size`, ...).
        init: Initial weights: `timm` to download timm's, or the path of a file that timm can load; None for random
            ones.
        num_frames: Length of the temporal embedding, which is interpolated for clips of another length.
        norm_eps: Epsilon of every LayerNorm (the released model has 1e-5, timm's ViTs 1e-6).
        drop_path: Stochastic depth rate of the last block, rising linearly from zero.
        pixel_mean: Mean of red, green and blue in [0, 1], for normalising uint8 clips; None for the timm model's.
        pixel_std: Standard deviation of red, green and blue.
        attention: Attention of patches: `divided` into attention in time and in space (paper), or `joint`, of all
            frames' patches, which adds no weights to the ViT's.
    """

    name: str = "vit_base_patch16_224"
    overrides: dict[str, Any] = field(default_factory=dict)
    init: str | None = None
    num_frames: int = 4
    norm_eps: float = 1e-5
    drop_path: float = 0.0
    pixel_mean: list[float] | None = None
    pixel_std: list[float] | None = None
    attention: SpaceTimeAttention = "divided"

    def __post_init__(self) -> None:
        require(1 <= self.num_frames <= 10_000, "num_frames", self.num_frames, "a number of frames from 1 to 10000")
        require(0 < self.norm_eps < 1, "norm_eps", self.norm_eps, "a number between 0 and 1")
        require(0 <= self.drop_path < 1, "drop_path", self.drop_path, "a rate from 0 on and below 1")
        for key, values in (("pixel_mean", self.pixel_mean), ("pixel_std", self.pixel_std)):
            require(values is None or (len(values) == 3 and all(map(isfinite, values))), key, values,
                    "null or three finite numbers")
        require(self.pixel_std is None or min(self.pixel_std) > 0, "pixel_std", self.pixel_std, "numbers above 0")
        check(self.overrides, _Overrides, "overrides")
        if unknown := self.overrides.keys() - signature(VisionTransformer).parameters.keys():
            raise ValueError(f"overrides: {min(map(str, unknown))} is not an argument of timm's ViTs")


class VideoTower(nn.Module):
    """Video embeddings and blocks, which the backbone runs one by one.

    Args:
        config: The ViT to build.
        num_fused: Number of blocks, counted from the last, with cross-attention.
        text_dim: Width of the text tower.
        vit: A timm ViT whose modules the tower takes over; None to build the one of `config`.

    Raises:
        ValueError: timm has no such ViT, or the tower can't reproduce its outputs.
    """

    mean: Tensor  # (3, 1, 1)
    std: Tensor  # (3, 1, 1)
    cls_token: nn.Parameter  # (1, 1, D)
    pos_embed: nn.Parameter  # (1, 1 + N, D), or (1, N, D) where the CLS token has no position
    patch_embed: PatchEmbed

    def __init__(self, config: VideoTowerConfig, num_fused: int, text_dim: int, vit: Any = None) -> None:
        super().__init__()
        if vit is None:
            vit = _make_vit(config)
            sides = zip(vit.patch_embed.img_size, vit.patch_embed.grid_size, strict=True)
            _check_parts(config.name, json.dumps(config.overrides, default=str), config.norm_eps,
                         tuple(pixels // patches for pixels, patches in sides))
        depth, self.dim, self.num_fused = len(vit.blocks), vit.embed_dim, num_fused
        if num_fused > depth:
            raise ValueError(f"num_fused_layers is {num_fused}, but {config.name} has {depth} blocks")
        self.pixels = {"mean": list(config.pixel_mean or vit.default_cfg["mean"]),
                       "std": list(config.pixel_std or vit.default_cfg["std"])}
        for name, values in self.pixels.items():
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.patch_embed, self.cls_token, self.pos_embed = vit.patch_embed, vit.cls_token, vit.pos_embed
        self.temporal_embed = nn.Parameter(torch.randn(1, config.num_frames, self.dim) * 0.02)
        self.norm_pre: nn.Module = vit.norm_pre  # CLIP's; an identity in others
        self.num_heads: int = vit.blocks[0].attn.num_heads
        self.blocks = nn.ModuleList(
            SpaceTimeBlock(
                block, config.norm_eps,
                GatedCrossAttention(self.dim, text_dim, self.num_heads, config.norm_eps) if i >= depth - num_fused
                else None,
                config.attention,
            )
            for i, block in enumerate(vit.blocks)
        )
        self.norm: nn.LayerNorm = vit.norm

    @property
    def first_fused(self) -> SpaceTimeBlock:
        """The lowest block that has cross-attention."""
        block = self.blocks[len(self.blocks) - self.num_fused]
        assert isinstance(block, SpaceTimeBlock)
        return block

    def embed(self, video: Tensor, cls_token: Tensor) -> Tensor:
        """Embed patches with their positions in space and time.

        Args:
            video: (B, T, 3, H, W), uint8 RGB or already normalised floats.
            cls_token: (1, 1, D).

        Returns:
            (B, S, D), the CLS token first.
        """
        if video.shape[-2:] != self.patch_embed.img_size:
            raise ValueError(f"clips are {video.shape[-2]} x {video.shape[-1]} px and the video tower takes "
                             f"{self.patch_embed.img_size[0]} x {self.patch_embed.img_size[1]}: set data.init_args.size"
                             " to it, or img_size in video.overrides")
        if video.dtype == torch.uint8:  # normalised here, not in the loader's workers: bytes are cheaper to copy
            video = video.to(self.mean.dtype).div_(255).sub_(self.mean).div_(self.std)
        batch, num_frames = video.shape[:2]
        x = self.patch_embed(video.flatten(0, 1)).unflatten(0, (batch, num_frames))  # (B, T, N, D)
        time = interpolate_time(self.temporal_embed, num_frames)  # (1, T, D)
        patches = self.pos_embed[:, -x.shape[2]:]  # (1, N, D)
        if patches.shape != self.pos_embed.shape:
            cls_token = cls_token + self.pos_embed[:, :1]  # (1, 1, D)
        x = x + patches[:, None] + time[:, :, None]  # (B, T, N, D)
        x = torch.cat([cls_token.expand(batch, -1, -1).to(x.dtype), x.flatten(1, 2)], dim=1)  # (B, S, D)
        return self.norm_pre(x)


def interpolate_time(temporal_embed: Tensor, num_frames: int) -> Tensor:
    """Interpolate a temporal embedding linearly, as the released model inflates 4 frames to 16.

    (1, T, D) -> (1, num_frames, D).
    """
    if temporal_embed.shape[1] == num_frames:
        return temporal_embed
    grid = F.interpolate(temporal_embed[None], (num_frames, temporal_embed.shape[2]), mode="bilinear",
                         align_corners=True)
    return grid[0]


def _make_vit(config: VideoTowerConfig) -> Any:
    kwargs: dict[str, Any] = {
        "num_classes": 0,
        "drop_path_rate": config.drop_path,
        "norm_layer": lambda dim, **kw: nn.LayerNorm(dim, eps=config.norm_eps, **kw),
        **config.overrides,
    }
    if config.init is not None and config.init != "timm":
        if not Path(config.init).is_file():
            raise ValueError(f"video.init: {config.init} is not a file; give `timm`, a file with timm weights, or null")
        # Without `custom_load`, older versions of timm read any file as .npz for some models.
        kwargs["pretrained_cfg_overlay"] = {"file": config.init, "custom_load": config.init.endswith(".npz")}
    try:
        vit = timm.create_model(config.name, pretrained=config.init is not None, **kwargs)
    except OSError as error:
        raise ValueError(f"video.init: no weights of {config.name} from the Hugging Face hub "
                         f"({str(error).splitlines()[0]}); offline, give the path of a file with them") from error
    except (ValueError, TypeError, AttributeError, LookupError, AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__  # a bare assertion of timm's
        raise ValueError(f"video: timm can't build {config.name} with overrides {config.overrides}: {reason}"
                         ) from error
    plain = isinstance(vit, VisionTransformer) and vit.num_prefix_tokens == 1
    if not plain or vit.pos_embed is None or vit.cls_token is None:
        raise ValueError(f"video.name: {config.name} is not a plain ViT of timm with one class token and positions")
    return vit


@lru_cache
def _check_parts(name: str, overrides: str, norm_eps: float, patch: tuple[int, ...]) -> None:
    """Check on a small copy that a `VideoTower` without its temporal part computes the same as timm on one frame.

    Cached for each kind of ViT.

    Args:
        name: Name of the timm model.
        overrides: Its arguments, as JSON.
        norm_eps: Epsilon of its LayerNorms.
        patch: Height and width of a patch.

    Raises:
        ValueError: The tower would leave out a part of the ViT or compute something else; names it.
    """
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": [2 * patch[0], 3 * patch[1]]}
    config = VideoTowerConfig(name, {**json.loads(overrides), **small}, norm_eps=norm_eps)
    what = f"video.name: {name}" + (f" with overrides {overrides}" if overrides != "{}" else "")
    with isolated_cpu():
        try:
            vit = randomize(_make_vit(config))
            tower = VideoTower(config, 0, 1, vit).eval()
        except STRUCTURE_ERRORS as error:
            raise ValueError(f"{what} is not supported: it has another structure ({error})") from error
        nn.init.zeros_(tower.temporal_embed)
        video = torch.randn(2, 3, *config.overrides["img_size"])

        def theirs() -> Tensor:
            tokens = vit.forward_features(video)  # (B, S, D)
            return torch.cat([tokens, vit.forward_head(tokens, pre_logits=True)[:, None]], dim=1)

        def ours() -> Tensor:
            x = tower.embed(video[:, None], tower.cls_token)
            for block in tower.blocks:
                x = block(x, 1)
            x = tower.norm(x)
            return torch.cat([x, x[:, :1]], dim=1)  # the CLS token represents the clip

        check_same_outputs(vit, theirs, ours, what, "timm")

"""ViTs of timm: configuration and construction."""

import sys
from dataclasses import dataclass, field
from inspect import signature
from math import isfinite
from pathlib import Path
from pickle import PickleError
from typing import Annotated, Any, Literal, TypedDict

import timm
from msgspec import Meta
from safetensors import SafetensorError
from timm.models import load_state_dict
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

from egovlpv2.io.schema import check, read_json
from egovlpv2.model.bounds import Depth, Width, require
from egovlpv2.model.space_time_block import SpaceTimeAttention

_Pixels = Annotated[int, Meta(ge=1, le=1 << 14)]
_Sides = _Pixels | Annotated[list[_Pixels], Meta(min_length=2, max_length=2)]
_RELEASED = "vit_base_patch16_224"  # the released model's ViT, with another epsilon than timm's
_RELEASED_EPS = 1e-5
_POSITION_STD = 0.02  # that of timm's ViTs
_UNUSED = ("head.", "head_dist.", "pre_logits.", "attn_pool.", "fc_norm.", "mask_token", "rope.")  # may be in a file
_POOLS = ("token", "avg", "map", "prr")
_IN_FOLDER = ("model.safetensors", "pytorch_model.bin")  # weights in a folder of the Hugging Face hub


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
        name: A ViT of timm: a plain one such as `vit_base_patch16_224`, DeiT's, CLIP's (those of OpenAI are
            `..._clip_quickgelu_...`), SigLIP's, DINOv2's, DINOv3's, EVA-02's or a Perception Encoder.
        overrides: Arguments of that timm model to change (`depth`, `embed_dim`, `img_size`, `patch_size`, ...).
        init: Initial weights: `timm` to download timm's, or the path of a file that timm can load or of a folder with
            one (`model.safetensors`); None for random ones.
        num_frames: Length of the temporal embedding, which is interpolated for clips of another length.
        norm_eps: Epsilon of every norm; None for the timm model's, but for the default model 1e-5, which the released
            one has.
        drop_path: Stochastic depth rate of the last block, rising linearly from zero.
        pixel_mean: Mean of red, green and blue in [0, 1], for normalising uint8 clips; None for the timm model's.
        pixel_std: Standard deviation of red, green and blue.
        attention: Attention of patches: `divided` into attention in time and in space (paper), or `joint`, of all
            frames' patches, which adds no weights to the ViT's.
        norm_pre_eps: Epsilon of the norm before the blocks (CLIP's ViTs), where it isn't that of the other norms.
        position_std: Standard deviation of the random positions in space and time that training begins with. A new
            tower learns motions in fewer steps if they are as large as the embedded patches.
    """

    name: str = _RELEASED
    overrides: dict[str, Any] = field(default_factory=dict)
    init: str | None = None
    num_frames: int = 4
    norm_eps: float | None = None
    drop_path: float = 0.0
    pixel_mean: list[float] | None = None
    pixel_std: list[float] | None = None
    attention: SpaceTimeAttention = "divided"
    norm_pre_eps: float | None = None
    position_std: float = _POSITION_STD

    def __post_init__(self) -> None:
        require(1 <= self.num_frames <= 10_000, "num_frames", self.num_frames, "a number of frames from 1 to 10000")
        require(self.norm_eps is None or 0 < self.norm_eps < 1, "norm_eps", self.norm_eps, "a number between 0 and 1")
        require(self.norm_pre_eps is None or 0 < self.norm_pre_eps < 1, "norm_pre_eps", self.norm_pre_eps,
                "a number between 0 and 1")
        require(0 < self.position_std <= 10, "position_std", self.position_std, "a number above 0 and up to 10")
        if self.init is not None and self.position_std != _POSITION_STD:
            raise ValueError(f"position_std={self.position_std} is for a tower without init: with init={self.init!r} "
                             "the positions in space are those of the weights")
        require(0 <= self.drop_path < 1, "drop_path", self.drop_path, "a rate from 0 on and below 1")
        for key, values in (("pixel_mean", self.pixel_mean), ("pixel_std", self.pixel_std)):
            require(values is None or (len(values) == 3 and all(map(isfinite, values))), key, values,
                    "null or three finite numbers")
        require(self.pixel_std is None or min(self.pixel_std) > 0, "pixel_std", self.pixel_std, "numbers above 0")
        check(self.overrides, _Overrides, "overrides")
        known = signature(VisionTransformer).parameters.keys() | signature(Eva).parameters.keys()
        if unknown := self.overrides.keys() - known:
            raise ValueError(f"overrides: {min(map(str, unknown))} is not an argument of timm's ViTs")


def make_vit(config: VideoTowerConfig) -> Any:
    """Build a ViT of timm, with initial weights if the configuration names some.

    Args:
        config: The ViT.

    Raises:
        ValueError: timm has no such ViT, it has parts that the video tower doesn't know, or `init` doesn't fit it.
    """
    _check_module(config.name)
    kwargs: dict[str, Any] = {"num_classes": 0, "drop_path_rate": config.drop_path, "dynamic_img_size": False,
                              **config.overrides}
    if config.init is not None and config.init != "timm":
        file = _weights_file(config.init, config.name)
        # Without `custom_load`, older versions of timm read any file as .npz for some models.
        kwargs["pretrained_cfg_overlay"] = {"file": str(file), "custom_load": file.suffix == ".npz"}
    try:
        vit: Any = timm.create_model(config.name, pretrained=config.init is not None, **kwargs)
    except OSError as error:
        raise ValueError(f"video.init: no weights of {config.name} from the Hugging Face hub "
                         f"({str(error).splitlines()[0]}); offline, give the path of a file with them") from error
    except (ValueError, TypeError, AttributeError, LookupError, AssertionError, RuntimeError, EOFError, PickleError,
            SafetensorError) as error:
        raise ValueError(_failure(config, error)) from error
    _check_structure(config.name, vit)
    if config.init is not None and Path(config.init).is_dir():
        _check_pixels(config, vit)
    if config.init is not None and config.init != "timm" and file.suffix != ".npz":
        _check_keys(config, vit, file)
    eps = _RELEASED_EPS if config.norm_eps is None and config.name.split(".")[0] == _RELEASED else config.norm_eps
    if eps is not None:
        parts = (vit.norm_pre, vit.blocks, vit.norm, vit.attn_pool, vit.fc_norm)  # not those of a convolutional stem
        for module in (module for part in parts if part is not None for module in part.modules()):
            if hasattr(module, "eps"):
                vars(module)["eps"] = eps
    if config.norm_pre_eps is not None:
        if not hasattr(vit.norm_pre, "eps"):
            raise ValueError(f"video.norm_pre_eps: {config.name} has no norm before its blocks: leave it at null")
        vit.norm_pre.eps = config.norm_pre_eps
    if config.position_std != _POSITION_STD and vit.pos_embed is not None:
        nn.init.normal_(vit.pos_embed, std=config.position_std)
    return vit


def _check_module(name: str) -> None:
    """Check that a model is defined in one of timm's files with ViTs; names with a location can't be looked up."""
    base = name.split(".")[0]
    if ":" in name or not timm.is_model(base):  # timm's own error lists similar names
        return
    known = ("vision_transformer", "vision_transformer_hybrid", "deit", "eva")
    if (module := timm.model_entrypoint(base).__module__.split(".")[-1]) not in known:
        raise ValueError(f"video.name: {name} is not supported: it is a model of timm's {module}.py, and the video "
                         f"tower knows those of {', '.join(f'{name}.py' for name in known)}")


def _check_structure(name: str, vit: Any) -> None:
    """Refuse what the video tower doesn't compute."""
    reason = None
    if not isinstance(vit, VisionTransformer | Eva):
        reason = f"it is a {type(vit).__name__}"
    elif vit.num_prefix_tokens != sum(token.shape[1] for token in (vit.cls_token, vit.reg_token) if token is not None):
        reason = "it has tokens before the patches that are neither a CLS token nor registers"
    elif getattr(vit, "rope_mixed", False):
        reason = "its rotary positions are learned and differ from block to block"
    elif vit.global_pool not in _POOLS:
        reason = f"its pooling is {vit.global_pool!r}, not one of {', '.join(_POOLS)}"
    if reason is not None:
        raise ValueError(f"video.name: {name} is not supported: {reason}")


def _check_keys(config: VideoTowerConfig, vit: Any, file: Path) -> None:
    """Check that a file had every tensor of a ViT and no other; timm itself lets both pass.

    Raises:
        ValueError: A tensor is missing, or is not of this model; names it.
    """
    adapt = sys.modules[timm.model_entrypoint(config.name.split(".")[0]).__module__]
    state = getattr(adapt, "checkpoint_filter_fn", checkpoint_filter_fn)(load_state_dict(str(file)), vit)
    own = vit.state_dict().keys()
    missing = sorted(own - state.keys())
    more = sorted(key for key in state.keys() - own if not key.startswith(_UNUSED))
    if missing or more:
        which = f"it lacks {missing[0]}" if missing else f"it also has {more[0]}"
        raise ValueError(f"video.init: {config.init} holds weights of another model than {config.name} with overrides "
                         f"{config.overrides}: {which} ({len(missing)} missing, {len(more)} unknown)")


def _check_pixels(config: VideoTowerConfig, vit: Any) -> None:
    """Compare pixel statistics of a folder's `config.json` with those that the video tower will use."""
    file = Path(config.init or "", "config.json")
    stored = read_json(file, dict[str, Any]).get("pretrained_cfg", {}) if file.is_file() else {}
    for key, ours in (("mean", config.pixel_mean), ("std", config.pixel_std)):
        theirs, used = stored.get(key), list(ours or vit.default_cfg[key])
        if theirs is not None and list(theirs) != used:
            raise ValueError(f"video.init: {file} says that pixels have a {key} of {list(theirs)}, and the video tower "
                             f"has {used}: set video.pixel_{key}")


def _check_folder(folder: Path, name: str) -> None:
    """Check that a folder of the hub's layout, which says so in its `config.json`, holds weights of a timm model."""
    if not (folder / "config.json").is_file():
        return
    facts = read_json(folder / "config.json", dict[str, Any])
    stored = facts.get("architecture")
    if isinstance(stored, str) and stored.split(".")[0] != name.split(".")[0]:
        raise ValueError(f"video.init: {folder / 'config.json'} says {stored}, and video.name is {name}: they differ")


def _weights_file(init: str, name: str) -> Path:
    path = Path(init)
    if path.is_dir():
        _check_folder(path, name)
        path = next((path / file for file in _IN_FOLDER if (path / file).is_file()), path)
    if not path.is_file():
        raise ValueError(f"video.init: {init} is missing or has no {' or '.join(_IN_FOLDER)}: give `timm`, a file with "
                         "timm weights, a folder with one, or null")
    return path


def _failure(config: VideoTowerConfig, error: Exception) -> str:
    """Build the error message for a model that timm can't build or load, from its own error."""
    lines = str(error).splitlines() or [type(error).__name__]  # a bare assertion of timm's
    if config.init is not None and "loading state_dict" in lines[0]:
        return (f"video.init: the weights of {config.init} don't fit {config.name} with overrides {config.overrides}: "
                f"{' '.join(' '.join(lines[1:]).split())[:200]}")
    return f"video: timm can't build {config.name} with overrides {config.overrides}: {lines[0]}"

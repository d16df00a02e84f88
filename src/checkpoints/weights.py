"""Load and save backbones: released `.pth`, own `.ckpt` and own `.safetensors`, always strictly."""

import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from timm.layers import to_2tuple

from egovlpv2.arguments import check_call
from egovlpv2.checkpoints.foreign import describe
from egovlpv2.checkpoints.neighbours import layout_of
from egovlpv2.checkpoints.released import convert, read_released, released_config, strip_prefix
from egovlpv2.checkpoints.torch_files import State, check_tensors, read_torch_file, require_weights
from egovlpv2.io.schema import parse_json
from egovlpv2.model.backbone import Backbone
from egovlpv2.model.config import BackboneConfig
from egovlpv2.model.video_tower import interpolate_time
from egovlpv2.pretrained.files import (
    WEIGHTS,
    check_same_config,
    read_config,
    refuse_locations,
    with_own_tokenizer,
    write_weights,
)
from egovlpv2.pretrained.hub import fetch, parse_name
from egovlpv2.pretrained.soundness import check_weights
from egovlpv2.types import NumFrames

log = logging.getLogger(__name__)


def load_backbone(path: str | os.PathLike[str], num_frames: NumFrames = 4,
                  img_size: int | tuple[int, int] | None = None) -> Backbone:
    """Load a backbone, in eval mode, from a weights file of any supported format, a folder, or the Hugging Face hub.

    Args:
        path: A released `.pth` or `.pt` of EgoVLPv2, EgoVLP, LaViLa or AVION, an own `.ckpt` of a task, an own
            `.safetensors`, a folder that `Backbone.save_pretrained` wrote, or, where there is no such file or folder,
            the `owner/name` of a repository on the hub, also `owner/name@revision`.
        num_frames: Length of the temporal embedding, which is interpolated if the file's differs.
        img_size: Side of the frames, or height and width, in pixels; position embeddings are interpolated if the
            file's size differs. None keeps the file's.

    Returns:
        The backbone, on the CPU.

    Raises:
        ValueError: An argument has another type or is out of bounds, the file is missing, unreadable or of another
            kind, its keys or shapes don't fit the model, its weights are damaged, or `img_size` is not a
            multiple of the patch size.
    """
    check_call(load_backbone, locals())
    plain, state = read_weights(path)
    config = _stored_config(plain, path)
    config.video.num_frames = int(num_frames)  # of numpy, it could not be written again
    outline = _outline(config, path)  # takes no memory, whatever sizes the file claims
    _check_shapes(outline, _interpolate_frames(outline, state), path)
    backbone = Backbone(config)
    load_strictly(backbone, state, path)
    if config.fusion == "none":
        log.warning("%s is a dual encoder without fusion: it ranks by cosine, and has no pass with the gate open", path)
    if img_size is not None:
        resize_frames(backbone, to_2tuple(img_size))
    return backbone.eval()


def resize_frames(backbone: Backbone, size: tuple[int, int]) -> None:
    """Adapt a backbone to another frame size by interpolating its position embeddings (bicubic, timm's).

    Args:
        backbone: Changed in place.
        size: Height and width in pixels.

    Raises:
        ValueError: A side is not a multiple of the patch size.
    """
    for side, patch in zip(size, backbone.video_tower.patch_embed.patch_size, strict=True):
        if side < patch or side % patch:
            below = side // patch * patch
            raise ValueError(f"frames of {size[0]} x {size[1]} px: patches of {patch} px don't fill {side} px; give a "
                             f"multiple, such as {f'{below} or ' if below > 0 else ''}{max(below, 0) + patch}")
    backbone.video_tower.resize(size)
    backbone.config.video.overrides = {**backbone.config.video.overrides, "img_size": list(size)}


def _stored_config(plain: dict[str, Any], source: str | os.PathLike[str]) -> BackboneConfig:
    """Parse the configuration stored with weights; it must not refer to other files or to downloads."""
    config = BackboneConfig.from_dict(plain, str(source))
    refuse_locations(asdict(config), source)
    return config


def _outline(config: BackboneConfig, source: str | os.PathLike[str]) -> Backbone:
    """Build a backbone on the meta device.

    Raises:
        ValueError: The configuration is not one of a model; names the file that it came from.
    """
    try:
        with torch.device("meta"):
            return Backbone(config)
    except ValueError as error:
        raise ValueError(f"{source}: its configuration is not one of a model: {error}") from error


def load_strictly(backbone: Backbone, state: State, source: str | os.PathLike[str]) -> None:
    """Load a state dict into a backbone; of all shapes, only the number of frames may differ.

    Raises:
        ValueError: A key or a shape differs, or weights are damaged; lists them.
    """
    state = _interpolate_frames(backbone, state)
    _check_shapes(backbone, state, source)
    check_weights(state, str(source))
    backbone.load_state_dict(state)


def _interpolate_frames(backbone: Backbone, state: State) -> State:
    """Interpolate the temporal embedding of a state dict to the number of frames of a backbone."""
    key, own = "video_tower.temporal_embed", backbone.video_tower.temporal_embed
    if key in state and state[key].ndim == 3 and state[key].shape[::2] == own.shape[::2] and len(state[key][0]):
        return {**state, key: interpolate_time(state[key], own.shape[1])}
    return state


def _check_shapes(backbone: Backbone, state: State, source: str | os.PathLike[str]) -> None:
    """Check that a state dict has the keys, shapes and kinds of numbers of a backbone."""
    own = backbone.state_dict()
    problems = [f"{k} is {tuple(state[k].shape)} in the file and {tuple(v.shape)} in the model"
                for k, v in own.items() if k in state and state[k].shape != v.shape]
    problems += [f"{k} is of {state[k].dtype} in the file" for k, v in own.items()
                 if k in state and state[k].is_floating_point() != v.is_floating_point()]
    problems = problems[:4] + [f"missing {k} {tuple(v.shape)}" for k, v in own.items() if k not in state]
    problems += [f"unknown {k} {tuple(v.shape)}" for k, v in state.items() if k not in own]
    if problems:
        more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise ValueError(f"{source} does not fit the model; is `backbone` in your config the one it was trained with? "
                         + "; ".join(problems[:6]) + more)


def check_fusion(config: BackboneConfig, plain: dict[str, Any], source: str | os.PathLike[str]) -> None:
    """Check that weights of a dual encoder are not loaded into a backbone with fusion, whose layers would be random.

    Args:
        config: The configuration of the backbone that the weights are for.
        plain: The configuration stored with the weights.
        source: Their file, for error messages.

    Raises:
        ValueError: They are.
    """
    if _stored_config(plain, source).fusion == "none" != config.fusion:
        raise ValueError(f"{source} is a dual encoder without fusion, and its weights don't fit a backbone with "
                         "fusion: set fusion to none and num_fused_layers to 0 in `backbone`")


def check_traits(backbone: Backbone, plain: dict[str, Any], source: str | os.PathLike[str]) -> None:
    """Check that weights were trained with a backbone's `traits`, which their shapes don't show.

    Args:
        backbone: The backbone that the weights are for.
        plain: The configuration stored with the weights.
        source: Their file, for error messages.

    Raises:
        ValueError: A trait differs; lists them.
    """
    trained = _outline(_stored_config(plain, source), source).traits
    wrong = [f"{name}: {trained[name]} in the file, {value} in your config"
             for name, value in backbone.traits.items() if trained[name] != value]
    if wrong:
        raise ValueError(f"{source} was trained as another model; set `backbone` as it was: {'; '.join(wrong)}")


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Any], State]:
    """Read the configuration (plain values) and the backbone's tensors of a file that `load_backbone` supports.

    Raises:
        ValueError: The file is missing, unreadable or of another kind.
    """
    source, path = path, find_weights(path)
    require_weights(path)
    if path.suffix not in _READERS:
        raise ValueError(f"{path}: weights are read from {', '.join(_READERS)} files")
    plain, state = _READERS[path.suffix](path)
    if path != Path(source):
        check_same_config(read_config(path.parent, source), plain, source)
    return with_own_tokenizer(plain, path.parent), state


def find_weights(source: str | os.PathLike[str]) -> Path:
    """Find the weights file of what `load_backbone` takes; a repository on the hub is fetched into its cache.

    Raises:
        ValueError: A folder or a repository is not a backbone's, or the repository can't be fetched.
    """
    path = Path(source)
    if os.path.isdir(path):  # False, where `Path.is_dir` raises, for one without permission, whose reader says so
        read_config(path, source)
        return path / WEIGHTS
    repository = None if os.path.lexists(path) or path.suffix in _READERS else parse_name(os.fspath(source))
    return path if repository is None else fetch(repository) / WEIGHTS


def num_frames_of(path: str | os.PathLike[str]) -> int:
    """Read the number of frames that the weights of a file were trained with; errors as in `read_weights`."""
    return _stored_config(read_weights(path)[0], path).video.num_frames


def save_backbone(backbone: Backbone, path: str | os.PathLike[str]) -> None:
    """Save weights and configuration of a backbone as `.safetensors`, atomically.

    Raises:
        ValueError: The weights are damaged, see `check_weights`.
        OSError: The file can't be written.
    """
    write_weights(backbone.state_dict(), backbone.config.to_dict(), Path(path))


def _read_released(path: Path) -> tuple[dict[str, Any], State]:
    state = read_released(path)
    layout = layout_of(state)
    try:
        if layout is not None:
            return layout.config(state), layout.convert(state)
        config = released_config(state)
        if "projector_1.weight" not in state:
            return config, convert("egovlpv2", state)
        return config, strip_prefix(convert("taskqa", state), "backbone.")
    except ValueError as error:
        name = "EgoVLPv2" if layout is None else layout.name
        raise ValueError(f"{path} holds no whole {name} weights: {error}") from error


def _read_own(path: Path) -> tuple[dict[str, Any], State]:
    file = read_torch_file(path)
    state, facts = file.get("state_dict"), file.get("egovlpv2")
    if not isinstance(facts, dict) or "backbone" not in facts:
        raise ValueError(f"{path} holds no EgoVLPv2 weights ({describe(state if isinstance(state, dict) else file)}): "
                         "it is not a checkpoint of an egovlpv2 task with a backbone (released files end in .pth)")
    return facts["backbone"], strip_prefix(check_tensors(state, f"{path}, state_dict"), "backbone.")


def _read_safetensors(path: Path) -> tuple[dict[str, Any], State]:
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("egovlpv2")
            names = list(file.keys())
            if text is None or "features" in names:
                raise ValueError(f"{path} holds no EgoVLPv2 weights ({describe(names)}): there is no egovlpv2 "
                                 "configuration in it; `egovlpv2 convert` writes such files")
            return parse_json(text, dict[str, Any], f"{path}, configuration"), {k: file.get_tensor(k) for k in names}
    except (SafetensorError, RuntimeError) as error:  # RuntimeError: torch doesn't know the dtype
        raise ValueError(f"{path}: not a readable weights file: {str(error).splitlines()[0]}") from error


_READERS = {".safetensors": _read_safetensors, ".ckpt": _read_own, ".pth": _read_released, ".pt": _read_released}

"""Reading and writing weights: released `.pth`, own `.ckpt`, own `.safetensors`, always strictly."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from egovlpv2.border import CommandParser
from egovlpv2.files import whole
from egovlpv2.model.backbone import Backbone, BackboneConfig
from egovlpv2.model.released import State, convert, read_released, released_config, under
from egovlpv2.model.video_tower import interpolate_time
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed, to_2tuple
from torch import nn


def load_backbone(path: str | os.PathLike[str], num_frames: int = 4,
                  img_size: int | tuple[int, int] | None = None) -> Backbone:
    """A backbone in eval mode with the weights of a file, whoever wrote it.

    Args:
        path: A released `.pth`, an own `.ckpt` of a task, or an own `.safetensors`.
        num_frames: Frames of the temporal embedding; another number than the file's is interpolated.
        img_size: Side of the frames, or height and width, in pixels; another than the file's interpolates the
            position embeddings. None: the file's.

    Raises:
        ValueError: The file is missing, unreadable or of another kind, or its keys and shapes are not the model's, or
            patches don't fill a frame of `img_size`.
    """
    plain, state = read_weights(path)
    config = BackboneConfig.from_dict(plain)
    config.video.num_frames = num_frames
    backbone = Backbone(config)
    load_strictly(backbone, state, path)
    if img_size is not None:
        resize_frames(backbone, to_2tuple(img_size))
    return backbone.eval()


def resize_frames(backbone: Backbone, size: tuple[int, int]) -> None:
    """Makes a backbone take frames of another size: its position embeddings are interpolated (bicubic, timm's).

    Args:
        backbone: Gets new positions.
        size: Height and width in pixels.

    Raises:
        ValueError: Patches don't fill such a frame.
    """
    tower = backbone.video_tower
    patches, old = tower.patch_embed, list(tower.patch_embed.grid_size)
    for side, patch in zip(size, patches.patch_size, strict=True):
        if side < patch or side % patch:
            below = side // patch * patch
            raise ValueError(f"frames of {size[0]} x {size[1]} px: patches of {patch} px don't fill {side} px; give a "
                             f"multiple, such as {f'{below} or ' if below > 0 else ''}{max(below, 0) + patch}")
    patches.set_input_size(size)
    positions = resample_abs_pos_embed(tower.pos_embed.detach(), list(patches.grid_size), old)
    tower.pos_embed = nn.Parameter(positions)  # (1, 1 + N, D)
    backbone.config.video.overrides = {**backbone.config.video.overrides, "img_size": list(size)}


def load_strictly(backbone: Backbone, state: State, source: str | os.PathLike[str]) -> None:
    """Gives a backbone the tensors of `state`; any key or shape that differs is an error that lists it.

    Only the number of frames may differ: the temporal embedding is interpolated.
    """
    own = backbone.state_dict()
    key = "video_tower.temporal_embed"
    if key in state and state[key].shape[::2] == own[key].shape[::2]:
        state = {**state, key: interpolate_time(state[key], own[key].shape[1])}
    problems = [f"{k} is {tuple(state[k].shape)} in the file and {tuple(v.shape)} in the model"
                for k, v in own.items() if k in state and state[k].shape != v.shape]
    problems = problems[:4] + [f"missing {k} {tuple(v.shape)}" for k, v in own.items() if k not in state]
    problems += [f"unknown {k} {tuple(v.shape)}" for k, v in state.items() if k not in own]
    if problems:
        more = f"\n  and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise ValueError(f"{source} does not fit the model; is `backbone` in your config the one it was trained with?"
                         + "".join(f"\n  {p}" for p in problems[:12]) + more)
    backbone.load_state_dict(state)


def check_traits(backbone: Backbone, plain: dict[str, Any], source: str | os.PathLike[str]) -> None:
    """Refuses weights of a model that differs in what their shapes don't tell.

    Args:
        backbone: The model to give the weights to.
        plain: The configuration that came with them.
        source: Their file.
    """
    with torch.device("meta"):
        trained = Backbone(BackboneConfig.from_dict(plain)).traits
    wrong = [f"{name}: {trained[name]} in the file, {value} in your config"
             for name, value in backbone.traits.items() if trained[name] != value]
    if wrong:
        raise ValueError(f"{source} was trained as another model; set `backbone` as it was: {'; '.join(wrong)}")


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Any], State]:
    """The configuration (plain values) and the backbone's tensors of any file that `load_backbone` takes."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such weights file (`make pretrain` leaves some in runs/)")
    readers = {".safetensors": _read_safetensors, ".ckpt": _read_own, ".pth": _read_released, ".pt": _read_released}
    if path.suffix not in readers:
        raise ValueError(f"{path}: weights are read from {', '.join(readers)} files")
    try:
        return readers[path.suffix](path)
    except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: not a readable weights file: {str(error).splitlines()[0]}") from error


def save_backbone(backbone: Backbone, path: str | os.PathLike[str]) -> None:
    """Writes weights and configuration as `.safetensors`, whole or not at all."""
    state = {k: v.contiguous() for k, v in backbone.state_dict().items()}
    with whole(Path(path)) as draft:
        save_file(state, draft, {"egovlpv2": json.dumps(backbone.config.to_dict())})


def _read_released(path: Path) -> tuple[dict[str, Any], State]:
    state = read_released(path)
    config = released_config(state)
    if "projector_1.weight" not in state:
        return config, convert("egovlpv2", state)
    return config, under(convert("taskqa", state), "backbone.")


def _read_own(path: Path) -> tuple[dict[str, Any], State]:
    file = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(file, dict) or "backbone" not in file.get("egovlpv2", {}):
        raise ValueError(f"{path}: no checkpoint of an egovlpv2 task with a backbone (released files end in .pth)")
    return file["egovlpv2"]["backbone"], under(file["state_dict"], "backbone.")


def _read_safetensors(path: Path) -> tuple[dict[str, Any], State]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "egovlpv2" not in metadata:
            raise ValueError(f"{path}: no egovlpv2 configuration in it; `egovlpv2 convert` writes such files")
        return json.loads(metadata["egovlpv2"]), {k: file.get_tensor(k) for k in file.keys()}


def main(argv: list[str] | None = None) -> None:
    """`egovlpv2 convert SOURCE TARGET.safetensors`."""
    parser = CommandParser("egovlpv2 convert", description="Any checkpoint to a .safetensors of ours.")
    parser.add_argument("source", help="a released .pth, an own .ckpt or .safetensors")
    parser.add_argument("target", help="the .safetensors to write")
    parser.add_argument("--num-frames", type=int, help="interpolate the temporal embedding (default: as in the file)")
    args = parser.parse_args(argv)
    if not args.target.endswith(".safetensors"):
        raise ValueError(f"{args.target}: the target must end in .safetensors")
    frames = args.num_frames or read_weights(args.source)[0]["video"]["num_frames"]
    backbone = load_backbone(args.source, frames)
    save_backbone(backbone, args.target)
    parameters = sum(p.numel() for p in backbone.parameters())
    print(f"{args.target}: {parameters / 1e6:.1f} M parameters, {frames} frames; no key of {args.source} left over")
    if _answers(args.source):
        print(f"but for its head of EgoTaskQA: to ask questions, give {args.source} itself")


def _answers(path: str) -> bool:
    """Whether a file brings a head that answers questions."""
    from egovlpv2.model.head_weights import read_answer_head  # it builds on this module

    return read_answer_head(Path(path))[0] is not None

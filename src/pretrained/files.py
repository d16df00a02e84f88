"""Files of a backbone: the weights in a `.safetensors`, and the folder around it in the layout of the Hugging Face hub.

The folder holds `model.safetensors`, `config.json`, the folder `tokenizer` and a model card. It can be moved: where the
configuration names the tokenizer, it has `./tokenizer`, the folder beside the weights.
"""

import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from egovlpv2.io.files import atomic_write
from egovlpv2.io.schema import read_json, shown
from egovlpv2.pretrained.soundness import check_weights

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
MODEL_TYPE = "egovlpv2"
OWN_TOKENIZER = "./tokenizer"  # name of a tokenizer whose folder lies beside the weights


def write_weights(state: dict[str, Tensor], config: dict[str, Any], path: Path) -> None:
    """Write weights and their configuration as `.safetensors`, atomically.

    Args:
        state: Tensors by name.
        config: The configuration of the backbone, plain values.
        path: The file.

    Raises:
        ValueError: The weights are damaged, see `check_weights`.
        OSError: The file can't be written.
    """
    state = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    check_weights(state, str(path))
    content = save(state, {"egovlpv2": json.dumps(config)})
    with atomic_write(path) as draft:  # safetensors' `save_file` would replace the locked draft
        draft.write_bytes(content)


def refuse_locations(config: dict[str, Any], source: str | os.PathLike[str]) -> None:
    """Refuse a configuration that refers to other files or to downloads, but for the tokenizer.

    Args:
        config: The configuration of a backbone, plain values.
        source: Name of its source in error messages, such as a path.

    Raises:
        ValueError: It does.
    """
    for tower in ("video", "text"):
        init = config.get(tower, {}).get("init")
        if init is not None:
            raise ValueError(f"{source}: {tower}.init: expected null, got {init!r}: the weights are in the file itself")
    name = config["video"]["name"]
    if ":" in name:  # timm's `hf-hub:` and `local-dir:`
        raise ValueError(f"{source}: video.name: expected the name of a timm model, got {name!r}, a location")


def with_own_tokenizer(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Replace `./tokenizer`, where a configuration names its tokenizer, by the path of that folder."""
    text = config.get("text")
    if isinstance(text, dict) and text.get("tokenizer") == OWN_TOKENIZER:
        return {**config, "text": {**text, "tokenizer": str(folder / OWN_TOKENIZER)}}
    return config


def read_config(folder: Path, source: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the configuration of the backbone in a folder.

    Args:
        folder: A folder that `save_pretrained` wrote.
        source: Its name in error messages: its path, or that of a repository.

    Raises:
        ValueError: There is no `config.json`, or it is that of another model; names it.
    """
    path = folder / CONFIG
    if not os.path.lexists(path):
        raise ValueError(f"{source} is a folder without {CONFIG}: give a weights file, or a folder that "
                         "`save_pretrained` wrote")
    config = read_json(path, dict[str, Any])
    if config.get("model_type") != MODEL_TYPE:
        raise ValueError(f"{source} holds another model ({_origin(config)}): its {CONFIG} has no `model_type` "
                         f"{MODEL_TYPE}; as a tower's first weights, give it to `init` of `video` or `text`")
    return {key: value for key, value in config.items() if key != "model_type"}


def check_same_config(config: dict[str, Any], stored: dict[str, Any], source: str | os.PathLike[str]) -> None:
    """Check that `config.json` and the configuration stored with the weights are the same.

    Raises:
        ValueError: They differ; names the first setting.
    """
    for key in sorted(config.keys() | stored.keys()):
        one, other = config.get(key), stored.get(key)
        if isinstance(one, dict) and isinstance(other, dict) and one != other:
            inner = next(name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name))
            key, one, other = f"{key}.{inner}", one.get(inner), other.get(inner)
        if one != other:
            raise ValueError(f"{source}: {key} is {shown(one)} in {CONFIG} and {shown(other)} in {WEIGHTS}: they are "
                             "of two models, or one was edited; write the folder anew with `save_pretrained`")


def _origin(config: dict[str, Any]) -> str:
    """Name the model of somebody else's `config.json`."""
    if isinstance(config.get("architecture"), str):
        return f"timm's {config['architecture']}"
    if isinstance(config.get("model_type"), str):
        return f"transformers' {config['model_type']}"
    return "of an unknown kind"

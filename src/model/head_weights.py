"""Weights of grounding heads: from own checkpoints and from the authors' files, strictly."""

import pickle
from pathlib import Path

import torch
from egovlpv2.model.checkpoint import State, convert
from torch import nn

_OURS = "head."


def read_head(head: nn.Module, kind: str, path: Path) -> None:
    """Gives a head the weights of a file.

    Args:
        head: The head.
        kind: `vslnet` or `vsgn`, as `convert` knows it.
        path: A `.ckpt` of the head's task, or a released state dict, bare or under `state_dict`.

    Raises:
        ValueError: The file is missing, unreadable or of another head.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such weights file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: not a readable weights file: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no weights by name")
    state: State = content.get("state_dict", content)
    if any(name.startswith("backbone.") for name in state):
        raise ValueError(f"{path} holds a backbone, not a head: features are extracted with it, and a head is what "
                         "`make finetune-nlq` or `finetune-mq` leaves")
    own = {name.removeprefix(_OURS): tensor for name, tensor in state.items() if name.startswith(_OURS)}
    try:
        head.load_state_dict(own or convert(kind, state))
    except RuntimeError as error:
        problems = str(error)[:600]
        raise ValueError(f"{path} does not fit the head; are its sizes in your config those it was trained with? "
                         f"{problems}") from error

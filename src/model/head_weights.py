"""Weights of heads: from own checkpoints and from the authors' files, strictly."""

import pickle
from pathlib import Path
from typing import Any

import torch
from egovlpv2.grounding.answers import AnswerHead
from egovlpv2.grounding.released import convert_answer_head
from egovlpv2.grounding.summary import SummaryHead
from egovlpv2.model.released import State, convert, read_released, under
from torch import nn

_OURS = "head."
_ANSWERS = "answer_head."


def read_answer_head(path: Path) -> tuple[AnswerHead | None, dict[str, Any]]:
    """The head of a file that has been fine-tuned on EgoTaskQA, and what it was trained with, as far as it tells.

    Args:
        path: A file that `load_backbone` takes.

    Returns:
        None and nothing of a file without such a head. What an own `.ckpt` tells: `answers`, the answer set;
        `max_words`; `num_frames`.

    Raises:
        ValueError: The file is missing or unreadable, or its head is not whole.
    """
    facts: dict[str, Any] = {}
    if not path.is_file():
        raise ValueError(f"{path}: there is no such weights file")
    if path.suffix == ".ckpt":
        file = _load(path)
        state, facts = under(file.get("state_dict", {}), _ANSWERS), file.get("egovlpv2", {}).get("taskqa", {})
    else:
        state = convert_answer_head(read_released(path)) if path.suffix in (".pth", ".pt") else {}
    if "hidden.weight" not in state:
        return None, {}
    answers, dim = state["hidden.weight"].shape
    head = AnswerHead(dim, answers)
    try:
        head.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} holds no whole head that answers: {str(error)[:300]}") from error
    return head, facts


def read_summary_head(path: Path) -> tuple[SummaryHead, dict[str, Any]]:
    """The head that QFVS has trained, and on which features: their `kind` and their weights' `checkpoint`.

    Raises:
        ValueError: The file is missing, unreadable or of another task.
    """
    file = _load(path)
    facts = dict(file.get("egovlpv2", {}).get("qfvs", {}))
    if not facts:
        raise ValueError(f"{path} is no checkpoint of QFVS: `make finetune-qfvs` leaves some")
    try:
        head = SummaryHead(*(facts[name] for name in ("dim", "num_layers", "num_heads")))
        head.load_state_dict(under(file["state_dict"], _OURS))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path} is no whole checkpoint of QFVS: {str(error)[:300]}") from error
    return head, facts


def read_head(head: nn.Module, kind: str, path: Path) -> None:
    """Gives a head the weights of a file.

    Args:
        head: The head.
        kind: `vslnet` or `vsgn`, as `convert` knows it; heads of QFVS come from own checkpoints alone.
        path: A `.ckpt` of the head's task, or a released state dict, bare or under `state_dict`.

    Raises:
        ValueError: The file is missing, unreadable or of another head.
    """
    content = _load(path)
    state: State = content.get("state_dict", content)
    if any(name.startswith("backbone.") for name in state):
        raise ValueError(f"{path} holds a backbone, not a head: features are extracted with it, and a head is what "
                         "`make finetune-nlq` or `finetune-mq` leaves")
    try:
        head.load_state_dict(under(state, _OURS) or convert(kind, state))
    except RuntimeError as error:
        problems = str(error)[:600]
        raise ValueError(f"{path} does not fit the head; are its sizes in your config those it was trained with? "
                         f"{problems}") from error


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such weights file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error) or "it ends too early").splitlines()[0]  # EOFError says nothing
        raise ValueError(f"{path}: not a readable weights file: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no weights by name")
    return content

"""Load weights of heads from own checkpoints and from the authors' files, strictly."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from msgspec import Meta
from torch import nn

from egovlpv2.checkpoints.foreign import describe
from egovlpv2.checkpoints.released import convert, read_released, strip_prefix
from egovlpv2.checkpoints.released_heads import convert_answer_head
from egovlpv2.checkpoints.torch_files import State, check_tensors, read_torch_file, require_weights
from egovlpv2.heads.answers import AnswerHead
from egovlpv2.heads.summary import (
    MAX_SEGMENT_SHOTS,
    MAX_SEGMENTS,
    SEGMENT_PENALTY,
    CutBy,
    Design,
    SummaryHead,
)
from egovlpv2.io.schema import check
from egovlpv2.pretrained.soundness import check_weights

_OURS = "head."
_ANSWERS = "answer_head."
_ACTIONFORMER = ("backbone.embd.", "backbone.embd_norm.", "backbone.stem.", "backbone.branch.")  # the released one
_Count = Annotated[int, Meta(ge=1, le=1 << 20)]


class _AnswerFacts(TypedDict, total=False):
    """Settings of EgoTaskQA that an own `.ckpt` stores."""

    answers: list[str]
    max_tokens: _Count
    num_frames: _Count


class _SummaryFacts(TypedDict):
    """Settings of the head and of its features that an own `.ckpt` of QFVS stores."""

    dim: _Count
    num_layers: Annotated[int, Meta(ge=1, le=100)]
    num_heads: _Count
    design: Design
    kind: Literal["fused", "transformed"]
    checkpoint: str
    cut_by: CutBy
    max_segments: _Count
    max_segment_shots: _Count
    vmax: Annotated[float, Meta(ge=0)]


def read_answer_head(path: Path) -> tuple[AnswerHead | None, dict[str, Any]]:
    """Read the answer head of a file fine-tuned on EgoTaskQA, and the settings it was trained with.

    Args:
        path: A file that `load_backbone` reads.

    Returns:
        The head, None if the file has no answer head; and those of `answers` (the answer set), `max_tokens` and
        `num_frames` that the file stores.

    Raises:
        ValueError: The file is missing or unreadable, or its head is incomplete.
    """
    facts: dict[str, Any] = {}
    if path.suffix == ".ckpt":
        file = read_torch_file(path)
        state, facts = strip_prefix(_state_of(file, path), _ANSWERS), _facts(file, "taskqa")
        if "max_words" in facts:  # of versions before 0.2
            facts = {"max_tokens": facts["max_words"], **facts}
        check(facts, _AnswerFacts, f"{path}, egovlpv2.taskqa")
    elif path.suffix in (".pth", ".pt"):
        state = convert_answer_head(read_released(path))
    else:
        require_weights(path)
        state = {}
    if "hidden.weight" not in state:
        return None, {}
    if state["hidden.weight"].ndim != 2:
        raise ValueError(f"{path} holds no complete answer head: hidden.weight is not a matrix")
    answers, dim = state["hidden.weight"].shape
    head = AnswerHead(dim, answers)
    _load_state(head, state, f"{path} holds no complete answer head")
    return head, facts


def read_summary_head(path: Path) -> tuple[SummaryHead, dict[str, Any]]:
    """Read the head of a QFVS checkpoint and the settings it was trained with.

    Args:
        path: A checkpoint of QFVS.

    Returns:
        The head; its sizes and `design`; of the features that it takes the `kind` and their weights' `checkpoint`; and
        how its videos were cut into segments: `cut_by`, `max_segments`, `max_segment_shots`, `vmax`.

    Raises:
        ValueError: The file is missing, unreadable or of another task.
    """
    file = read_torch_file(path)
    facts = _facts(file, "qfvs")
    if not facts:
        raise ValueError(f"{path} is not a checkpoint of QFVS ({describe(file.get('state_dict') or file)}): `make "
                         "finetune-qfvs` leaves some")
    facts = {"design": "paper", "cut_by": "patches", "max_segments": MAX_SEGMENTS,
             "max_segment_shots": MAX_SEGMENT_SHOTS, "vmax": SEGMENT_PENALTY, **facts}  # older checkpoints lack them
    sizes = check(facts, _SummaryFacts, f"{path}, egovlpv2.qfvs")
    if sizes["dim"] % sizes["num_heads"]:
        raise ValueError(f"{path}, egovlpv2.qfvs: num_heads {sizes['num_heads']} does not divide dim {sizes['dim']}")
    state = strip_prefix(_state_of(file, path), _OURS)
    # Checked before the head is built: wrong sizes could exhaust the memory.
    name = {"paper": "summary.weight", "released": "score.0.weight"}[sizes["design"]]
    if name not in state or state[name].shape[-1:] != (sizes["dim"],):
        raise ValueError(f"{path} is not a complete checkpoint of QFVS: its {name} is not {sizes['dim']} wide")
    head = SummaryHead(sizes["dim"], sizes["num_layers"], sizes["num_heads"], design=sizes["design"])
    _load_state(head, state, f"{path} is not a complete checkpoint of QFVS")
    return head, facts


def read_head(head: nn.Module, kind: str, path: Path) -> dict[str, Any]:
    """Load a file's weights into a head.

    Args:
        head: The head, changed in place.
        kind: Kind of released weights for `convert`: `vslnet`, `vsgn` or `actionformer`.
        path: A `.ckpt` of the head's task, or a released state dict, bare or under `state_dict`; the averaged one under
            `state_dict_ema` is preferred, since the authors evaluate it.

    Returns:
        The recipe of the features that it was trained on; empty if the file doesn't store it.

    Raises:
        ValueError: The file is missing, unreadable or of another head.
    """
    content = read_torch_file(path, stubs=True)
    wrapper = next((name for name in ("state_dict_ema", "state_dict") if name in content), None)
    state = _state_of({"state_dict": content if wrapper is None else content[wrapper]}, path)
    if any(name.startswith("backbone.") and not name.startswith(_ACTIONFORMER) for name in state):
        raise ValueError(f"{path} holds a backbone, not a head: features are extracted with it, and a head is what "
                         "`make finetune-nlq` or `finetune-mq` leaves")
    try:
        ours = strip_prefix(state, _OURS) or convert(kind, state)
    except (ValueError, IndexError, RuntimeError) as error:  # torch's, about dimensions
        raise ValueError(f"{path} does not fit the head ({describe(state)}): {error}") from error
    _load_state(head, ours, f"{path} does not fit the head; are its sizes in your config those it was trained with?")
    return _features_of(content, path)


def read_head_features(path: Path) -> dict[str, Any]:
    """Read the recipe of the features that a checkpoint's head was trained on.

    Returns:
        The settings by name; empty if the file doesn't store them.

    Raises:
        ValueError: The file is missing or unreadable, or stores them in another form.
    """
    return _features_of(read_torch_file(path), path)


def read_head_settings(path: Path, task: str) -> dict[str, Any]:
    """Read the settings that a checkpoint stores of a task's head; empty if it stores none."""
    return _facts(read_torch_file(path), task)


def _features_of(content: dict[str, Any], path: Path) -> dict[str, Any]:
    return check(_facts(content, "features"), dict[str, str | int | float], f"{path}, egovlpv2.features")


def _state_of(file: dict[str, Any], path: Path) -> State:
    if "state_dict" not in file:
        raise ValueError(f"{path} has no state_dict: it is not the checkpoint of a task")
    return check_tensors(file["state_dict"], f"{path}, state_dict")


def _facts(file: dict[str, Any], task: str) -> dict[str, Any]:
    """Read the settings of a task from an own checkpoint; empty if there are none."""
    ours = file.get("egovlpv2")
    facts = ours.get(task) if isinstance(ours, dict) else None
    return facts if isinstance(facts, dict) else {}


def _load_state(head: nn.Module, state: State, refusal: str) -> None:
    """Load weights into a head strictly; the message of a `ValueError` starts with `refusal`."""
    try:
        head.load_state_dict(state)
    except RuntimeError as error:  # lists the differences over several lines
        raise ValueError(f"{refusal} {' '.join(str(error).split())[:600]}") from error
    check_weights(state, refusal)

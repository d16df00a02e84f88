"""Load trained heads of NLQ and MQ with the settings that they are used with on any video."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

from msgspec import Meta

from egovlpv2.checkpoints.foreign import describe
from egovlpv2.checkpoints.head_weights import read_head
from egovlpv2.checkpoints.torch_files import read_torch_file
from egovlpv2.heads.actionformer import ActionFormer, Variant
from egovlpv2.heads.actionformer_decoding import Decoding
from egovlpv2.heads.vsgn import VSGN
from egovlpv2.heads.vslnet import SmallVSLNet, VSLNet
from egovlpv2.io.files import refuse_unreadable
from egovlpv2.io.schema import Words, check

_Size = Annotated[int, Meta(ge=1, le=1 << 20)]  # larger ones could exhaust the memory
_Number = Annotated[int, Meta(ge=0, le=1 << 20)]
_Levels = Annotated[int, Meta(ge=1, le=16)]
_Longest = Annotated[float, Meta(gt=0, le=1e9)]


class _QueryFacts(TypedDict):
    """Settings that a checkpoint of NLQ stores."""

    video_dim: _Size
    query_dim: _Size
    dim: _Size
    num_heads: _Size
    max_positions: _Size
    variant: Literal["vslnet", "small"]
    longest: _Longest
    averaged_to: _Size


class _MomentFacts(TypedDict):
    """Settings that a checkpoint of MQ stores, of any head."""

    in_dim: _Size
    dim: _Size
    num_levels: _Levels
    longest: _Longest
    labels: list[Words]


class _VSGNFacts(_MomentFacts):
    head: Literal["vsgn"]
    num_steps: _Size
    num_neighbours: _Size


class _ActionFormerFacts(_MomentFacts):
    head: Literal["actionformer"]
    num_heads: _Size
    window: _Number
    num_full_levels: Annotated[int, Meta(ge=0, le=16)]
    max_steps: _Size
    variant: Variant
    decoding: dict[str, Any]


class QueryHead(NamedTuple):
    """A trained head of NLQ.

    Args:
        head: In eval mode.
        features: Recipe of the features that it was trained on, by name.
        longest: Duration of the longest clip that it was trained on, seconds.
        averaged_to: Features of a longer clip are averaged to so many.
    """

    head: VSLNet | SmallVSLNet
    features: dict[str, Any]
    longest: float
    averaged_to: int


@dataclass(frozen=True)
class MomentHead:
    """A trained head of MQ.

    Args:
        head: In eval mode.
        features: Recipe of the features that it was trained on, by name.
        longest: Duration of the longest clip that it was trained on, seconds.
        labels: Of its classes, from 1 on.
        decoding: Settings of ActionFormer's post-processing.
    """

    head: VSGN | ActionFormer
    features: dict[str, Any]
    longest: float
    labels: list[str]
    decoding: Decoding


def read_query_head(path: Path) -> QueryHead:
    """Load the head of a checkpoint of `make finetune-nlq`.

    Raises:
        ValueError: The file is missing, damaged, of another task, or of a version that stored less.
    """
    facts = check(_read_facts(path, "nlq"), _QueryFacts, f"{path}, egovlpv2.nlq")
    if facts["dim"] % facts["num_heads"]:
        raise ValueError(f"{path}, egovlpv2.nlq: num_heads {facts['num_heads']} does not divide dim {facts['dim']}")
    kinds: dict[str, type[VSLNet] | type[SmallVSLNet]] = {"vslnet": VSLNet, "small": SmallVSLNet}
    sizes = (facts["video_dim"], facts["query_dim"], facts["dim"], facts["num_heads"], facts["max_positions"])
    head = kinds[facts["variant"]](*sizes)
    features = read_head(head, "vslnet", path)
    return QueryHead(head.eval(), features, facts["longest"], facts["averaged_to"])


def read_moment_head(path: Path) -> MomentHead:
    """Load the head of a checkpoint of `make finetune-mq`: VSGN or ActionFormer.

    Raises:
        ValueError: As `read_query_head`.
    """
    plain, source = _read_facts(path, "mq"), f"{path}, egovlpv2.mq"
    head: VSGN | ActionFormer
    decoding = Decoding()
    if plain.get("head") == "vsgn":
        vsgn = check(plain, _VSGNFacts, source)
        labels, longest = vsgn["labels"], vsgn["longest"]
        head = VSGN(vsgn["in_dim"], vsgn["num_steps"], vsgn["num_levels"], vsgn["dim"], len(labels) + 1,
                    vsgn["num_neighbours"])
        features = read_head(head, "vsgn", path)
    else:
        other = check(plain, _ActionFormerFacts, source)
        labels, longest = other["labels"], other["longest"]
        decoding = check(other["decoding"], Decoding, f"{source}.decoding")
        head = ActionFormer(other["in_dim"], len(labels), other["dim"], other["num_levels"], other["num_heads"],
                            other["window"], other["num_full_levels"], other["max_steps"], variant=other["variant"])
        features = read_head(head, "actionformer", path)
    return MomentHead(head.eval(), features, longest, labels, decoding)


def _read_facts(path: Path, task: str) -> dict[str, Any]:
    """Read the settings that a checkpoint stores of its head."""
    refuse_unreadable(path, "a head's checkpoint")
    file = read_torch_file(path)
    ours = file.get("egovlpv2")
    facts = ours.get(task) if isinstance(ours, dict) else None
    if isinstance(facts, dict):
        return facts
    if isinstance(ours, dict) and "features" in ours and str(ours.get("task")).lower().startswith(task):
        raise ValueError(f"{path} is of a version that didn't store the settings of its head: train it again with "
                         f"`make finetune-{task}`")
    other = {"nlq": "mq", "mq": "nlq"}[task]
    if isinstance(ours, dict) and other in ours:
        command = {"nlq": "locate", "mq": "detect"}[other]
        raise ValueError(f"{path} is a head of `make finetune-{other}`: use it with `egovlpv2 {command}`")
    raise ValueError(f"{path} is not a checkpoint of `make finetune-{task}` ({describe(file.get('state_dict') or file)}"
                     "): give one as --head")

"""Heads are read completely, with their settings, or the file is named."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from egovlpv2.checkpoints.head_weights import read_answer_head, read_head, read_summary_head
from egovlpv2.heads.answers import AnswerHead
from egovlpv2.heads.summary import SummaryHead

FACTS = {"answers": ["yes", "no", "knife"], "max_tokens": 20, "num_frames": 4}
SIZES = {"dim": 12, "num_layers": 2, "num_heads": 3}


def named(prefix: str, module: nn.Module) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in module.state_dict().items()}


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_a_head_that_answers_comes_with_what_it_was_trained_with(tmp_path: Path) -> None:
    head = AnswerHead(8, 3)
    state = named("answer_head.", head) | named("backbone.", nn.Linear(2, 2))
    path = save(tmp_path / "taskqa.ckpt", {"state_dict": state, "egovlpv2": {"taskqa": FACTS, "backbone": {}}})
    found, facts = read_answer_head(path)
    assert facts == FACTS
    cls = torch.randn(2, 8)
    torch.testing.assert_close(found.eval()(cls), head.eval()(cls))
    assert read_answer_head(save(path, {"state_dict": state}))[1] == {}  # it tells nothing more


def test_a_checkpoint_without_a_head_that_answers_has_none(tmp_path: Path) -> None:
    content = {"state_dict": {"backbone.weight": torch.zeros(1)}, "egovlpv2": {"taskqa": FACTS}}
    assert read_answer_head(save(tmp_path / "pretrain.ckpt", content)) == (None, {})
    for other in ({"egovlpv2": {}}, {}):
        with pytest.raises(ValueError, match="pretrain.ckpt"):
            read_answer_head(save(tmp_path / "pretrain.ckpt", other))


@pytest.mark.parametrize("content", [{"egovlpv2": {}}, {}])
def test_a_file_without_weights_is_named(tmp_path: Path, content: dict[str, Any]) -> None:
    path = save(tmp_path / "pretrain.ckpt", content)
    with pytest.raises(ValueError, match="pretrain.ckpt"):
        read_answer_head(path)


def test_safetensors_hold_no_head(weights: Path) -> None:
    assert read_answer_head(weights) == (None, {})


@pytest.mark.parametrize("change", [{"answer_head.out.bias": None}, {"answer_head.more": torch.zeros(1)},
                                    {"answer_head.out.weight": torch.zeros(2, 3)}])
def test_a_head_that_is_not_whole_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    state = named("answer_head.", AnswerHead(8, 3)) | change
    path = save(tmp_path / "torn.ckpt", {"state_dict": {k: v for k, v in state.items() if v is not None}})
    with pytest.raises(ValueError, match=f"(?s)torn.ckpt.*{next(iter(change)).removeprefix('answer_head.')}"):
        read_answer_head(path)


def summary(of: str = "paper", **changes: Any) -> dict[str, Any]:
    facts = {**SIZES, "design": of, "kind": "fused", "checkpoint": "abc", **changes}
    return {"state_dict": named("head.", SummaryHead(**SIZES, design=of)),
            "egovlpv2": {"qfvs": {name: fact for name, fact in facts.items() if fact is not None}}}


@pytest.mark.parametrize("design", ["paper", "released"])
def test_a_head_of_summaries_is_made_as_its_file_says(tmp_path: Path, design: str) -> None:
    limits = {"cut_by": "cls", "max_segments": 9, "max_segment_shots": 50, "vmax": 0.5}
    content = summary(design, **limits)
    head, facts = read_summary_head(save(tmp_path / "qfvs.ckpt", content))
    assert facts == {**SIZES, "design": design, "kind": "fused", "checkpoint": "abc", **limits}
    assert head.design == design
    assert len(head.encoder.layers) == 2 and head.encoder.layers[0].self_attn.num_heads == 3
    assert all(torch.equal(tensor, content["state_dict"]["head." + name]) for name, tensor in head.state_dict().items())


def test_a_head_of_summaries_of_before_is_the_papers(tmp_path: Path) -> None:
    head, facts = read_summary_head(save(tmp_path / "qfvs.ckpt", summary(design=None)))
    assert facts["design"] == head.design == "paper" and facts["cut_by"] == "patches"
    assert (facts["max_segments"], facts["max_segment_shots"], facts["vmax"]) == (20, 200, 1.0)


@pytest.mark.parametrize("content", [
    {}, {"state_dict": {}}, {"egovlpv2": {}}, {"egovlpv2": {"qfvs": {}}, "state_dict": {}}, summary(dim=None),
    summary(dim=24), summary(design="other"), summary(design="released"), summary("released", design=None),
    summary("released", dim=24), summary(max_segments=0), {**summary(), "state_dict": {}},
    {"egovlpv2": summary()["egovlpv2"]},
])
def test_files_without_a_whole_head_of_summaries_are_named(tmp_path: Path, content: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="other.ckpt"):
        read_summary_head(save(tmp_path / "other.ckpt", content))


class Affine(nn.Module):
    """The part of VSLNet that has the same name in both layouts, but for a `linear.`"""

    def __init__(self) -> None:
        super().__init__()
        self.video_affine = nn.Linear(3, 2)


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("prefix", ["head.video_affine.", "video_affine.linear.conv1d."])
def test_a_head_takes_own_and_released_names(tmp_path: Path, prefix: str, wrap: bool) -> None:
    theirs, head = Affine(), Affine()
    state = {prefix + name: (tensor[..., None] if "conv1d" in prefix and tensor.ndim > 1 else tensor)
             for name, tensor in theirs.video_affine.state_dict().items()}
    read_head(head, "vslnet", save(tmp_path / "head.ckpt", {"state_dict": state} if wrap else state))
    assert torch.equal(head.video_affine.weight, theirs.video_affine.weight)
    assert torch.equal(head.video_affine.bias, theirs.video_affine.bias)


@pytest.mark.parametrize("state, message", [
    ({"backbone.weight": torch.zeros(1)}, " holds a backbone, not a head"),
    ({"head.video_affine.weight": torch.zeros(2, 3)}, " does not fit the head.*bias"),
    ({"head.video_affine.weight": torch.zeros(2, 4), "head.video_affine.bias": torch.zeros(2)}, "size mismatch"),
])
def test_files_of_other_heads_are_named(tmp_path: Path, state: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)head.ckpt.*{message}"):
        read_head(Affine(), "vslnet", save(tmp_path / "head.ckpt", {"state_dict": state}))


def read_affine(path: Path) -> None:
    read_head(Affine(), "vslnet", path)


@pytest.mark.parametrize("read", [read_answer_head, read_summary_head, read_affine])
def test_files_that_hold_nothing_are_named(tmp_path: Path, read: Any) -> None:
    path = tmp_path / "file.ckpt"
    with pytest.raises(ValueError, match="file.ckpt.*is missing: give a weights file"):
        read(path)
    for content in (b"", b"not an archive"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="file.ckpt"):
            read(path)
    with pytest.raises(ValueError, match="file.ckpt"):
        read(save(path, [1, 2]))

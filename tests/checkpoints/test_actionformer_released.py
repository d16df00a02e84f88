"""Checkpoints of ActionFormer in the authors' and in OpenTAD's layout load strictly, their averages first."""

from pathlib import Path

import pytest
import torch
from actionformer_figures import AUTHORS, OPENTAD, released_state
from torch import Tensor

from egovlpv2.checkpoints import convert
from egovlpv2.checkpoints.head_weights import read_head
from egovlpv2.heads import ActionFormer
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.mq_actionformer import MQActionFormer

VARIANTS = {AUTHORS: "authors", OPENTAD: "opentad"}


def head(name: str) -> ActionFormer:
    return ActionFormer(64, variant=VARIANTS[name])


@pytest.mark.parametrize("name", VARIANTS)
def test_every_key_finds_its_place(name: str) -> None:
    state, own = released_state(name), head(name).state_dict()
    converted = convert("actionformer", {f"module.{key}": value for key, value in state.items()})
    assert {key: value.shape for key, value in converted.items()} == {key: value.shape for key, value in own.items()}
    count = sum(value.numel() for value in state.values())
    assert sum(value.numel() for value in converted.values()) == count + (name == AUTHORS)  # the normaliser
    assert converted["loss_normalizer"] == 100


@pytest.mark.parametrize(("change", "problem"), [
    ({"backbone.stem.0.attn.rel_pe": torch.zeros(1, 4, 1, 9)}, "Unexpected key.*stem.0.attention.rel_pe"),
    ({"more.weight": torch.zeros(1)}, "more.weight is not a tensor of an ActionFormer"),
    ({"reg_head.scale.3.scale": None}, r"a scale for each of its levels; these are there: \[0, 1, 2, 4, 5, 6, 7\]"),
    ({"neck.fpn_norms.2.bias": None}, "Missing key.*norms.2.bias"),
    ({"cls_head.cls_head.conv.bias": torch.zeros(20)}, "size mismatch for class_head.out.bias"),
    ({"backbone.stem.0.ln1.weight": torch.zeros(2, 3, 2)}, "size mismatch for stem.0.norm1.weight"),
])
def test_what_does_not_fit_is_named(change: dict[str, Tensor | None], problem: str, tmp_path: Path) -> None:
    state = {key: value for key, value in (released_state(AUTHORS) | change).items() if value is not None}
    torch.save({"state_dict": state}, tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=f"(?s)theirs.pth does not fit the head.*{problem}"):
        read_head(head(AUTHORS), "actionformer", tmp_path / "theirs.pth")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_task_takes_the_average_of_a_released_file(name: str, tmp_path: Path) -> None:
    state, path = released_state(name), tmp_path / "epoch_015.pth.tar"
    wrapped = {f"module.{key}": value for key, value in state.items()}
    blank = {key: torch.zeros_like(value) for key, value in wrapped.items()}
    torch.save({"epoch": 15, "state_dict": blank, "state_dict_ema": wrapped, "optimizer": {}, "scheduler": {}}, path)
    task = MQActionFormer(OptimizerConfig(), in_dim=64, variant=VARIANTS[name], weights=str(path))
    assert isinstance(task.head, ActionFormer)
    wanted = convert("actionformer", state)
    assert all(torch.equal(value, wanted[key].float()) for key, value in task.head.state_dict().items())
    other = OPENTAD if name == AUTHORS else AUTHORS
    with pytest.raises(ValueError, match="epoch_015.pth.tar does not fit the head"):
        MQActionFormer(OptimizerConfig(), in_dim=64, variant=VARIANTS[other], weights=str(path))


def test_files_of_others_are_named(tmp_path: Path) -> None:
    for state, problem in (({"backbone.video_tower.x": torch.zeros(1)}, "holds a backbone, not a head"),
                           ({"xGPN.conv0.0.weight": torch.zeros(1)}, "does not fit the head")):
        torch.save({"state_dict": state}, tmp_path / "other.ckpt")
        with pytest.raises(ValueError, match=f"other.ckpt {problem}"):
            read_head(head(AUTHORS), "actionformer", tmp_path / "other.ckpt")

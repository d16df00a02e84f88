"""Files that were written on a GPU are read without one, and no code of a file runs, whatever is read from it."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from egovlpv2.checkpoints.head_weights import read_answer_head, read_head, read_summary_head
from egovlpv2.checkpoints.torch_files import read_torch_file
from egovlpv2.checkpoints.weights import read_weights
from egovlpv2.heads.answers import AnswerHead
from egovlpv2.heads.summary import SummaryHead

SIZES = {"dim": 12, "num_layers": 1, "num_heads": 2}
FACTS = {"backbone": {}, "qfvs": {**SIZES, "kind": "fused", "checkpoint": "abc"}}


def content(released: bool = False) -> dict[str, Any]:
    """A file that every reader takes: heads of two tasks, or the authors' tensors."""
    if released:
        dims = {"video_model.patch_embed.proj.weight": 4, "video_model.pos_embed": 3, "video_model.temporal_embed": 3,
                "video_model.blocks.0.attn.qkv.weight": 2, "text_model.embeddings.word_embeddings.weight": 2,
                "text_model.embeddings.position_embeddings.weight": 2,
                "text_model.encoder.layer.0.intermediate.dense.weight": 2, "text_model.encoder.layer.1.alpha_t2i": 1}
        return {"state_dict": {name: torch.ones([2] * count) for name, count in dims.items()}}
    parts = {"answer_head.": AnswerHead(4, 3), "head.": SummaryHead(**SIZES)}
    state = {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.state_dict().items()}
    return {"state_dict": state, "egovlpv2": FACTS}


def read_any_head(path: Path) -> None:
    read_head(SummaryHead(**SIZES), "vslnet", path)


def read_whatever(path: Path) -> None:
    read_torch_file(path, stubs=True)


READERS = [(read_answer_head, ".ckpt"), (read_summary_head, ".ckpt"), (read_any_head, ".ckpt"),
           (read_weights, ".ckpt"), (read_whatever, ".pth")]


def move_to_gpu(path: Path) -> None:
    """Changes the place that the file names for its tensors, `cpu`, as torch.save would have on a GPU."""
    with zipfile.ZipFile(path) as file:
        parts = {info.filename: file.read(info) for info in file.infolist()}
    (name,) = (name for name in parts if name.endswith("data.pkl"))
    cpu, gpu = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"  # how pickle writes a short text
    assert cpu in parts[name]
    parts[name] = parts[name].replace(cpu, gpu)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in parts.items():
            file.writestr(name, data)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here a GPU would take them")
@pytest.mark.parametrize("read, suffix", READERS)
def test_what_was_saved_on_a_gpu_is_read_without_one(tmp_path: Path, read: Callable[[Path], Any], suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    torch.save(content(suffix == ".pth"), path)
    move_to_gpu(path)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(path, weights_only=True)
    read(path)


class Payload:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("read, suffix", READERS)
def test_no_code_of_a_file_runs(tmp_path: Path, read: Callable[[Path], Any], suffix: str) -> None:
    path, trace = tmp_path / f"file{suffix}", tmp_path / "trace"
    torch.save(content(suffix == ".pth") | {"more": Payload(trace)}, path)
    try:
        read(path)
    except ValueError as error:
        assert path.name in str(error)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # so it would have worked


def test_a_state_of_tensors_alone_is_enough_for_a_head(tmp_path: Path) -> None:
    head, other = nn.Linear(2, 2), nn.Linear(2, 2)
    torch.save({f"head.{name}": tensor for name, tensor in head.state_dict().items()}, tmp_path / "head.ckpt")
    read_head(other, "vslnet", tmp_path / "head.ckpt")
    assert torch.equal(head.weight, other.weight)


class Settings:
    """An object of somebody else's package, with arguments and a state."""

    def __init__(self, name: str, size: int = 3) -> None:
        self.name, self.size = name, size

    def __reduce__(self) -> tuple[Any, ...]:
        return Settings, (self.name, self.size), {"name": self.name}


def test_objects_of_others_are_replaced_where_they_may_be_and_refused_elsewhere(tmp_path: Path) -> None:
    path, made = tmp_path / "theirs.pth", content()
    torch.save({**made, "config": Settings("x"), "more": [Settings("y", 7), 5]}, path)
    found = read_torch_file(path, stubs=True)
    assert found.keys() == {*made, "config", "more"} and found["more"][1] == 5
    assert type(found["config"]).__name__ == "Stub" and not vars(found["config"])
    for name, tensor in made["state_dict"].items():
        assert torch.equal(found["state_dict"][name], tensor)
    with pytest.raises(ValueError, match="theirs.pth: not a readable weights file"):
        read_torch_file(path)
    torch.save({**{f"head.{name}": tensor for name, tensor in SummaryHead(**SIZES).state_dict().items()}}, path)
    read_any_head(path)
    torch.save({"state_dict": {name: tensor for name, tensor in made["state_dict"].items() if name.startswith("head.")},
                "config": Settings("z")}, path)
    read_any_head(path)


def test_an_archive_without_a_pickle_in_it_says_what_failed(tmp_path: Path) -> None:
    path = tmp_path / "empty.ckpt"
    torch.save(content(), path)
    with zipfile.ZipFile(path) as file:
        parts = {info.filename: file.read(info) for info in file.infolist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in parts.items():
            file.writestr(name, b"" if name.endswith("data.pkl") else data)
    with pytest.raises(ValueError, match="empty.ckpt: not a readable weights file: .*EOFError"):
        read_torch_file(path)


@pytest.mark.parametrize("key", ["max_tokens", "num_frames"])
def test_counts_of_a_head_that_answers_have_bounds(tmp_path: Path, key: str) -> None:
    state = {f"answer_head.{name}": tensor for name, tensor in AnswerHead(4, 3).state_dict().items()}
    for count, fits in ((1, True), (1 << 20, True), (0, False), ((1 << 20) + 1, False), ("4", False)):
        torch.save({"state_dict": state, "egovlpv2": {"taskqa": {key: count}}}, tmp_path / "taskqa.ckpt")
        if fits:
            assert read_answer_head(tmp_path / "taskqa.ckpt")[1] == {key: count}
        else:
            with pytest.raises(ValueError, match=f"taskqa.ckpt.*{key}"):
                read_answer_head(tmp_path / "taskqa.ckpt")


@pytest.mark.parametrize("kind, said", [
    ("missing", "missing: give a weights file (training leaves them in runs/NAME/checkpoints)"),
    ("empty", "an empty file (0 bytes): fetch or write it again"),
    ("old", "not a readable weights file: it looks like a file of a torch before 1.6: save it again with a newer one"),
    ("text", "not a readable weights file: it looks like a text"),
])
def test_the_kind_of_a_file_that_is_not_an_archive_is_named(tmp_path: Path, kind: str, said: str) -> None:
    path = tmp_path / "file.ckpt"
    if kind == "old":
        torch.save(content(), path, _use_new_zipfile_serialization=False)
    elif kind != "missing":
        path.write_bytes({"empty": b"", "text": b"weights"}[kind])
    with pytest.raises(ValueError) as error:
        read_torch_file(path)
    assert str(error.value).removeprefix(str(path)).removeprefix(" is").lstrip(": ") == said

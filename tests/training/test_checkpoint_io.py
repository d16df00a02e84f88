"""A checkpoint replaces its predecessor when complete; other files are refused in one line, and run no code."""

import os
import pickle
import resource
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from training.small_run import SmallTask, fit

from egovlpv2.training.checkpoint_io import WholeCheckpointIO, read_checkpoint

CHECKPOINT = {"state_dict": {"weight": torch.arange(4.0)}, "loops": {}, "global_step": 7}
# Writes a first checkpoint, then dies by SIGKILL in the midst of writing the second.
DYING = """
import os, signal, sys, torch
from pathlib import Path
from egovlpv2.training.checkpoint_io import WholeCheckpointIO
path, content = Path(sys.argv[1]), {"state_dict": {"weight": torch.zeros(1 << 20)}, "loops": {}}
WholeCheckpointIO().save_checkpoint(content | {"global_step": 1}, path)
save = torch.save
def die(content, file):
    save(content, file)
    file.truncate(file.tell() // 2)
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = die
WholeCheckpointIO().save_checkpoint(content | {"global_step": 2}, path)
"""


def test_a_process_that_dies_while_it_saves_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    elsewhere = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path  # another file system than the target's
    died = subprocess.run([sys.executable, "-c", DYING, path], env={**os.environ, "TMPDIR": str(elsewhere)})
    assert died.returncode == -signal.SIGKILL
    assert read_checkpoint(path)["global_step"] == 1
    assert len(list(path.parent.iterdir())) == 2  # and the draft
    WholeCheckpointIO().save_checkpoint(CHECKPOINT, path)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"] and read_checkpoint(path)["global_step"] == 7


def test_a_full_disk_leaves_the_checkpoint_before_and_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint(CHECKPOINT, path)
    before, limit = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limit[1]))
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(OSError, match="last.ckpt"):
            WholeCheckpointIO().save_checkpoint({"state_dict": {"weight": torch.zeros(1 << 16)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["last.ckpt"]


class Bomb:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def files(folder: Path) -> dict[str, Path]:
    """Files that aren't checkpoints of a run, by what they look like."""
    found = {name: folder / f"{number}.ckpt" for number, name in enumerate((
        "an empty file", "a text", "a .safetensors file", "a zip archive of something else", "a pickle",
        "a part of a file of torch.save", "a damaged file of torch.save", "weights alone", "one value of the type int",
        "a dict with the keys a, b", "a file with code or objects", "none of the formats"))}
    torch.save(CHECKPOINT, folder / "whole")
    whole = (folder / "whole").read_bytes()
    at = whole.index(torch.arange(4.0).numpy().tobytes())
    found["an empty file"].touch()
    found["a text"].write_text("<html>404</html>")
    save_file({"weight": torch.zeros(3)}, found["a .safetensors file"])
    with zipfile.ZipFile(found["a zip archive of something else"], "w") as archive:
        archive.writestr("word/document.xml", "<a/>")
    found["a pickle"].write_bytes(pickle.dumps(Bomb(folder / "exploded")))
    found["a part of a file of torch.save"].write_bytes(whole[: len(whole) // 2])
    found["a damaged file of torch.save"].write_bytes(whole[:at] + b"\x55" + whole[at + 1:])
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, found["weights alone"])
    torch.save(3, found["one value of the type int"])
    torch.save({"a": 1, "b": "c"}, found["a dict with the keys a, b"])
    torch.save(CHECKPOINT | {"bomb": Bomb(folder / "exploded")}, found["a file with code or objects"])
    found["none of the formats"].write_bytes(np.random.default_rng(1).bytes(999))
    return found


def test_a_file_that_is_no_checkpoint_is_named_with_what_it_looks_like(tmp_path: Path) -> None:
    for like, path in files(tmp_path).items():
        with pytest.raises(ValueError) as caught:
            read_checkpoint(path)
        message = str(caught.value)
        assert message.startswith(f"{path} is not a checkpoint of a run: it looks like {like}"), message
        assert "\n" not in message
    with pytest.raises(ValueError, match="there is no such checkpoint"):
        read_checkpoint(tmp_path / "missing.ckpt")
    assert not (tmp_path / "exploded").exists()


def test_damaged_checkpoints_end_in_one_line(tmp_path: Path) -> None:
    torch.save(CHECKPOINT, tmp_path / "whole")
    whole, path = (tmp_path / "whole").read_bytes(), tmp_path / "damaged.ckpt"
    for seed in range(60):
        draw, damaged = np.random.default_rng(seed), bytearray(whole)
        for at in draw.integers(0, len(whole), 1 + seed % 8):
            damaged[at] = draw.integers(256)
        path.write_bytes(bytes(damaged[: draw.integers(1, len(whole))] if seed % 5 == 0 else damaged))
        try:
            content = read_checkpoint(path)
        except ValueError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
        else:  # padding, dates and flags may change without harm
            assert torch.equal(content["state_dict"]["weight"], torch.arange(4.0)) and content["global_step"] == 7


def test_a_checkpoint_of_another_task_is_refused(tmp_path: Path) -> None:
    class Other(SmallTask):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(2, 2)

    fit(tmp_path / "run", 4, task=Other(), max_epochs=1)
    with pytest.raises(ValueError, match=r"last.ckpt does not fit SmallTask .* it also has 2 tensors, such as "
                                         r"head.bias; it looks like a checkpoint of Other"):
        fit(tmp_path / "run", 4)


def test_weights_alone_cannot_be_resumed(tmp_path: Path) -> None:
    fit(tmp_path / "run", 4, max_epochs=1)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    del content["optimizer_states"]
    torch.save(content, last)
    with pytest.raises(ValueError, match="last.ckpt can't be resumed: it has no optimizer_states"):
        fit(tmp_path / "run", 4)

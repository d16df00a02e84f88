"""Reading and writing of Lightning's checkpoints: a file is whole or stays as it was, and none of its code runs."""

import errno
import lzma
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from egovlpv2.files import whole
from lightning.pytorch.plugins.io import TorchCheckpointIO

# What torch's reader of tensors and plain values raises for bytes that it didn't write.
_UNREADABLE = (RuntimeError, EOFError, pickle.UnpicklingError, LookupError, AttributeError, TypeError, ValueError,
               AssertionError, struct.error, zipfile.BadZipFile, NotImplementedError, OverflowError, RecursionError)


class WholeCheckpointIO(TorchCheckpointIO):
    """Checkpoints that replace the ones before only when they are on the disk, on any file system.

    Lightning's own would write into `$TMPDIR` and copy, which leaves half a file if the process ends in between.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: It can't be written, for example because the disk is full; the file before it stays.
        """
        with whole(Path(path)) as draft, draft.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's own, when it closes what could not be written
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load_checkpoint(self, path: str | Path, map_location: Callable[..., Any] | None = None,
                        weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, tensors and plain values alone, whatever `weights_only` says; see `read_checkpoint`."""
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of a Lightning module onto the CPU.

    Raises:
        ValueError: It is not one, is damaged, or holds code; names the file and says what it looks like.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such checkpoint")
    kind = describe_file(path)
    if kind != _CHECKPOINT:
        raise ValueError(f"{path} is not a checkpoint of a run: it looks like {kind}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"{path} is not a checkpoint of a run: it looks like a file with code or objects in it, which "
                         f"are not loaded ({reason[:200]})") from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict) or "loops" not in content:
        raise ValueError(f"{path} is not a checkpoint of a run: it looks like {_describe_content(content)}")
    return content


_CHECKPOINT = "a file of torch.save"


def describe_file(path: Path) -> str:
    """A file's format, as its bytes tell it."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "an empty file"
    if head.startswith(b"PK"):
        return _describe_zip(path)
    if head[:1] == b"\x80":
        return "a pickle, or a checkpoint of torch before 1.6"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "a .safetensors file (weights go to --model.init_args.weights)"
    if head.startswith(b"\x89HDF"):
        return "an HDF5 file"
    return "a text" if all(byte >= 32 or byte in b"\t\n\r" for byte in head) else "none of the formats known here"


def _describe_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names, damaged = archive.namelist(), archive.testzip()
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, struct.error, ValueError, EOFError):
        return "a part of a file of torch.save, or a damaged one"
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # those are of a damaged list of contents
            raise
        return "a part of a file of torch.save, or a damaged one"
    if damaged is not None:
        return f"a damaged file of torch.save ({damaged} differs from its check sum)"
    return _CHECKPOINT if any(name.endswith("/data.pkl") for name in names) else "a zip archive of something else"


def _describe_content(content: Any) -> str:
    """A plain value from a file, told by what keys it has."""
    if not isinstance(content, dict):
        return f"one value of the type {type(content).__name__}"
    if "state_dict" in content or all(isinstance(value, torch.Tensor) for value in content.values()):
        return "weights alone (they go to --model.init_args.weights)"
    return f"a dict with the keys {', '.join(map(str, list(content)[:5]))}"

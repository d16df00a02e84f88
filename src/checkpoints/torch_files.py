"""Read files of `torch.save` without running code in them, with precise errors for damaged or foreign files."""

import errno
import lzma
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egovlpv2.io.files import refuse_unreadable

State = dict[str, Tensor]

_ARCHIVE = "a file of torch.save"
# Magic number of `torch.save` before torch 1.6, a pickled integer.
_OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
# A pickle is a program, so a damaged one can fail with almost any exception.
_DAMAGED = (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, struct.error, LookupError, TypeError,
            AttributeError, ValueError, ArithmeticError, AssertionError, ImportError, OSError, MemoryError)
_TORN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, struct.error, ValueError, EOFError, LookupError)


def require_weights(path: Path) -> None:
    """Refuse a path without a weights file that can be read.

    Raises:
        ValueError: The file is missing, empty, a folder, or can't be read; says which.
    """
    refuse_unreadable(path, "a weights file")
    if not path.is_file():
        raise ValueError(f"{path} is missing: give a weights file (training leaves them in runs/NAME/checkpoints)")


def read_torch_file(path: Path, stubs: bool = False) -> dict[str, Any]:
    """Read a weights file of `torch.save`: a dict of tensors, containers, numbers and strings.

    Args:
        path: The file.
        stubs: As in `load`.

    Raises:
        ValueError: The file is missing, damaged or of another kind.
    """
    require_weights(path)
    content = load(path, f"{path}: not a readable weights file", stubs, mmap=True)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no EgoVLPv2 weights: it is a {type(content).__name__}, not a dict of tensors")
    return content


def load(path: Path, refusal: str, stubs: bool = False, mmap: bool = False) -> Any:
    """Load a file of `torch.save` onto the CPU.

    Args:
        path: An existing file.
        refusal: Start of error messages, followed by a description of the file.
        stubs: Replace objects of unknown classes by inert stubs; by default they are an error.
        mmap: Map the file into memory, so that tensors are read on first use.

    Raises:
        ValueError: The file is damaged, of another kind, or holds code.
    """
    if (kind := describe_file(path)) != _ARCHIVE:
        raise ValueError(f"{refusal}: it looks like {kind}")
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path) if stubs else []
        with torch.serialization.safe_globals([(type("Stub", (_Stub,), {}), name) for name in unknown]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except _DAMAGED as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"{refusal}: it looks like a file with code or objects in it, which are not loaded "
                         f"({reason[:200]})") from error


def describe_file(path: Path) -> str:
    """Describe a file's format from its first bytes."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "an empty file"
    if head.startswith(b"PK"):
        return _describe_zip(path)
    if head.startswith(_OLD):
        return "a file of a torch before 1.6: save it again with a newer one"
    if head[:1] == b"\x80":
        return "a pickle"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "a .safetensors file (give it that suffix; weights go to --model.init_args.weights)"
    if head.startswith(b"\x89HDF"):
        return "an HDF5 file"
    return "a text" if all(byte >= 32 or byte in b"\t\n\r" for byte in head) else "none of the formats known here"


def _describe_zip(path: Path) -> str:
    """Describe a zip archive after verifying its checksums, which reads all of it (about 2 GB/s)."""
    torn = "a part of a file of torch.save, or a damaged one: copy or download it again"
    try:
        with zipfile.ZipFile(path) as archive:
            names, damaged = archive.namelist(), archive.testzip()
    except _TORN:
        return torn
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # these two mean a damaged table of contents
            raise
        return torn
    if damaged is not None:
        return f"a damaged file of torch.save (the checksum of {damaged!r:.60} does not fit): copy or download it again"
    return _ARCHIVE if any(name.endswith("/data.pkl") for name in names) else "a zip archive of something else"


def check_tensors(state: Any, source: str) -> State:
    """Check that a value is a dict of plain tensors, and return it.

    Args:
        state: The value.
        source: Its name in error messages.

    Raises:
        ValueError: It is not a dict, or an entry is not a plain tensor with all its values in the file; names it.
    """
    if not isinstance(state, dict):
        raise ValueError(f"{source} is a {type(state).__name__}, not a dict of tensors")
    for name, value in state.items():
        if not isinstance(name, str):
            raise ValueError(f"{source} has a key {name!r:.60} that is not a text")
        if not isinstance(value, Tensor):
            raise ValueError(f"{source}: {name} is a {type(value).__name__} where a tensor belongs")
        plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        # An expanded view claims more values than the file stores.
        if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{source}: {name} is not a plain tensor with all its numbers in the file")
    return state


class _Stub:
    """An inert replacement for a class of another package, which ignores all of its pickled state."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Stub":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

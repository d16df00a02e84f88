"""Files of `torch.save`, read so that no code in them runs, and that what is damaged or of another kind is named."""

import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]

# How a file of `torch.save` before torch 1.6 begins: a pickled number.
_OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
# A pickle is a program for a small machine, and a damaged one fails in as many ways as a program can.
_DAMAGED = (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, struct.error, LookupError, TypeError,
            AttributeError, ValueError, ArithmeticError, AssertionError, ImportError, OSError, MemoryError)


def read_torch_file(path: Path, stubs: bool = False) -> dict[str, Any]:
    """The content of a file of `torch.save`: a dict of tensors, containers, numbers and texts.

    Args:
        path: The file.
        stubs: Whether objects of other classes are replaced by ones that do nothing; without, they are an error.

    Raises:
        ValueError: The file is missing, damaged or of another kind.
    """
    _check_archive(path)
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path) if stubs else []
        with torch.serialization.safe_globals([(type("Stub", (_Stub,), {}), name) for name in unknown]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except _DAMAGED as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path}: not a readable weights file: {said[:200]}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no EgoVLPv2 weights: it is a {type(content).__name__}, not a dict of tensors")
    return content


def _check_archive(path: Path) -> None:
    """Refuse what isn't a whole archive of `torch.save`; reads it once, at the speed of CRC-32 (2 GB a second)."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such weights file (`make pretrain` leaves some in runs/)")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path}: not a readable weights file: {_what_it_is(path)}")
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                raise ValueError(f"{path} holds no EgoVLPv2 weights: it is a .zip that torch.save did not write")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, RuntimeError, LookupError, struct.error, OSError, zlib.error) as error:
        raise ValueError(f"{path}: not a readable weights file: {error}") from error
    if damaged:
        raise ValueError(f"{path}: not a readable weights file: the checksum of {damaged!r:.60} in it does not fit: "
                         "copy or download it again")


def _what_it_is(path: Path) -> str:
    """What a file is that is no archive."""
    with path.open("rb") as file:
        begin = file.read(len(_OLD))
    if not begin:
        return "it is empty"
    if begin == _OLD:
        return "it was saved by a torch before 1.6: save it again with a newer one"
    return "it is not an archive of torch.save, or was cut short"


def check_tensors(state: Any, source: str) -> State:
    """The tensors of a file by name.

    Args:
        state: What should be a dict of them.
        source: What error messages call it.

    Raises:
        ValueError: It is something else, or an entry is not a plain tensor with all its numbers; names it.
    """
    if not isinstance(state, dict):
        raise ValueError(f"{source} is a {type(state).__name__}, not a dict of tensors")
    for name, value in state.items():
        if not isinstance(name, str):
            raise ValueError(f"{source} has a key {name!r:.60} that is not a text")
        if not isinstance(value, Tensor):
            raise ValueError(f"{source}: {name} is a {type(value).__name__} where a tensor belongs")
        plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        # A tensor may repeat its numbers, and so stand for more bytes than the file has.
        if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{source}: {name} is not a plain tensor with all its numbers in the file")
    return state


class _Stub:
    """Stands in for a class of somebody else's package: takes whatever its pickle gives, does nothing with it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Stub":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

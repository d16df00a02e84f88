"""How well each text of a retrieval data set fits each clip: computed from labels, kept once for each pair of labels.

The full matrix of EPIC-Kitchens-100's training data, 67,217 x 15,989, has some 6,600 different rows and as many
different columns: a table of 6,600 x 6,600 float32 (175 MB) and two lists of places in it hold it all.
"""

import hashlib
import logging
import pickle
import pickletools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from egovlpv2.io.files import atomic_write
from egovlpv2.metrics.relevancy import Relevancy

SUFFIX = ".safetensors"
_MOST_PARTS = 1000  # of a pickled matrix, which has some twenty
_log = logging.getLogger(__name__)


def relevancy(verb_classes: Sequence[int], noun_classes: Sequence[Sequence[int]],
              sentence_verb_classes: Sequence[int], sentence_noun_classes: Sequence[Sequence[int]]) -> Tensor:
    """EPIC-Kitchens-100's relevancy: half for the same verb class, half for the nouns' intersection over union.

    Args:
        verb_classes: Of n clips.
        noun_classes: Of n clips, at least one each.
        sentence_verb_classes: Of m sentences.
        sentence_noun_classes: Of m sentences, at least one each.

    Returns:
        (n, m) float32. `Relevancy.of_labels` holds the same without spreading it.
    """
    return Relevancy.of_labels(verb_classes, noun_classes, sentence_verb_classes, sentence_noun_classes).full()


def cached(path: Path, *labels: Sequence[Any]) -> Relevancy:
    """`Relevancy.of_labels`, kept in a `.safetensors` that is written if it isn't there; or the authors' `.pkl`.

    Raises:
        ValueError: The file is unreadable, of another shape or, if it is one of ours, of other labels.
    """
    shape = (len(labels[0]), len(labels[2]))
    if path.suffix == ".pkl":
        return Relevancy.of_matrix(torch.from_numpy(read_pickled_matrix(path, shape)))
    if path.suffix != SUFFIX:
        raise ValueError(f"{path}: relevancy is a {SUFFIX} (written where there is none) or the authors' .pkl.")
    digest = hashlib.sha256(repr([list(map(_plain, part)) for part in labels]).encode()).hexdigest()
    if path.exists():
        return _read_own(path, shape, digest)
    made = Relevancy.of_labels(*labels)
    _write_own(path, made, digest)
    return made


def read_pickled_matrix(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A pickled float matrix as float32, by a reader that builds that and nothing else: no code of the file runs.

    Raises:
        ValueError: The file is missing, holds anything else, has another shape or values outside 0 to 1.
    """
    if not path.exists():
        raise ValueError(f"There is no file {path}: leave the relevancy out, and it is computed.")
    try:
        with path.open("rb") as file:
            _check_memo(file)
            content = _ArrayUnpickler(file).load()
        if not isinstance(content, _Array) or not content.is_matrix_of_floats:
            raise ValueError("it holds no matrix of floats")
        matrix = content.build()
    except (pickle.UnpicklingError, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError,
            ArithmeticError, MemoryError, RecursionError) as error:
        raise ValueError(f"{path} is not a pickled NumPy matrix: {' '.join(str(error).split())}.") from error
    _check_shape(path, matrix.shape, shape)
    if not (matrix.min() >= 0 and matrix.max() <= 1 + 1e-6):  # nan is neither
        raise ValueError(f"{path} has relevancies that are not between 0 and 1.")
    return matrix


def _check_memo(file: BinaryIO) -> None:
    """Refuse a pickle that would fill the memory: the memo is as long as the largest place that is named in it."""
    for opcode, place, _ in pickletools.genops(file):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and place > _MOST_PARTS:
            raise pickle.UnpicklingError("it has too many parts for a matrix")
    file.seek(0)


class _Dtype:
    """Stands in for `numpy.dtype`: only its name and byte order are kept."""

    def __init__(self, name: str, *flags: Any) -> None:
        self.name, self.order = name, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Array:
    """Stands in for an array: what it is made of, as the pickle says, to be checked before anything is built."""

    def __init__(self, *_: Any) -> None:
        self.shape: Any = None
        self.dtype: Any = None
        self.data: Any = None
        self.order = "C"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, fortran, self.data = state
        self.order = "F" if fortran else "C"

    @classmethod
    def from_buffer(cls, data: Any, dtype: Any, shape: Any, order: str) -> "_Array":
        array = cls()
        array.data, array.dtype, array.shape, array.order = data, dtype, shape, order
        return array

    @property
    def is_matrix_of_floats(self) -> bool:
        typed = isinstance(self.dtype, _Dtype) and self.dtype.name in ("f2", "f4", "f8")
        return typed and isinstance(self.data, (bytes, bytearray)) and len(self.shape) == 2

    def build(self) -> np.ndarray:
        dtype = np.dtype(self.dtype.name).newbyteorder(">" if self.dtype.order == ">" else "<")
        rows, columns = map(int, self.shape)
        return np.array(np.frombuffer(self.data, dtype).reshape(rows, columns, order=self.order), dtype=np.float32)


class _Marker:
    """Stands in for `numpy.ndarray`, which pickles name as a type and never call."""


class _ArrayUnpickler(pickle.Unpickler):
    """Knows the names that NumPy's arrays are pickled with, gives inert stubs for them, and refuses all others.

    NumPy's own functions would not be safe: an array of objects can be made to point anywhere.
    """

    _KNOWN = {"_reconstruct": _Array, "_frombuffer": _Array.from_buffer, "ndarray": _Marker, "dtype": _Dtype}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return _latin1
        if module.split(".")[0] == "numpy" and name in self._KNOWN:
            return self._KNOWN[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no matrix needs")


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


def _read_own(path: Path, shape: tuple[int, int], digest: str) -> Relevancy:
    try:
        with safe_open(path, framework="pt") as file:
            made_of = (file.metadata() or {}).get("labels")
            found = Relevancy(*(file.get_tensor(name) for name in ("table", "clip", "text")))
        _check_parts(found)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{path} is not a relevancy of ours ({' '.join(str(error).split())}): delete it to have it "
                         "computed.") from error
    _check_shape(path, found.shape, shape)
    if made_of != digest:
        raise ValueError(f"{path} was computed from other labels: delete it to have it computed again.")
    return found


def _check_parts(found: Relevancy) -> None:
    """Refuse tensors that are not those of a `Relevancy`."""
    table = found.table
    if table.ndim != 2 or table.dtype != torch.float32 or not ((table >= 0) & (table <= 1)).all():
        raise ValueError("its table should be a float32 matrix of 0 to 1")
    for places, count in zip((found.clip, found.text), table.shape, strict=True):
        if places.ndim != 1 or places.dtype != torch.int64 or not ((places >= 0) & (places < count)).all():
            raise ValueError("its places should be rows and columns of its table")


def _write_own(path: Path, made: Relevancy, digest: str) -> None:
    """Write the file whole or not at all; several processes may do it at once, with the same content."""
    parts = {name: getattr(made, name).contiguous() for name in ("table", "clip", "text")}
    try:
        with atomic_write(path) as draft:
            draft.write_bytes(save(parts, {"labels": digest}))
    except OSError as error:  # a folder that may only be read
        _log.warning("The relevancy is not kept in %s (%s): it will be computed again.", path, error)


def _check_shape(path: Path, found: tuple[int, ...], shape: tuple[int, int]) -> None:
    if tuple(found) != shape:
        raise ValueError(f"{path} is for {found[0]} clips and {found[1]} sentences, the annotations have {shape[0]} and"
                         f" {shape[1]}: it belongs to another split or version.")


def _plain(label: Any) -> Any:
    return int(label) if np.isscalar(label) else [int(number) for number in label]

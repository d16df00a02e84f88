"""Cache of EPIC-Kitchens-100's relevancy, computed from labels and stored once per different pair of labels.

The full matrix of the training data, 67,217 x 15,989, has some 6,600 different rows and as many different columns: a
table of 6,600 x 6,600 float32 (175 MB) and two index lists hold it all.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from egovlpv2.io.files import atomic_write
from egovlpv2.metrics.relevancy import Relevancy

SUFFIX = ".safetensors"
_log = logging.getLogger(__name__)


def cached_relevancy(path: Path, verbs: Sequence[int], nouns: Sequence[Sequence[int]], sentence_verbs: Sequence[int],
                     sentence_nouns: Sequence[Sequence[int]]) -> Relevancy:
    """`Relevancy.of_labels`, read from a `.safetensors` file, which is written if it is missing.

    Args:
        path: The file.
        verbs, nouns: Classes of the n clips.
        sentence_verbs, sentence_nouns: Classes of the m sentences.

    Raises:
        ValueError: The file is unreadable, of another format or shape, or of other labels.
    """
    if path.suffix == ".pkl":
        raise ValueError(f"{path}: a pickled relevancy is not read: leave it out, and the relevancy is computed.")
    if path.suffix != SUFFIX:
        raise ValueError(f"{path}: relevancy is kept in a {SUFFIX} file, which is written if it is missing.")
    digest = _digest(verbs, nouns, sentence_verbs, sentence_nouns)
    if path.exists():
        return _read(path, (len(verbs), len(sentence_verbs)), digest)
    relevancy = Relevancy.of_labels(verbs, nouns, sentence_verbs, sentence_nouns)
    _write(path, relevancy, digest)
    return relevancy


def _digest(verbs: Sequence[int], nouns: Sequence[Sequence[int]], sentence_verbs: Sequence[int],
            sentence_nouns: Sequence[Sequence[int]]) -> str:
    """A hash of the labels, by which a file knows what it was computed from."""
    plain = [[int(i) for i in verbs], [[int(i) for i in row] for row in nouns],
             [int(i) for i in sentence_verbs], [[int(i) for i in row] for row in sentence_nouns]]
    return hashlib.sha256(repr(plain).encode()).hexdigest()


def _read(path: Path, shape: tuple[int, int], digest: str) -> Relevancy:
    try:
        with safe_open(path, framework="pt") as file:
            stored = (file.metadata() or {}).get("labels")
            relevancy = Relevancy(*(file.get_tensor(name) for name in ("table", "clip", "text")))
        _check(relevancy)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{path} is not a cached relevancy ({' '.join(str(error).split())}): delete it to have it "
                         "computed.") from error
    if relevancy.shape != shape:
        raise ValueError(f"{path} is for {relevancy.shape[0]} clips and {relevancy.shape[1]} sentences, the annotations"
                         f" have {shape[0]} and {shape[1]}: it belongs to another split or version.")
    if stored != digest:
        raise ValueError(f"{path} was computed from other labels: delete it to have it computed again.")
    return relevancy


def _check(relevancy: Relevancy) -> None:
    """Refuse tensors that are not those of a `Relevancy`."""
    table = relevancy.table
    if table.ndim != 2 or table.dtype != torch.float32 or not ((table >= 0) & (table <= 1)).all():
        raise ValueError("its table should be a float32 matrix of 0 to 1")
    for places, count in zip((relevancy.clip, relevancy.text), table.shape, strict=True):
        if places.ndim != 1 or places.dtype != torch.int64 or not ((places >= 0) & (places < count)).all():
            raise ValueError("its places should be rows and columns of its table")


def _write(path: Path, relevancy: Relevancy, digest: str) -> None:
    """Write the file whole or not at all; several processes may do it at once, with the same content."""
    parts = {name: getattr(relevancy, name).contiguous() for name in ("table", "clip", "text")}
    try:
        with atomic_write(path) as draft:
            draft.write_bytes(save(parts, {"labels": digest}))
    except OSError as error:  # a read-only folder
        _log.warning("The relevancy is not kept in %s (%s): it will be computed again.", path, error)

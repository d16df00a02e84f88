"""Check of an index: `egovlpv2 index --check`."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from egovlpv2.features.files import SUFFIX, read_features, read_recipe
from egovlpv2.features.locks import remove_left
from egovlpv2.io.files import sha256, write_json
from egovlpv2.search.codes import update_codes
from egovlpv2.search.manifest import FILE, locked, read_manifest
from egovlpv2.search.records import FileRecord

_ASIDE = ".damaged"  # added to the name of a file that can't be used


@dataclass(frozen=True)
class IndexCheck:
    """What a check of an index has found.

    Args:
        out: The index.
        videos: With whole embeddings.
        repaired: What was wrong and is right again.
        failures: Why videos must be embedded again, by video.
    """

    out: Path
    videos: int
    repaired: list[str]
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> str:
        """Description of the videos to embed again; empty if there are none."""
        lines = "\n  ".join(f"{name}: {reason}" for name, reason in self.failures.items())
        return f"run `egovlpv2 index` again on {len(self.failures)} videos:\n  {lines}" if lines else ""

    def __str__(self) -> str:
        return "\n".join([*(f"repaired: {line}" for line in self.repaired),
                          f"{self.out}: the embeddings of {self.videos} videos are whole"])


def check_index(folder: Path) -> IndexCheck:
    """Read every file of an index against its hash, and repair what can be.

    Damaged embeddings get the ending `.damaged`; their videos must be embedded again. Embeddings that were finished but
    not recorded, as a killed process leaves them, are checked and recorded. Codes that are damaged are made anew.

    Raises:
        ValueError: The folder is no index, its manifest is damaged, or the codes can't be made.
        OSError: A file can't be read or written.
    """
    repaired: list[str] = []
    read_manifest(folder)  # what is no index gets no lock's file
    with locked(folder):
        remove_left(folder)
        manifest = read_manifest(folder)
        known = dict(manifest.embeddings)
        failures = {name: "it has no embeddings" for name in manifest.videos if not _path(folder, name).exists()}
        gone = [name for name in known if not _path(folder, name).exists()]
        for name in gone:
            known.pop(name)
            repaired.append(f"{name} is not searched any more: its embeddings are gone")
        paths = sorted(folder.glob(f"*{SUFFIX}"))
        for path in tqdm(paths, desc="checking", unit="video", leave=False, mininterval=1):
            if problem := _problem(path, known.get(path.stem)) or _other_recipe(path, paths[0]):
                os.replace(path, path.with_name(path.name + _ASIDE))
                known.pop(path.stem, None)
                failures[path.stem] = problem
            elif path.stem not in known:
                repaired.append(f"the embeddings of {path.stem} were finished, and are recorded now")
                known[path.stem] = FileRecord.of(path)
            elif not known[path.stem].unchanged(path):  # such as a copy's, which has other times
                known[path.stem] = FileRecord.of(path)
        codes = manifest.codes
        if codes is not None and not _is_whole(codes.record, folder / codes.file):
            repaired.append(f"the codes in {codes.file} were damaged or gone")
            (folder / codes.file).unlink(missing_ok=True)
        chance = manifest.chance
        if chance is not None and not _is_whole(chance.record, folder / chance.file):
            repaired.append(f"{chance.file} was damaged or gone: `egovlpv2 index VIDEOS` makes it anew")
            chance = None
        for path in [*folder.glob("codes-*.faiss*"), *folder.glob("chance-*.npy")]:
            if path.name not in {one.file for one in (codes, chance) if one is not None}:
                path.unlink(missing_ok=True)  # of a killed process
        now = replace(manifest, embeddings=known, chance=chance)
        if now != manifest:
            write_json(folder / FILE, asdict(now))
    if known:
        update_codes(folder, None)
    return IndexCheck(folder, len(known), repaired, failures)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}{SUFFIX}"


def _problem(path: Path, known: FileRecord | None) -> str:
    """Why embeddings can't be used; empty if they can."""
    if known is not None:
        return "" if _is_whole(known, path) else f"{path.name} is damaged: its content is not what was written"
    try:
        read_features(path)
    except ValueError as error:
        return str(error)
    return ""


def _other_recipe(path: Path, first: Path) -> str:
    """Why embeddings don't belong to the index; empty if they are made as its first ones are."""
    different = read_recipe(path).differences(asdict(read_recipe(first))) if path != first and first.exists() else []
    return f"{path.name} is of another index ({'; '.join(different)})" if different else ""


def _is_whole(known: FileRecord, path: Path) -> bool:
    return path.is_file() and sha256(path) == known.sha256

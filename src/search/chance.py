"""The best cosines of arbitrary texts in an index, by which a search tells that nothing fits.

A cosine by itself says little: its scale is the model's. That the best moment of a query is no better than the best
moments of texts that were not chosen for these videos says that nothing in them fits it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from egovlpv2.features.files import SUFFIX, read_features
from egovlpv2.io.files import atomic_write, write_json
from egovlpv2.search.manifest import FILE, locked, read_manifest
from egovlpv2.search.records import ChanceRecord, CoveredVideo, FileRecord, is_current

# The deviation under which 8 % of the queries that fit are turned away, on the toy world's validation rooms:
# `python -m egovlpv2.data_modules.toy_world.evaluate_absent`.
LEAST_DEVIATION = 0.28
_AT_ONCE = 36_000  # rows
_VERBS = ("picks up", "puts down", "opens", "closes", "cuts", "washes", "moves", "takes", "holds", "shakes", "turns",
          "pushes", "pulls", "lifts", "drops", "pours", "wipes", "presses", "throws", "touches")
_NOUNS = (
    "cup", "bottle", "kettle", "bowl", "can", "jar", "pan", "plate", "apple", "banana", "carrot", "bread", "lemon",
    "sponge", "ball", "book", "box", "laptop", "phone", "scissors", "knife", "hammer", "key", "bag", "spoon", "fork",
    "glass", "pot", "lid", "tray", "towel", "cloth", "bin", "drawer", "cupboard", "door", "fridge", "oven", "tap",
    "sink", "table", "chair", "shirt", "shoe", "rope", "wire", "drill", "saw", "screw", "nail", "brush", "bucket",
    "paper", "pen", "card", "hose", "wheel", "brick", "wood", "plant", "leaf", "grass", "dough", "egg", "onion",
    "potato", "tomato", "meat", "rice", "flour", "milk", "water", "oil", "salt", "tablet", "remote", "light", "switch",
    "window", "bed", "pillow", "bicycle", "car", "engine", "pipe", "tape", "ruler", "needle", "thread", "fabric",
    "iron", "mop", "broom",
)
TEXTS = tuple(f"#C C {_VERBS[i % len(_VERBS)]} the {_NOUNS[7 * i % len(_NOUNS)]}" for i in range(200))
"""Arbitrary texts, written as EgoClip's narrations are."""


class Chance:
    """The best cosines of arbitrary texts in the videos of an index.

    Args:
        folder: Of the index.
        record: What the manifest says of them.
        embeddings: Of the index, by video.

    Raises:
        ValueError: The file is missing or damaged.
    """

    def __init__(self, folder: Path, record: ChanceRecord, embeddings: Mapping[str, FileRecord]) -> None:
        path = folder / record.file
        if not record.record.matches(path):
            raise ValueError(f"{path} is missing or damaged: `egovlpv2 index --check --out {folder}` leaves it out")
        self.best = np.load(path, allow_pickle=False)  # (videos, texts)
        if self.best.ndim != 2 or len(self.best) != len(record.videos):
            raise ValueError(f"{path} is not of this index: move it and run `egovlpv2 index --check --out {folder}`")
        self.rows = {video.name: row for row, video in enumerate(record.videos) if is_current(video, embeddings)}

    def deviation(self, cosine: float, videos: Sequence[str]) -> float | None:
        """Compare a cosine with the best ones that arbitrary texts have in the same videos.

        Args:
            cosine: Of the best moment of a search.
            videos: The videos that were searched.

        Returns:
            The distance from their mean, in standard deviations; None if one of the videos is not compared yet.
        """
        if not videos or not self.rows.keys() >= set(videos):
            return None
        best = self.best[[self.rows[name] for name in videos]].astype(np.float64).max(0)  # (texts,)
        return float((cosine - best.mean()) / max(best.std(), 1e-6))


def update_chance(folder: Path, embed: Callable[[list[str]], Tensor]) -> None:
    """Bring the best cosines of arbitrary texts in line with the embeddings of an index.

    Args:
        folder: Of the index.
        embed: Embeds texts with the model of the index: -> (n, D) of length one.
    """
    with locked(folder):
        manifest = read_manifest(folder)
        before, embeddings = manifest.chance, manifest.embeddings
        known: dict[str, np.ndarray] = {}
        if before is not None and before.record.matches(folder / before.file):
            best = np.load(folder / before.file, allow_pickle=False)
            known = {video.name: row for video, row in zip(before.videos, best, strict=True)
                     if is_current(video, embeddings)}
        new = [name for name in embeddings if name not in known]
        if not new and before is not None and len(known) == len(before.videos):
            return
        texts = embed(list(TEXTS)).float().cpu() if new else torch.zeros(0)
        for name in tqdm(new, desc="comparing with chance", unit="video", leave=False, mininterval=1):
            known[name] = _best(folder / f"{name}{SUFFIX}", texts)
        covered = tuple(CoveredVideo(name, embeddings[name].sha256, 1) for name in known)
        path = folder / f"chance-{uuid4().hex[:16]}.npy"
        with atomic_write(path) as draft, draft.open("wb") as file:
            np.save(file, np.stack([*known.values()]), allow_pickle=False)
        chance = ChanceRecord(path.name, FileRecord.of(path), covered)
        write_json(folder / FILE, asdict(replace(manifest, chance=chance)))
        for old in folder.glob("chance-*.npy"):
            if old != path:
                old.unlink(missing_ok=True)


def _best(path: Path, texts: Tensor) -> np.ndarray:
    """The best cosine of each text in a video, (n,) float16."""
    pieces = read_features(path, checked=True).values.split(_AT_ONCE)
    best = torch.stack([(rows.float() @ texts.T).amax(0) for rows in pieces]).amax(0)
    return best.half().numpy()

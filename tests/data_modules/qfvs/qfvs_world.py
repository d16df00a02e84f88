"""Four short videos of QFVS, whose features tell their window, prompt and video."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import savemat

from egovlpv2.batch import SummaryBatch
from egovlpv2.data_modules.qfvs import QFVSDataModule
from egovlpv2.features.files import FeatureWriter
from egovlpv2.features.header import Recipe

CONCEPTS = ["Baby", "Car", "Cupglass", "Petsanimal", "Tree"]
LENGTHS = {"P01": [3, 2, 4], "P02": [5, 5], "P03": [1], "P04": [2, 6, 1, 3]}  # shots that look alike, of each video
ORACLES = {"P01": {"Baby_Car": [2, 9], "Cupglass_Tree": [1, 2, 3], "Car_Tree": [5]},
           "P02": {"Baby_Tree": [10, 1], "Petsanimal_Car": [4, 7]},
           "P03": {"Baby_Car": [1]},
           "P04": {"Tree_Car": [12, 3], "Baby_Tree": [6], "Cupglass_Petsanimal": [1]}}
PLAIN = ("There is a {}", "There is a {} and a {}")
OTHER = ("Look: {}", "Look: {}, {}")
WIDTH = 4
RECIPE = Recipe("fused", WIDTH, 1.0, 5, 5, 5, 32, "0" * 16)


def drawn_tags(video: str) -> np.ndarray:
    """(n, C), some shots without any."""
    return (np.random.default_rng(int(video[1:])).random((sum(LENGTHS[video]), len(CONCEPTS))) < 0.3).astype(np.float32)


def write_annotations(root: Path, oracles: str = "Oracle_Summaries") -> None:
    for video, queries in ORACLES.items():
        dense = root / "Dense_per_shot_tags" / video / f"{video}.txt"
        dense.parent.mkdir(parents=True)
        shown = [",".join(CONCEPTS[i] for i in np.flatnonzero(row)) for row in drawn_tags(video)]
        dense.write_text("".join(f"{line}\n" for line in shown))
        (root / oracles / video).mkdir(parents=True)
        for name, shots in queries.items():
            (root / oracles / video / f"{name}_oracle.txt").write_text("\n".join(map(str, shots)) + "\n")
    (root / "Dense_per_shot_tags" / "Dictionary.txt").write_text("\n".join(f"'{concept}'" for concept in CONCEPTS))


def write_mat(root: Path) -> None:
    """The tags of all videos in the form of the official `Tags.mat`."""
    structs = np.zeros((1, len(LENGTHS)), dtype=[("Bin_Vecs", object)])
    for i, video in enumerate(LENGTHS):
        structs["Bin_Vecs"][0, i] = cells = np.empty((sum(LENGTHS[video]), 1), dtype=object)
        for shot, row in enumerate(drawn_tags(video)):
            cells[shot, 0] = row[None].astype(np.uint8)
    savemat(root / "Tags.mat", {"Tags": structs})


def write_features(folder: Path, video: str, asked: list[str], shots: int | None = None, recipe: Recipe = RECIPE,
                   unfused: bool = True, cls: torch.Tensor | None = None) -> Path:
    """Features that tell their window, prompt and video, of windows that look like their segment's others."""
    folder.mkdir(exist_ok=True)
    shots, path = sum(LENGTHS[video]) if shots is None else shots, folder / f"{video}.safetensors"
    window, prompt = torch.meshgrid(torch.arange(shots), torch.arange(len(asked)), indexing="ij")
    values = torch.stack([window, prompt, torch.full_like(window, int(video[1:])), torch.ones_like(window)], -1)
    looks = torch.eye(WIDTH).repeat_interleave(torch.tensor([*LENGTHS[video], *[0] * WIDTH])[:WIDTH], dim=0)
    looks = torch.cat([looks, torch.zeros(max(shots - len(looks), 0), WIDTH)])[:shots] * 3
    with path.open("wb") as file:
        writer = FeatureWriter(file, recipe, 5.0 * shots, shots, asked if recipe.kind == "fused" else (),
                               keeps_unfused=unfused, keeps_cls=cls is not None)
        writer.append(values.float() if recipe.kind == "fused" else values[:, 0].float())
        writer.finish(looks if unfused else None, cls)
    return path


def batches(data: QFVSDataModule, split: str) -> list[SummaryBatch]:
    return list(getattr(data, f"{split}_dataloader")())


def keys(found: list[SummaryBatch]) -> list[str]:
    return [key for batch in found for key in batch["key"]]


def make_module(root: Path, **options: Any) -> QFVSDataModule:
    """A data module with features of all its prompts."""
    options = {"batch_size": 2, "eval_batch_size": 2, "num_workers": 0, "templates": [PLAIN, OTHER]} | options
    data = QFVSDataModule(str(root), str(root / "features"), **options)
    for video, asked in data.prompts().items():
        if not (root / "features" / f"{video}.safetensors").exists():
            write_features(root / "features", video, asked)
    return data

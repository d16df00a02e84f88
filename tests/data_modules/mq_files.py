"""MQ's annotation and feature files, and a data module of them."""

import json
from pathlib import Path
from typing import Any

import torch

from egovlpv2.data_modules.mq import MQDataModule
from egovlpv2.features.files import FeatureWriter
from egovlpv2.features.header import Recipe

WIDTH, RATE, STEPS = 4, 2, 48  # of the features, how many there are a second, and to how many a clip is padded


def row(label: str, start: float, end: float, primary: bool = True) -> dict[str, Any]:
    return {"label": label, "primary": primary, "start_time": start, "end_time": end,
            "video_start_time": start + 5, "video_end_time": end + 5}


def clip(uid: str, *annotations: list[dict[str, Any]], start: float = 0.0, end: float = 20.0) -> dict[str, Any]:
    told = [{"annotator_uid": f"{uid}-{i}", "labels": rows} for i, rows in enumerate(annotations)]
    return {"clip_uid": uid, "video_start_sec": start, "video_end_sec": end, "annotations": told}


def write_official(path: Path, *clips: dict[str, Any], split: str = "val") -> Path:
    path.write_text(json.dumps({"version": "1", "videos": [{"video_uid": "film", "split": split, "clips": clips}]}))
    return path


def entry(subset: str, *rows: tuple[str, float, float], segments: bool = False) -> dict[str, Any]:
    """A clip of a `clip_annotations.json`, the 10 s to 30 s of its video."""
    place = {"video_id": "film", "parent_start_sec": 10.0, "parent_end_sec": 30.0, "fps": 1.875, "subset": subset}
    if segments:
        told = [{"label": label, "label_id": CLASSES.get(label), "segment": times} for label, *times in rows]
        return place | {"duration": 20.0, "v_duration": 1800.0, "annotations": told}
    told = [{"label": label, "start_time": start, "end_time": end} for label, start, end in rows]
    return place | {"v_duration": 20.0, "annotations": told}


CLASSES = {"Background": 0, "wash": 2, "cut": 1, "\"read_(a_book)\"": 3}


def write_features(folder: Path, name: str, seconds: float, kind: str = "projected",
                   checkpoint: str = "0" * 16) -> Path:
    """Features that tell their time: feature t is t + 1."""
    folder.mkdir(exist_ok=True)
    path, count = folder / f"{name}.safetensors", int(seconds * RATE)
    values, queries = torch.arange(1.0, count + 1)[:, None].expand(-1, WIDTH), ()
    if kind in ("fused", "transformed"):
        values, queries = values[:, None], ("What?",)
    with path.open("wb") as file:
        writer = FeatureWriter(file, Recipe(kind, WIDTH, 10.0, 20, 5, 4, 32, checkpoint), seconds, count, queries)
        writer.append(values)
        writer.finish()
    return path


def make_module(folder: Path, *clips: dict[str, Any], classes: dict[str, Any] = CLASSES, **options: Any
                ) -> MQDataModule:
    """A data module of clips that are all in all splits."""
    for split in ("train", "val"):
        write_official(folder / f"moments_{split}.json", *clips, split=split)
    (folder / "moment_classes_idx.json").write_text(json.dumps(classes))
    options = {"batch_size": 2, "eval_batch_size": 2, "num_workers": 0, "num_steps": STEPS} | options
    return MQDataModule(str(folder), str(folder / "features"), **options)

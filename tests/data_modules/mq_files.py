"""Rows of MQ's annotation files."""

import json
from pathlib import Path
from typing import Any


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

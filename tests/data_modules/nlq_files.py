"""Rows of NLQ's annotation files."""

import json
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


def row(query: str | None, start: float | None = None, end: float | None = None) -> dict[str, Any]:
    times = {} if start is None else {"clip_start_sec": start, "clip_end_sec": end}
    return times | ({} if query is None else {"query": query})


def clip(uid: str, *annotations: Rows, start: float = 0.0, end: float = 20.0) -> dict[str, Any]:
    told = [{"annotation_uid": f"{uid}-{i}", "language_queries": rows} for i, rows in enumerate(annotations)]
    return {"clip_uid": uid, "video_start_sec": start, "video_end_sec": end, "annotations": told}


def write_official(path: Path, *clips: dict[str, Any], video: str = "film") -> Path:
    path.write_text(json.dumps({"version": "1", "videos": [{"video_uid": video, "split": "val", "clips": clips}]}))
    return path

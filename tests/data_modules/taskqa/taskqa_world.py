"""Four short videos of EgoTaskQA, whose pictures tell which video it is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from video.numbered_videos import write_video

from egovlpv2.data_modules.taskqa import TaskQADataModule

ANSWERS = ["<UNK1>", "yes", "no", "knife", "take the cup"]
COUNTS = {"kitchen": 5, "living": 1, "desk": 3, "garage": 2}  # questions of each video
GREYS = {name: 40 + 50 * i for i, name in enumerate(COUNTS)}  # of its pictures
KINDS = ["action", "counterfactual", "descriptive", "direct", "indirect", "object", "world"]
Row = dict[str, Any]


def row(interval: str, number: int, answer: int = 3, **changes: Any) -> Row:
    """A question with the keys of the official files."""
    return {"interval": interval, "question": f"W{number} w9", "answer": ANSWERS[answer], "answer_encode": answer,
            "type": ["descriptive"], "category": ["object"], "semantic": "world", "structural": "query",
            "reference": "direct", "reasoning_type": "descriptive$object$world$direct",
            "question_id": f"q{number}", "video_id": interval, "question_encode": [1, 2]} | changes


def official() -> list[Row]:
    """The questions of all videos, mixed; question k reads `wk w9`."""
    names = [name for turn in range(5) for name, count in COUNTS.items() if turn < count]
    return [row(name, k, 1 + k % 4) for k, name in enumerate(names)]


def write(root: Path, rows: Any, split: str = "train", place: str = "qa/direct") -> Path:
    path = root / place / f"formatted_{split}_qas_encode.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    return path


def write_world(root: Path) -> None:
    """Write the data set's folder; the three splits ask the same."""
    (root / "qa_videos").mkdir()
    for name, grey in GREYS.items():
        write_video(root / "qa_videos" / f"{name}.mp4", fps=4, pictures=[
            np.full((32, 48, 3), grey + 2 * i, np.uint8) for i in range(8)])
    for split in ("train", "val", "test"):
        write(root, official(), split)
    (root / "qa" / "direct" / "answer_set.txt").write_text("\n".join(ANSWERS) + "\n")
    (root / "qa" / "direct" / "all_reasoning_types.txt").write_text("\n".join(KINDS) + "\n")


def make_module(root: Path, tokenizer: str, **options: Any) -> TaskQADataModule:
    """A small data module."""
    sizes = {"batch_size": 1, "eval_batch_size": 3, "num_workers": 0, "max_tokens": 6, "eval_max_tokens": 6,
             "num_frames": 2, "size": 16}
    return TaskQADataModule(str(root), **(sizes | {"tokenizer": tokenizer} | options))

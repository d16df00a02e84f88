"""A tiny EgoClip: three videos, a CSV, questions and a tokenizer, all made here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

CHUNK_SECONDS = 4.0
HEADER = (
    "clip_idx video_uid video_dur narration_source narration_ind narration_time clip_start clip_end "
    "clip_text tag_verb tag_noun"
).split()


def _write_video(path: Path, seconds: float, brightness: int) -> None:
    """Encode a grey video of 48 x 32 px and 8 frames a second that gets lighter with time and from left to right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for i in range(int(seconds * 8)):
            line = brightness + i + np.arange(-24, 24) // 2
            picture = np.broadcast_to(line[:, None], (32, 48, 3)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def make_row() -> Callable[..., dict[str, Any]]:
    """A function that makes a row of a CSV."""
    return _row


@pytest.fixture
def write_csv() -> Callable[[Path, list[dict[str, Any]]], Path]:
    """A function that writes rows into a CSV."""
    return _write_csv


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """The world's rows."""
    return _rows()


@pytest.fixture
def questions() -> dict[str, Any]:
    """The world's questions."""
    return json.loads(json.dumps(_questions()))  # the rows that they share become copies


def _row(index: int, video: str, start: float, **changes: Any) -> dict[str, Any]:
    """A row with EgoClip's columns: a clip of one second."""
    values = [index, video, 8.0, "narration_pass_1", index, start + 0.5, start, start + 1.0, f"#C C does thing{index}"]
    return dict(zip(HEADER, [*values, f"[{index % 118}]", f"[{index}, {index + 1}]"], strict=True)) | changes


def _rows() -> list[dict[str, Any]]:
    """Twenty rows: `long` has two chunks and ten clips, the others five each."""
    starts = [("long", i * 0.75) for i in range(10)] + [(v, i * 0.75) for v in ("short", "other") for i in range(5)]
    return [_row(i, video, start) for i, (video, start) in enumerate(starts)]


def _write_csv(path: Path, table: list[dict[str, Any]]) -> Path:
    """Write rows as an `egoclip.csv`; the first row's keys are the header."""
    lines = ["\t".join(table[0]), *("\t".join(str(value) for value in entry.values()) for entry in table)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _questions() -> dict[str, Any]:
    """Seven questions, inter-video and intra-video in turn; question k's answer is k modulo 5."""
    table = _rows()
    return {
        str(k): {
            "answer": k % 5,
            "query": table[k],
            "choices": {str(c): table[(k + 3 * c) % 20 if k % 2 else k + c] for c in range(5)},
            "types": 1 + k % 2,
        }
        for k in range(7)
    }


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of whole words, in the format of `save_pretrained`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", "#C", "C", "does", *(f"thing{i}" for i in range(30))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """The data set's folder: `videos/`, `egoclip.csv` and `egomcq.json`."""
    for name, brightness in (("long/0", 20), ("long/1", 60), ("short/0", 100), ("other/0", 180)):
        _write_video(tmp_path / "videos" / f"{name}.mp4", CHUNK_SECONDS, brightness)
    _write_csv(tmp_path / "egoclip.csv", _rows())
    (tmp_path / "egomcq.json").write_text(json.dumps(_questions()), encoding="utf-8")
    return tmp_path


@pytest.fixture
def options(tokenizer_folder: Path) -> dict[str, Any]:
    """Arguments that make the data modules small."""
    sizes = {"batch_size": 4, "eval_batch_size": 2, "num_workers": 0, "max_tokens": 6, "eval_max_tokens": 6,
             "num_frames": 2, "size": 16}
    return sizes | {"tokenizer": str(tokenizer_folder), "chunk_seconds": CHUNK_SECONDS}


@pytest.fixture
def damage(world: Path) -> Callable[[str], None]:
    """Make a video's files unreadable."""

    def spoil(video: str) -> None:
        for path in (world / "videos" / video).glob("*.mp4"):
            path.write_bytes(b"no video at all")

    return spoil

"""`egovlpv2 summarize`: the shots that fit best, played in order, and a picture of the choice."""

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from video.numbered_videos import numbers, picture, write_video

from egovlpv2.checkpoints.weights import load_backbone
from egovlpv2.cli import main as cli
from egovlpv2.tokenization import load_tokenizer, tokenize
from egovlpv2.tools import summarize
from egovlpv2.video.collection import VideoSource
from egovlpv2.video.container import VideoError
from egovlpv2.video.decode import read_frames
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import EvalTransform

FPS, SHOT = 4, 5  # of the videos; seconds
QUERY = "w10 w20 w30"
MAX_WORDS = 9


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Twelve shots and three seconds."""
    return write(tmp_path / "film.mp4", 63 * FPS)


def write(path: Path, count: int, first: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True)
    return write_video(path, fps=FPS, gop=20, pictures=[picture(i) for i in range(first, first + count)])


def command(video: Path, weights: Path, *more: object) -> list[str]:
    return ["summarize", str(video), "--query", QUERY, "--weights", str(weights), "--device", "cpu", "--num-workers",
            "0", "--max-tokens", str(MAX_WORDS), "--batch-size", "5", *map(str, more)]


def shots(path: Path, count: int) -> Tensor:
    """The frames of shots as the model gets them: (n, 5, 3, 32, 32)."""
    return torch.stack([read_frames(path, uniform_times(SHOT * k, SHOT * (k + 1), 5), EvalTransform(32)).frames
                        for k in range(count)])


@torch.no_grad()
def matches(weights: Path, path: Path, query: str = QUERY, count: int = 12) -> np.ndarray:
    """Of each shot how probable it is that the query fits."""
    backbone = load_backbone(weights, 5)
    text = tokenize(load_tokenizer(backbone.config.text.tokenizer), [query] * count, MAX_WORDS)
    return backbone.vtm_logits(shots(path, count), text).softmax(-1)[:, 1].numpy()


def best(scores: Sequence[float], share: float) -> list[int]:
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return sorted(ranked[:max(1, round(share * len(scores)))])


def played(path: Path) -> tuple[list[int], float, tuple[int, int]]:
    """The number that each frame of a video shows, how long it lasts, and its height and width."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and not container.streams.audio
        duration = float(stream.duration * stream.time_base)
    return numbers(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)), duration, frames[0].shape[:2]


def shown(chosen: Sequence[int], fps: int = FPS) -> list[int]:
    """The numbers that whole shots show, frame by frame."""
    return [int((SHOT * shot + (i + 0.5) / fps) * FPS) for shot in chosen for i in range(SHOT * fps)]


def check_picture(path: Path) -> None:
    with Image.open(path) as drawn:
        colours = np.unique(np.asarray(drawn.convert("RGB")).reshape(-1, 3), axis=0)
        assert drawn.size[0] > 1000 and len(colours) > 50


def table(printed: str) -> tuple[str, list[list[float]]]:
    """The line that heads the table, and start, end (seconds) and score of its rows."""
    rows = re.findall(r"^ +(\d+):(\d\d\.\d) to +(\d+):(\d\d\.\d) +(\d\.\d{3})$", printed, re.MULTILINE)
    return re.search(r"^\d+ parts.*", printed, re.MULTILINE)[0], [
        [60 * float(a) + float(b), 60 * float(c) + float(d), float(score)] for a, b, c, d, score in rows]


def refused(arguments: list[str], match: str, folder: Path) -> None:
    """An error of one line, and nothing new is left in a folder."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit, match=match) as end:
        cli(arguments)
    assert str(end.value).startswith("egovlpv2 summarize: error: ") and sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(("share", "fps", "workers"), [(0.02, 4, 0), (0.3, 8, 1), (1.0, 4, 0)])
def test_the_shots_that_match_best(weights: Path, video: Path, tmp_path: Path, share: float, fps: int, workers: int,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    scores = matches(weights, video)
    assert scores.std() > 0.01 and len(set(scores)) == 12
    chosen = best(scores, share)
    assert len(chosen) == {0.02: 1, 0.3: 4, 1.0: 12}[share]
    out = tmp_path / "new" / "best.mp4"
    cli(command(video, weights, "--out", out, "--share", share, "--fps", fps, "--num-workers", workers))
    found, duration, size = played(out)
    assert found == shown(chosen, fps) and size == (48, 128)
    assert duration == pytest.approx(SHOT * len(chosen), abs=0.01)
    check_picture(out.with_suffix(".png"))
    assert sorted(os.listdir(out.parent)) == ["best.mp4", "best.png"]
    printed = capsys.readouterr().out
    head, rows = table(printed)
    assert head.startswith(f"{len(rows)} parts, {SHOT * len(chosen)} of 63 s, out of ")
    parts = [shot for start, end, _ in rows for shot in range(round(start / SHOT), round(end / SHOT))]
    assert parts == chosen and all(a[1] < b[0] for a, b in zip(rows[:-1], rows[1:], strict=True))
    for start, end, score in rows:
        assert score == pytest.approx(max(scores[round(start / SHOT):round(end / SHOT)]), abs=1e-3)
    assert "no --head: " in printed and f"written: {out} and {out.with_suffix('.png')}" in printed


def test_the_parts_are_exported(weights: Path, video: Path, tmp_path: Path) -> None:
    targets = [tmp_path / "clips", tmp_path / "parts.srt"]
    cli(command(video, weights, "--out", tmp_path / "best.mp4", "--share", 0.25, "--export", *targets, "--sound"))
    clips = list((tmp_path / "clips").iterdir())
    assert clips and len(clips) == (tmp_path / "parts.srt").read_text().count("-->")
    assert sum(played(clip)[1] for clip in clips) == pytest.approx(played(tmp_path / "best.mp4")[1], abs=0.1)


def test_another_query_finds_other_shots(weights: Path, video: Path, tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (matches(weights, video, query) for query in (QUERY, "w99"))
    assert abs(one - two).max() > 0.01
    cli(command(video, weights, "--out", tmp_path / "two.mp4", "--query", "w99", "--share", 1))
    assert table(capsys.readouterr().out)[1] == [[0, 60, pytest.approx(max(two), abs=1e-3)]]


def test_a_long_query_is_cut(weights: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"w{i}" for i in range(400)]
    tables = []
    for count in (400, MAX_WORDS - 2, MAX_WORDS - 3):
        query = " ".join(words[:count])
        cli(command(video, weights, "--out", tmp_path / "long.mp4", "--query", query, "--share", 0.5))
        printed = capsys.readouterr().out
        assert ("the query has 402 tokens and is cut to 9 (--max-tokens)" in printed) == (count == 400)
        tables.append(table(printed))
    assert tables[0] == tables[1] != tables[2]


def test_a_video_of_less_than_a_shot(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film, out = write(tmp_path / "short.mp4", 3 * FPS), tmp_path / "out.mp4"
    cli(command(film, weights, "--out", out, "--fps", FPS))
    found, duration, _ = played(out)
    assert found == list(range(12)) and duration == pytest.approx(3.0, abs=0.01)
    backbone = load_backbone(weights, 5)
    text = tokenize(load_tokenizer(backbone.config.text.tokenizer), [QUERY], MAX_WORDS)
    frames = read_frames(film, uniform_times(0, 3, 5), EvalTransform(32)).frames
    with torch.no_grad():
        score = backbone.vtm_logits(frames[None], text).softmax(-1)[0, 1].item()
    head, rows = table(capsys.readouterr().out)
    assert head == "1 parts, 3 of 3 s, out of 1 segments:" and rows == [[0, 3, pytest.approx(score, abs=1e-3)]]
    check_picture(tmp_path / "out.png")


def test_chunks_are_one_video(weights: Path, video: Path, tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / "chunks" / f"{i}.mp4", min(18, 63 - 18 * i) * FPS, 18 * i * FPS)  # shots span two files
    for name, source in (("whole", video), ("parts", tmp_path / "chunks")):
        cli(command(source, weights, "--out", tmp_path / f"{name}.mp4", "--share", 0.5, "--fps", FPS,
                    "--chunk-seconds", 18))
    chosen = best(matches(weights, video), 0.5)
    assert played(tmp_path / "parts.mp4")[0] == played(tmp_path / "whole.mp4")[0] == shown(chosen)
    out = tmp_path / "out"
    out.mkdir()
    refused(command(tmp_path / "chunks", weights, "--out", out / "a.mp4"),
            r"0.mp4 lasts 18.0 s and the chunks should last 600: set --chunk-seconds", out)


def test_a_picture_of_odd_size_and_a_large_one(weights: Path, tmp_path: Path) -> None:
    pictures = [np.full((65, 97, 3), 10 * i % 256, np.uint8) for i in range(6 * FPS)]
    film = write_video(tmp_path / "odd.avi", fps=FPS, codec="mpeg4", pictures=pictures)
    cli(command(film, weights, "--out", tmp_path / "odd.mp4"))
    assert played_size(tmp_path / "odd.mp4") in {(64, 96), (64, 98), (66, 96), (66, 98)}
    cli(command(film, weights, "--out", tmp_path / "small.mp4", "--short-side", 33))
    height, width = played_size(tmp_path / "small.mp4")
    assert height == 32 and width in (48, 50)


def played_size(path: Path) -> tuple[int, int]:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return frame.height, frame.width


def test_what_a_user_gets_wrong_is_one_line(weights: Path, video: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for value in (0, -0.1, "nan"):
        refused(command(video, weights, "--out", out / "a.mp4", "--share", value), "--share .*: give a finite", out)
    refused(command(video, weights, "--out", out / "a.mp4", "--share", 1.5), "--share 1.5: .*1 at most", out)
    refused(command(video, weights, "--out", out / "a.mp4", "--query", "  "), "--query is empty: say what", out)
    for name in ("fps", "short-side", "batch-size", "max-tokens", "chunk-seconds"):
        refused(command(video, weights, "--out", out / "a.mp4", f"--{name}", 0), f"--{name} 0.*: give a ", out)
    refused(command(tmp_path / "none.mp4", weights, "--out", out / "a.mp4"), "none.mp4: there is no such file", out)
    write(tmp_path / "two" / "x.mp4", 4), write(tmp_path / "two" / "y.mp4", 4)
    refused(command(tmp_path / "two", weights, "--out", out / "a.mp4"), "holds 2 videos, 'x' and others: give one", out)
    refused(command(video, tmp_path / "none.safetensors", "--out", out / "a.mp4"),
            "is missing: give a weights file", out)
    refused(command(video, weights, "--out", out / "a.png"), "--out .*a.png: the summary is a .mp4", out)
    (tmp_path / "file").write_text("")
    refused(command(video, weights, "--out", tmp_path / "file" / "a.mp4"), "the folder .*file can't be made", tmp_path)


def test_the_video_itself_is_not_overwritten(weights: Path, video: Path, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    before = video.read_bytes()
    monkeypatch.chdir(tmp_path)
    problem = "--out film.mp4 is the video itself, or lies among its pictures"
    refused(command(video, weights, "--out", "film.mp4"), problem, tmp_path)
    assert video.read_bytes() == before


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_video_leaves_nothing(weights: Path, tmp_path: Path, workers: int) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no video at all")
    film = write_video(tmp_path / "cut.mp4", fps=FPS, pictures=[picture(i) for i in range(200)],
                       options={"movflags": "faststart"})  # its header promises more than there is
    film.write_bytes(film.read_bytes()[:film.stat().st_size // 2])
    for name in ("no", "cut"):
        refused(command(tmp_path / f"{name}.mp4", weights, "--out", tmp_path / "a.mp4", "--num-workers", workers),
                f"{name}.mp4", tmp_path)


@pytest.mark.parametrize("step", ["png", "write_excerpt"])
def test_on_a_full_disk_there_is_neither_video_nor_picture(weights: Path, video: Path, tmp_path: Path, step: str,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(summarize, step, fail)
    refused(command(video, weights, "--out", tmp_path / "a.mp4"), "No space left on device: free some", tmp_path)


@pytest.mark.parametrize("problem", [VideoError("film.mp4 is damaged there"), KeyboardInterrupt()])
def test_a_stop_while_it_writes_leaves_nothing(weights: Path, video: Path, tmp_path: Path, problem: BaseException,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    out, read, crops = tmp_path / "out", VideoSource.read, []

    def stop(self: VideoSource, times: Any, crop: Any, chunk_seconds: float) -> Any:
        crops.append(type(crop).__name__)
        if crops.count("WholePicture") == 3:
            assert {path.suffix for path in out.iterdir()} == {".tmp"}
            raise problem
        return read(self, times, crop, chunk_seconds)

    monkeypatch.setattr(VideoSource, "read", stop)
    with pytest.raises(SystemExit, match="damaged there" if isinstance(problem, VideoError) else "^130$"):
        cli(command(video, weights, "--out", out / "a.mp4", "--share", 1))
    assert crops.count("EvalTransform") == 4 and os.listdir(out) == []  # shots, and the strip of the picture

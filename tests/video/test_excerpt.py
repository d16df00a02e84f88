"""Parts of a video written as a video: frames of its spans, in order, at any rate and size, or no file at all."""

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from video.numbered_videos import numbers, picture, write_video

from egovlpv2.video.collection import VideoSource, find_videos
from egovlpv2.video.container import VideoError
from egovlpv2.video.excerpt import write_excerpt

RATE = 10  # of the source


@pytest.fixture
def source(tmp_path: Path) -> VideoSource:
    """Twenty seconds whose frames are numbered."""
    path = write_video(tmp_path / "film.mp4", fps=RATE, pictures=[picture(i) for i in range(20 * RATE)], b_frames=2)
    return find_videos([path])[0]


def played(path: Path) -> tuple[list[int], list[float], Fraction]:
    """Read the numbers that a video shows, their times, and its rate."""
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        frames = [(frame.to_ndarray(format="rgb24"), frame.time) for frame in container.decode(video=0)]
        rate = container.streams.video[0].average_rate
    shown = torch.from_numpy(np.stack([pixels for pixels, _ in frames])).permute(0, 3, 1, 2)
    return numbers(shown), [time for _, time in frames], rate


def wanted(spans: Sequence[tuple[float, float]], fps: float) -> list[int]:
    """Read the frames in the middle of their times."""
    return [int((start + (i + 0.5) / fps) * RATE + 1e-9)
            for start, end in spans for i in range(max(round((end - start) * fps), 1))]


@pytest.mark.parametrize("fps", [1, 4, 10, 12.5, 25, 30000 / 1001])
@pytest.mark.parametrize("spans", [[(0, 20)], [(0, 5), (10, 15)], [(15, 20), (2.5, 9.3)], [(3, 3.01), (19, 20)]])
def test_spans_are_played_in_order(source: VideoSource, tmp_path: Path, fps: float,
                                   spans: list[tuple[float, float]]) -> None:
    told: list[float] = []
    write_excerpt(source, 600.0, spans, tmp_path / "out.mp4", fps, on_progress=told.append)
    found, times, rate = played(tmp_path / "out.mp4")
    assert found == wanted(spans, fps)
    assert float(rate) == pytest.approx(fps, rel=1e-6) or len(found) == 1
    np.testing.assert_allclose(times, np.arange(len(found)) / fps, atol=1e-3)
    assert sum(told) == pytest.approx(len(found) / fps) and max(told) <= 3.01
    assert set(os.listdir(tmp_path)) == {"film.mp4", "out.mp4"}


@pytest.mark.parametrize(("height", "width", "short_side", "sizes"), [
    (65, 97, 480, {(64, 96), (64, 98), (66, 96), (66, 98)}), (64, 96, 480, {(64, 96)}), (64, 96, 32, {(32, 48)}),
    (65, 97, 33, {(32, 48), (32, 50), (34, 48), (34, 50)}), (97, 65, 64, {(96, 64)}),
    (17, 11, 480, {(16, 12), (16, 10), (18, 12)}),
    (48, 300, 1, {(2, 6)}),
])  # fmt: skip
def test_any_size(tmp_path: Path, height: int, width: int, short_side: int, sizes: set[tuple[int, int]]) -> None:
    pictures = [np.full((height, width, 3), (40 * i, 0, 250 - 40 * i), np.uint8) for i in range(6)]
    film = write_video(tmp_path / "film.avi", fps=1, codec="ffv1", pictures=pictures)
    write_excerpt(find_videos([film])[0], 600.0, [(4, 6), (0, 1)], tmp_path / "out.mp4", 1.0, short_side)
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert {frame.shape[:2] for frame in frames} <= sizes
    assert [round(frame[..., 0].mean() / 40) for frame in frames] == [4, 5, 0]


def test_chunks(tmp_path: Path) -> None:
    (tmp_path / "film").mkdir()
    for i in range(3):
        write_video(tmp_path / "film" / f"{i}.mp4", fps=RATE, pictures=[picture(40 * i + j) for j in range(40)])
    (film,) = find_videos([tmp_path / "film"])
    write_excerpt(film, 4.0, [(2, 9), (0, 1), (11, 12)], tmp_path / "out.mp4", RATE)
    assert played(tmp_path / "out.mp4")[0] == [*range(20, 90), *range(10), *range(110, 120)]


@pytest.mark.parametrize("problem", [VideoError("it is damaged there"), KeyboardInterrupt(), RuntimeError("ours")])
def test_it_is_whole_or_not_there(source: VideoSource, tmp_path: Path, problem: BaseException,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "new" / "out.mp4"
    read, parts = VideoSource.read, []

    def stop(self: VideoSource, *args: Any) -> Any:
        parts.append(args)
        if len(parts) == 3:
            assert len(os.listdir(out.parent)) == 1 and not out.exists()
            raise problem
        return read(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(VideoSource, "read", stop)
        with pytest.raises(type(problem)):
            write_excerpt(source, 600.0, [(0, 20)], out, 30.0)
    assert len(parts) == 3 and os.listdir(out.parent) == []
    write_excerpt(source, 600.0, [(0, 5)], out, 2.0)
    before = out.read_bytes()
    with pytest.raises(VideoError, match="film.mp4"):  # what was there stays
        write_excerpt(source, 600.0, [(0, 5), (30, 35)], out, 2.0)
    assert out.read_bytes() == before and os.listdir(out.parent) == ["out.mp4"]


def test_memory_stays_flat(source: VideoSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, sizes = VideoSource.read, []

    def watch(self: VideoSource, times: Any, *args: Any) -> Any:
        sizes.append(len(times))
        return read(self, times, *args)

    monkeypatch.setattr(VideoSource, "read", watch)
    write_excerpt(source, 600.0, [(0, 20)], tmp_path / "out.mp4", 10.0)
    assert sizes == [20] * 10

"""What reading a training clip costs beyond decoding it: `egovlpv2 bench reader`.

The bar: a 4-frame training clip at 224 px from a 256-px H.264 file costs at most 1.3 times the bare seek and decode of
the frames that it must decode. The bare loop keeps one file open, knows beforehand where the wanted frames and the
keyframes are, seeks to each keyframe that leads to wanted frames and decodes up to the last of them in a single
thread; it converts nothing.
Both loops read the same clips in turn, so that the machine's other work falls on both.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import av
import numpy as np
from egovlpv2.video.decode import read_frames
from egovlpv2.video.sampling import jittered_times
from egovlpv2.video.transforms import TrainTransform
from numpy.typing import NDArray

_FPS, _HEIGHT, _WIDTH, _SECONDS = 30, 256, 340, 60
_CLIP_SECONDS, _NUM_FRAMES = 2.0, 4


def write_video(path: Path, keyframe_interval: int) -> None:
    """Writes a shifting noise pattern as H.264: 256 px high, 30 frames a second, one minute.

    Args:
        path: Where to write; the ending names the container.
        keyframe_interval: Frames from one keyframe to the next.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    scene = np.kron(coarse, np.ones((16, 16, 1), np.uint8))  # (768, 1024, 3), blocks of 16 px
    scene = (scene * 0.8 + rng.integers(0, 50, scene.shape)).astype(np.uint8)
    options = {"g": str(keyframe_interval), "keyint_min": str(keyframe_interval), "sc_threshold": "0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", _FPS, options={**options, "bf": "0", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        for i in range(_FPS * _SECONDS):
            top, left = int(250 + 240 * np.sin(i / 47)), int(340 + 330 * np.sin(i / 61))
            picture = np.ascontiguousarray(scene[top : top + _HEIGHT, left : left + _WIDTH])  # (H, W, 3)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))


def bare_loop(path: Path, keyframe_interval: int) -> Callable[[NDArray[np.float64]], None]:
    """A function that seeks to and decodes the frames shown at some times, and converts none."""
    container = av.open(str(path))
    stream = container.streams.video[0]
    stream.thread_type, stream.codec_context.thread_count = "NONE", 1
    period = round(1 / _FPS / stream.time_base)  # ticks from frame to frame

    def decode(times: NDArray[np.float64]) -> None:
        wanted = [int(time * _FPS) for time in times]
        for _, frames in groupby(wanted, lambda number: number // keyframe_interval):
            first, *others = frames
            container.seek(first * period, stream=stream)
            last = (others or [first])[-1] * period
            assert any(frame.pts >= last for frame in container.decode(stream))

    return decode


def clip_costs(path: Path, keyframe_interval: int, num_clips: int) -> tuple[float, float]:
    """Median seconds of the reader and of the bare loop over the same random clips, read in turn."""
    rng, transform, bare = np.random.default_rng(1), TrainTransform(224), bare_loop(path, keyframe_interval)
    costs = np.empty((num_clips, 2))
    for i in range(num_clips):
        start = rng.uniform(0, _SECONDS - _CLIP_SECONDS)
        times = jittered_times(start, start + _CLIP_SECONDS, _NUM_FRAMES, rng)
        box = transform(_HEIGHT, _WIDTH, rng)
        begin = time.perf_counter()
        read_frames(path, times, box)
        middle = time.perf_counter()
        bare(times)
        costs[i] = middle - begin, time.perf_counter() - middle
    reader, floor = np.median(costs, axis=0)
    return float(reader), float(floor)


def bench_reader(num_clips: int = 200) -> dict[str, float]:
    """Measures the reader against the bare loop, at a keyframe a second and at x264's usual 250 frames.

    Args:
        num_clips: Random two-second clips read from each of the files.

    Returns:
        For each keyframe interval the median milliseconds of both, and `ratio`, the largest of the ratios.
    """
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for interval in (30, 250):
            path = Path(folder) / f"every_{interval}.mp4"
            write_video(path, interval)
            reader, bare = clip_costs(path, interval, num_clips)
            figures |= {f"reader_ms_{interval}": reader * 1e3, f"bare_ms_{interval}": bare * 1e3}
            figures[f"ratio_{interval}"] = reader / bare
    return {**figures, "ratio": max(figures["ratio_30"], figures["ratio_250"])}


def main(argv: list[str] | None = None) -> None:
    """Prints one line per keyframe interval."""
    argparse.ArgumentParser("egovlpv2 bench reader", description=__doc__).parse_args(argv)
    figures = bench_reader()
    for i in (30, 250):
        reader, bare, ratio = (figures[f"{name}_{i}"] for name in ("reader_ms", "bare_ms", "ratio"))
        print(f"keyframe every {i:3d} frames: reader {reader:6.2f} ms, bare {bare:6.2f} ms a clip, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()

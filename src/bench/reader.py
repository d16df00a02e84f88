"""Cost of reading a training clip beyond decoding it: `egovlpv2 bench reader`.

The bar: a 4-frame training clip at 224 px from a 256-px H.264 file costs at most 1.3 times the bare seek and decode of
the frames that it must decode. The bare loop keeps one file open, knows beforehand where the wanted frames and the
keyframes are, seeks to each keyframe that leads to wanted frames and decodes up to the last of them in a single
thread; it converts nothing.
Both loops read the same clips in turn, so that the machine's other work falls on both.

What `egovlpv2 prepare` saves: the same 4-frame clips of 1 to 4 s are read in turn from originals, full size and a
keyframe every 250 frames, and from what was prepared from them; once more with the prepared file opened for each clip,
as among the thousands of files of a large data set, where no clip finds its own open.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray
from tqdm import tqdm

from egovlpv2.bench.measure import BenchOptions, Figure
from egovlpv2.video.decode import read_chunks, read_frames, video_info
from egovlpv2.video.encode import Settings
from egovlpv2.video.prepare import find_raw_videos
from egovlpv2.video.prepared import prepare_video
from egovlpv2.video.reader import drop_file, open_file
from egovlpv2.video.sampling import jittered_times
from egovlpv2.video.transforms import TrainTransform

_FPS, _HEIGHT, _WIDTH, _SECONDS = 30, 256, 340, 60
_CLIP_SECONDS, _NUM_FRAMES = 2.0, 4

# Figures that `egovlpv2 cost` looks for in the JSON.
OPENED = "clips from prepared files, each opened anew, one core"
READ = "read from disk for such a clip"
STORED = "prepared video of an hour"


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
    assert stream.time_base is not None
    period = round(1 / _FPS / stream.time_base)  # ticks from frame to frame

    def decode(times: NDArray[np.float64]) -> None:
        wanted = [int(time * _FPS) for time in times]
        for _, frames in groupby(wanted, lambda number: number // keyframe_interval):
            first, *others = frames
            container.seek(first * period, stream=stream)
            last = (others or [first])[-1] * period
            assert any(frame.pts is not None and frame.pts >= last for frame in container.decode(stream))

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


def bench_reader(num_clips: int = 200) -> list[Figure]:
    """Measures the reader against the bare loop, at a keyframe a second and at x264's usual 250 frames.

    Args:
        num_clips: Random two-second clips read from each of the files.
    """
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for interval in tqdm((30, 250), "keyframe intervals", leave=False):
            path = Path(folder) / f"every_{interval}.mp4"
            write_video(path, interval)
            reader, bare = clip_costs(path, interval, num_clips)
            figures.append(Figure("reader", f"a clip of 4 frames, keyframe every {interval} frames", reader * 1e3, "ms",
                                  f"decode: bare seek and decode {bare * 1e3:.2f} ms", reader / bare))
    return figures


def _encode(path: Path, pictures: Iterable[av.VideoFrame], fps: Fraction) -> None:
    """Writes pictures at their own size with x264's defaults, but for keyframes every 250 frames exactly."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", fps, options={"g": "250", "keyint_min": "250", "sc_threshold": "0"})
        stream.pix_fmt = "yuv420p"
        for i, picture in enumerate(pictures):
            if i == 0:
                stream.height, stream.width = picture.height, picture.width
            picture.pts, picture.time_base, picture.pict_type = i, 1 / fps, PictureType.NONE
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _panned(seed: int, seconds: int) -> Iterator[av.VideoFrame]:
    """Pictures of 1280x720 px, 30 a second, cut from a larger texture that moves."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (60, 100, 3), dtype=np.uint8)
    texture = av.VideoFrame.from_ndarray(coarse).reformat(2000, 1200, interpolation="BICUBIC").to_ndarray()
    texture = (texture * 0.9 + rng.integers(0, 25, texture.shape)).astype(np.uint8)  # (1200, 2000, 3)
    for i in range(_FPS * seconds):
        top, left = int(240 + 230 * np.sin(i / 47 + seed)), int(360 + 350 * np.sin(i / 61))
        yield av.VideoFrame.from_ndarray(np.ascontiguousarray(texture[top : top + 720, left : left + 1280]))


def write_originals(videos: Path | None, folder: Path) -> list[Path]:
    """Videos as cameras and archives give them: a folder's, or two of 20 s that are drawn."""
    paths = []
    for i, source in enumerate(find_raw_videos([videos]).videos if videos else (None, None)):
        paths.append(folder / f"original_{i}.mp4")
        if source is None:
            _encode(paths[-1], _panned(i, seconds=20), Fraction(_FPS))
            continue
        with av.open(str(source)) as container:
            _encode(paths[-1], container.decode(video=0), container.streams.video[0].average_rate or Fraction(_FPS))
    return paths


def _opened_anew(folder: Path, times: NDArray[np.float64], crop: partial) -> None:
    """Reads from a prepared video whose file is not open yet: it was just used, so that closing it is quick."""
    drop_file(open_file(folder / f"{int(times[0] // Settings().chunk_seconds)}.mp4"))
    read_chunks(folder, times, crop)


def _bytes_read() -> int:
    """Bytes that this process has read from files so far; 0 where the system doesn't count them."""
    counters = Path("/proc/self/io")
    return int(counters.read_text().split()[1]) if os.access(counters, os.R_OK) else 0  # rchar


class _Prepared(NamedTuple):
    """Means over the same random clips."""

    original: float  # seconds
    prepared: float  # seconds
    opened: float  # seconds, the prepared file opened anew
    opened_bytes: float  # read from that file


def prepared_costs(originals: Sequence[Path], folders: Sequence[Path], num_clips: int) -> _Prepared:
    """Time the reading of random clips of 1 to 4 s, from originals and from prepared files, in turn."""
    rng, transform = np.random.default_rng(2), TrainTransform(224)
    lengths = [video_info(path).duration for path in originals]
    costs = np.empty((num_clips, 4))
    for i in tqdm(range(num_clips), "clips", leave=False):
        k = rng.choice(len(originals), p=np.array(lengths) / sum(lengths))
        seconds = min(rng.uniform(1, 4), lengths[k])
        start, seed = rng.uniform(0, lengths[k] - seconds), int(rng.integers(2**31))
        times = jittered_times(start, start + seconds, _NUM_FRAMES, rng)
        readers: list[tuple[Callable[..., object], Path]] = [
            (read_frames, originals[k]), (read_chunks, folders[k]), (_opened_anew, folders[k])]
        for j, (read, path) in enumerate(readers):
            crop = partial(transform, rng=np.random.default_rng(seed))
            before, begin = _bytes_read(), time.perf_counter()
            read(path, times, crop)
            costs[i, j] = time.perf_counter() - begin
            costs[i, 3] = _bytes_read() - before
    return _Prepared(*costs.mean(0).tolist())


def bench_prepared(videos: Path | None = None, num_clips: int = 200) -> list[Figure]:
    """Measures what preparing saves.

    Args:
        videos: A folder of videos; None draws two.
        num_clips: Random clips read from both.
    """
    with tempfile.TemporaryDirectory() as name:
        originals = write_originals(videos, Path(name))
        folders = [path.with_suffix("") for path in originals]
        done = [prepare_video(path, folder, Settings())
                for path, folder in tqdm(list(zip(originals, folders, strict=True)), "preparing", leave=False)]
        hours = sum(video_info(path).duration for path in originals) / 3600
        before, after = sum(path.stat().st_size for path in originals), sum(video["bytes"] for video in done)
        prepared_costs(originals, folders, len(originals))  # opens files and warms caches
        costs = prepared_costs(originals, folders, num_clips)
    slow = 1 / costs.original
    return [
        Figure("reader", "clips from prepared files, one core", 1 / costs.prepared, "clips/s",
               f"decode: originals {slow:.1f} clips/s", costs.original / costs.prepared),
        Figure("reader", OPENED, 1 / costs.opened, "clips/s", f"decode: originals {slow:.1f} clips/s",
               costs.original / costs.opened),
        *([Figure("reader", READ, costs.opened_bytes / 1e3, "kB")] if costs.opened_bytes else []),
        Figure("reader", STORED, after / 1e6 / hours, "MB", f"originals {before / 1e6 / hours:,.0f} MB",
               after / before),
    ]


def measure(options: BenchOptions) -> list[Figure]:
    """Time the reading of clips."""
    if options.videos is not None:
        find_raw_videos([options.videos])  # a wrong folder is an error before a minute has passed
    return bench_reader() + bench_prepared(options.videos)

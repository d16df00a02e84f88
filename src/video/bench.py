"""What reading a training clip costs beyond decoding it: `egovlpv2 bench reader`.

The bar: a 4-frame training clip at 224 px from a 256-px H.264 file costs at most 1.3 times the bare seek and decode of
the frames that it must decode. The bare loop keeps one file open, knows beforehand where the wanted frames and the
keyframes are, seeks to each keyframe that leads to wanted frames and decodes up to the last of them in a single
thread; it converts nothing.
Both loops read the same clips in turn, so that the machine's other work falls on both.

A second table tells what `egovlpv2 prepare` saves: the same 4-frame clips of 1 to 4 s are read in turn from originals,
full size and a keyframe every 250 frames, and from what was prepared from them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import groupby
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType
from egovlpv2.video.decode import read_chunks, read_frames, video_info
from egovlpv2.video.prepare import Settings, find_videos, prepare_video
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
    for i, source in enumerate(find_videos([videos]) if videos else (None, None)):
        paths.append(folder / f"original_{i}.mp4")
        if source is None:
            _encode(paths[-1], _panned(i, seconds=20), Fraction(_FPS))
            continue
        with av.open(str(source)) as container:
            _encode(paths[-1], container.decode(video=0), container.streams.video[0].average_rate or Fraction(_FPS))
    return paths


def prepared_costs(originals: Sequence[Path], folders: Sequence[Path], num_clips: int) -> tuple[float, float]:
    """Mean seconds of reading the same random clips of 1 to 4 s from originals and from what is prepared, in turn."""
    rng, transform = np.random.default_rng(2), TrainTransform(224)
    lengths = [video_info(path).duration for path in originals]
    costs = np.empty((num_clips, 2))
    for i in range(num_clips):
        k = rng.choice(len(originals), p=np.array(lengths) / sum(lengths))
        seconds = min(rng.uniform(1, 4), lengths[k])
        start, seed = rng.uniform(0, lengths[k] - seconds), int(rng.integers(2**31))
        times = jittered_times(start, start + seconds, _NUM_FRAMES, rng)
        for j, read in enumerate((partial(read_frames, originals[k]), partial(read_chunks, folders[k]))):
            crop = partial(transform, rng=np.random.default_rng(seed))
            begin = time.perf_counter()
            read(times, crop)
            costs[i, j] = time.perf_counter() - begin
    before, after = costs.mean(0)
    return float(before), float(after)


def bench_prepared(videos: Path | None = None, num_clips: int = 200) -> dict[str, float]:
    """Measures what preparing saves.

    Args:
        videos: A folder of videos; None draws two.
        num_clips: Random clips read from both.

    Returns:
        Clips a second and megabytes of both, and `ratio` of the clips a second.
    """
    with tempfile.TemporaryDirectory() as name:
        originals = write_originals(videos, Path(name))
        folders = [path.with_suffix("") for path in originals]
        after = sum(prepare_video(path, folder, Settings())["bytes"]
                    for path, folder in zip(originals, folders, strict=True))
        before = sum(path.stat().st_size for path in originals)
        prepared_costs(originals, folders, len(originals))  # opens files and warms caches
        slow, quick = prepared_costs(originals, folders, num_clips)
    return {"original_clips": 1 / slow, "prepared_clips": 1 / quick, "ratio": slow / quick,
            "original_mb": before / 1e6, "prepared_mb": after / 1e6}


def main(argv: list[str] | None = None) -> None:
    """Prints one line per keyframe interval, and one on preparing."""
    parser = argparse.ArgumentParser("egovlpv2 bench reader", description=__doc__)
    parser.add_argument("--videos", type=Path, help="a folder of videos to prepare; two are drawn if not given")
    args = parser.parse_args(argv)
    figures = bench_reader()
    for i in (30, 250):
        reader, bare, ratio = (figures[f"{name}_{i}"] for name in ("reader_ms", "bare_ms", "ratio"))
        print(f"keyframe every {i:3d} frames: reader {reader:6.2f} ms, bare {bare:6.2f} ms a clip, ratio {ratio:.3f}")
    found = bench_prepared(args.videos)
    print(f"original {found['original_clips']:.1f} clips/s, {found['original_mb']:.2f} MB; prepared "
          f"{found['prepared_clips']:.1f} clips/s, {found['prepared_mb']:.2f} MB; ratio {found['ratio']:.2f}")


if __name__ == "__main__":
    main()

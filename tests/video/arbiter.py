"""A sequential decode of a whole file, as the reference for the reader."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from egovlpv2.video.container import VideoError, as_fraction, open_video
from egovlpv2.video.reader import VideoFile


def decode(path: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """Decode times (N,) in seconds and pictures of all frames in the order of presentation.

    AVI stores no times of showing, and MPEG-PS not those of all frames: their frames follow at the stream's rate.
    """
    container, stream = open_video(path)
    frames = list(container.decode(stream))
    rate, tick = as_fraction(stream.average_rate) or 30, Fraction(stream.time_base)
    stamps = [frame.pts for frame in frames]
    counted = "avi" in container.format.name or None in stamps or sorted(set(stamps)) != stamps
    times = [i / rate if counted else (stamp - stamps[0]) * tick for i, stamp in enumerate(stamps)]
    pictures = [frame.to_ndarray() for frame in frames]
    container.close()
    return np.array(times, float), pictures


def mistakes(path: Path, rng: np.random.Generator, many: int = 40) -> list[str]:
    """Read times forward, backward and at random; list differences from the sequential decode."""
    times, pictures = decode(path)
    ends = [*times[1:], times[-1] + 1e-2]
    video, found = VideoFile(path), []
    count = len(times)
    for order in (range(count), range(count - 1, -1, -3), rng.permutation(count)[:many]):
        for k in order:
            for time in (times[k], rng.uniform(times[k], ends[k] - 6e-4), ends[k] - 6e-4):
                try:
                    frame = video.frame_at(float(time))
                except VideoError as error:
                    found.append(f"{time:.3f} s: {error}")
                    continue
                if abs(video.seconds(frame) - times[k]) > 1e-6 or not np.array_equal(frame.to_ndarray(), pictures[k]):
                    found.append(f"{time:.3f} s: not frame {k} but that of {video.seconds(frame):.3f} s")
    video.close()
    return found


def quiet() -> None:
    """Silence FFmpeg's own log."""
    av.logging.set_level(av.logging.PANIC)

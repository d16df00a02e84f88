"""The sound of a part of a video, as even pieces of audio."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from egovlpv2.video.collection import VideoSource
from egovlpv2.video.container import open_container

RATE = 48_000  # samples a second of what is read
_AHEAD = 1.0  # seconds before a part from where its sound is decoded, as some codecs need a run-up


def has_sound(source: VideoSource) -> bool:
    """Tell if a video has a sound that can be read."""
    if source.image_fps is not None:
        return False
    with open_container(source.files[0]) as container:
        return bool(container.streams.audio)


def read_sound(source: VideoSource, chunk_seconds: float, start: float, end: float) -> NDArray[np.float32]:
    """Read the sound from `start` to `end`, seconds of the video: (2, n) at `RATE`, silence where there is none."""
    heard = np.zeros((2, max(round((end - start) * RATE), 1)), np.float32)
    for number, file in enumerate(source.files):
        begins = number * chunk_seconds if source.chunked else 0.0  # of the file, seconds of the video
        if begins < end and (not source.chunked or begins + chunk_seconds > start):
            for first, samples in _decode(file, start - begins, end - begins):
                place = round((first + begins - start) * RATE)
                skipped = max(-place, 0)
                piece = samples[:, skipped : max(heard.shape[1] - place, 0)]
                heard[:, place + skipped : place + skipped + piece.shape[1]] = piece
    return heard


def _decode(file: Path, start: float, end: float) -> Iterator[tuple[float, NDArray[np.float32]]]:
    """Yield pieces (2, n) of a file's sound and their times, seconds from its first frame, which cover a part."""
    with open_container(file) as container:
        if not container.streams.audio:
            return
        stream, video = container.streams.audio[0], container.streams.video[0]
        origin = float((video.start_time or 0) * (video.time_base or 0))
        container.seek(max(round((start + origin - _AHEAD) * av.time_base), 0))
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=RATE)
        for frame in container.decode(stream):
            if frame.time is None or frame.time - origin + frame.samples / frame.sample_rate < start:
                continue
            if frame.time - origin >= end:
                break
            first = frame.time - origin
            for piece in resampler.resample(frame):
                samples = np.asarray(piece.to_ndarray(), np.float32)
                yield first, samples
                first += samples.shape[1] / RATE


def as_frames(samples: NDArray[np.float32]) -> Iterator[AudioFrame]:
    """Cut samples (2, n) into frames for an encoder."""
    for first in range(0, samples.shape[1], 1024):
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, first : first + 1024]), "fltp", "stereo")
        frame.sample_rate, frame.pts = RATE, first
        yield frame

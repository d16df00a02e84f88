"""Encoding of a video as chunks that are fast to read: small upright pictures, frequent keyframes."""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Any

import av
from av.container import OutputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from egovlpv2.io.files import atomic_write
from egovlpv2.video.container import as_fraction
from egovlpv2.video.convert import FrameFilter, Step
from egovlpv2.video.orientation import swaps_sides
from egovlpv2.video.sequential import ROUNDING, TICK, FullDecoder, TimedFrame, cut

_FINEST_TICK = Fraction(1, 1_000_000)  # seconds
# With AVX-512, x264's `mbtree` makes one file in a hundred differ from run to run though the pictures are the same;
# with `asm=avx2`, or without `mbtree`, none of 300 did.
REPRODUCIBLE = {"mbtree": "0"}
# No B-frames (bf); keyframes only where they are forced, and no frame refers across them.
_ENCODER = {"preset": "veryfast", "tune": "fastdecode", "bf": "0", "g": "99999", "sc_threshold": "0", "forced-idr": "1",
            **REPRODUCIBLE}


@dataclass(frozen=True)
class Settings:
    """Settings of prepared files.

    Args:
        chunk_seconds: Length of a file; training needs the same value.
        short_side: Short side of the pictures, pixels, even; smaller pictures are not enlarged.
        keyframe_seconds: Time between keyframes; shorter makes random access faster and files larger.
        fps: Maximum frame rate, by dropping frames; 0 keeps all.
        crf: Constant rate factor of x264, from 0 (lossless) to 51.
    """

    chunk_seconds: float = 600.0
    short_side: int = 256
    keyframe_seconds: float = 0.5
    fps: float = 0.0
    crf: int = 23

    def __post_init__(self) -> None:
        if not (1 <= self.chunk_seconds < math.inf and 0 < self.keyframe_seconds < math.inf and 0 <= self.fps < math.inf
                ):
            raise ValueError("give chunk_seconds of 1 or more, keyframe_seconds above 0 and fps of 0 or more, and no "
                             "infinite numbers")
        if self.short_side < 16 or self.short_side % 2 or not 0 <= self.crf <= 51:
            raise ValueError("give an even short_side of 16 px or more and a crf from 0 to 51")


def open_mp4(path: Path, options: dict[str, str] | None = None) -> OutputContainer:
    """Open an mp4 file for writing, with its index at the front.

    Args:
        path: An absolute path.
        options: More options of FFmpeg's muxer.
    """
    assert path.is_absolute(), "FFmpeg could interpret a relative name as a protocol"
    return av.open(str(path), "w", format="mp4", options={"movflags": "+faststart", **(options or {})})


class Scaler:
    """A scaler that turns pictures upright and makes them small.

    All come out at the scaled size of the video's first picture, as the reader shows them.

    Args:
        source: The video, for the size of its first picture.
        short_side: Maximum short side, in pixels.
    """

    def __init__(self, source: FullDecoder, short_side: int) -> None:
        scale = min(Fraction(short_side, min(source.height, source.width)), Fraction(1))
        # Even, as 4:2:0 colours need it; rounded down, so that nothing is enlarged.
        self.height, self.width = (max(int(side * scale / 2 + (scale < 1) * Fraction(1, 2)) * 2, 2)
                                   for side in (source.height, source.width))
        self._filter = FrameFilter(self._steps)

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """Scale a decoded frame; the caller sets the time of the result."""
        return self._filter(frame)

    def _steps(self, height: int, width: int) -> list[Step]:
        return [("scale", f"{self.width}:{self.height}:flags=bicubic+accurate_rnd"), ("format", "yuv420p")]


def write_chunk(path: Path, frames: Iterator[TimedFrame], source: FullDecoder, settings: Settings) -> None:
    """Encode one chunk; the file appears once it is complete."""
    scale = Scaler(source, settings.short_side)
    tick = _tick(source, settings)
    key_at = last = Fraction(0)
    stream: VideoStream | None = None
    # With its own unit of time a file rounds times as the original does.
    options = {"video_track_timescale": str(tick.denominator)}
    with atomic_write(Path(os.path.abspath(path))) as draft, open_mp4(draft, options) as out:
        for item in frames:
            picture = scale(item.frame)
            picture.pts, picture.time_base, last = round(item.start / tick), tick, item.end - item.start
            # Reset `pict_type`: x264 would obey the decoded frame's type.
            picture.pict_type = PictureType.I if item.start + ROUNDING >= key_at else PictureType.NONE
            if picture.pict_type == PictureType.I:
                key_at = item.start + Fraction(settings.keyframe_seconds)
            stream = stream or _add_stream(out, picture, source, settings, tick)
            out.mux(stream.encode(picture))
        assert stream is not None, "a chunk has a frame"
        *packets, final = stream.encode(None)
        final.duration = max(round(last / tick), 1)  # without it the file would end where its last frame begins
        out.mux([*packets, final])


def _tick(source: FullDecoder, settings: Settings) -> Fraction:
    """Choose the unit of time, in seconds: the video's own if chunks begin on it and mp4 can hold it."""
    fits = (_seconds(settings.chunk_seconds) / source.tick).denominator == 1
    return source.tick if fits and source.tick >= _FINEST_TICK else TICK


def _seconds(number: float) -> Fraction:
    return Fraction(str(number))  # as it is written: 0.7 is 7/10


def _add_stream(out: OutputContainer, picture: VideoFrame, source: FullDecoder, settings: Settings, tick: Fraction
                ) -> VideoStream:
    """Add an encoder for pictures like this one; a single thread, as the number of threads changes the files."""
    stream = out.add_stream("libx264", source.rate, options={**_ENCODER, "crf": str(settings.crf)})
    stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
    codec = stream.codec_context
    codec.time_base, codec.thread_count = tick, 1
    for name in ("colorspace", "color_range", "color_primaries", "color_trc"):
        setattr(codec, name, int(getattr(picture, name)))
    if shape := as_fraction(source.stream.sample_aspect_ratio):  # of a pixel
        codec.sample_aspect_ratio = 1 / shape if swaps_sides(source.turn) else shape
    return stream


def encode_video(path: Path, folder: Path, settings: Settings, threads: int = 1,
                 on_progress: Callable[[float], None] = lambda seconds: None) -> dict[str, Any]:
    """Write the chunks of a video that are not there yet.

    Args:
        path: The video.
        folder: The folder of its chunks.
        settings: Of the chunks.
        threads: Number of threads of the decoder.
        on_progress: Called often with the seconds done.

    Returns:
        `seconds` of video, number of `chunks` and of `frames` in them.

    Raises:
        VideoError: The video can't be decoded to its end without damage.
    """
    source, count = FullDecoder(path, threads), 0

    def counted() -> Iterator[TimedFrame]:
        nonlocal count
        for item in cut(source.frames(), _seconds(settings.chunk_seconds), settings.fps):
            count += 1
            on_progress(float(source.seconds))
            yield item

    chunk = -1
    for chunk, frames in groupby(counted(), lambda item: item.chunk):
        target = folder / f"{chunk}.mp4"
        if not target.exists():  # otherwise groupby skips its frames, which are decoded but not encoded
            write_chunk(target, frames, source, settings)
    return {"seconds": round(float(source.seconds), 3), "chunks": chunk + 1, "frames": count}

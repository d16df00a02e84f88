"""Writing of parts of a video as a video of their own."""

import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from torch import Tensor

from egovlpv2.io.files import atomic_write
from egovlpv2.video.collection import VideoSource
from egovlpv2.video.encode import REPRODUCIBLE, open_mp4
from egovlpv2.video.sound import RATE, as_frames, has_sound, read_sound
from egovlpv2.video.transforms import WholePicture

_AT_ONCE = 2.0  # seconds that are decoded at a time: memory stays flat


def write_excerpt(source: VideoSource, chunk_seconds: float, spans: Sequence[tuple[float, float]], path: Path,
                  fps: float = 25.0, short_side: int = 480, on_progress: Callable[[float], None] = lambda seconds: None,
                  sound: bool = False) -> None:
    """Write spans of a video one after the other, as H.264 in an mp4; the file is whole or absent.

    Args:
        source: The video.
        chunk_seconds: Length of its chunks, if it is a folder of them.
        spans: Start and end of each part, seconds.
        path: The output file.
        fps: Frame rate of the output, in frames a second.
        short_side: Maximum short side of the pictures, in pixels.
        on_progress: Called often with the seconds written since the last call.
        sound: Write the video's sound too, if it has one, as AAC. It is in memory as a whole, 0.4 MB a second.

    Raises:
        VideoError: The video can't be read there.
    """
    rate = Fraction(fps).limit_denominator(1001)
    with atomic_write(Path(os.path.abspath(path))) as draft, open_mp4(draft) as out:
        stream = out.add_stream("libx264", rate=rate, options={"crf": "21", "preset": "veryfast", **REPRODUCIBLE})
        stream.pix_fmt = "yuv420p"
        audio = out.add_stream("aac", rate=RATE, layout="stereo") if sound and has_sound(source) else None
        for frames in _frames(source, chunk_seconds, spans, float(rate), WholePicture(short_side)):
            if not stream.codec_context.is_open:
                stream.height, stream.width = frames.shape[2:]
            for picture in frames.permute(0, 2, 3, 1).contiguous().numpy():
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            on_progress(len(frames) / float(rate))
        out.mux(stream.encode())
        if audio is not None:
            heard = np.concatenate([read_sound(source, chunk_seconds, *span) for span in spans], axis=1)
            for piece in as_frames(heard):
                out.mux(audio.encode(piece))
            out.mux(audio.encode(None))


def _frames(source: VideoSource, chunk_seconds: float, spans: Sequence[tuple[float, float]], fps: float,
            crop: WholePicture) -> Iterator[Tensor]:
    """Yield the frames of all spans in parts of (n, 3, H, W) uint8."""
    for start, end in spans:
        times = start + (np.arange(max(round((end - start) * fps), 1)) + 0.5) / fps  # centres: safe to round
        for part in np.array_split(times, max(round((end - start) / _AT_ONCE), 1)):
            yield source.read(part, crop, chunk_seconds).frames

"""Tiny videos whose frames carry their own number."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

HEIGHT, WIDTH, BITS = 48, 128, 8  # each bit is a block of 16 px by the picture's height


def picture(number: int) -> np.ndarray:
    """Draw a frame `(H, W, 3)` that shows its number in binary: white blocks for ones."""
    bits = (number >> np.arange(BITS)) & 1  # (8,)
    row = np.repeat(bits * 200 + 28, WIDTH // BITS).astype(np.uint8)  # (W,)
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)))


def numbers(frames: torch.Tensor) -> list[int]:
    """Read the numbers that frames `(T, 3, H, W)` show."""
    blocks = frames.float().mean((1, 2)).unflatten(-1, (BITS, -1))[..., 4:-4].mean(-1)  # (T, 8)
    return ((blocks > 128).long() << torch.arange(BITS)).sum(-1).tolist()


def write_video(
    path: Path,
    count: int = 60,
    fps: int = 30,
    gop: int = 12,
    b_frames: int = 0,
    codec: str = "libx264",
    stamps: Sequence[int] | None = None,
    pictures: Sequence[np.ndarray] | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """Write numbered frames; `stamps` are presentation times in milliseconds instead of a frame rate."""
    pictures = pictures if pictures is not None else [picture(i) for i in range(count)]
    encoder = {"g": str(gop), "bf": str(b_frames), **({"sc_threshold": "0"} if codec == "libx264" else {})}
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, fps, options=encoder)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv420p"
        base = Fraction(1, fps) if stamps is None else Fraction(1, 1000)
        stream.codec_context.time_base = base
        if rotation:
            stream.set_display_rotation(rotation)
        for i, rgb in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(rgb)
            frame.pts, frame.time_base = (i if stamps is None else stamps[i]), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path

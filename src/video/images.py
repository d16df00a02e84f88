"""A video that is stored as pictures, one file a frame, as some data sets are published."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from egovlpv2.video.decode import Clip, VideoError
from egovlpv2.video.transforms import CropBox
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp"))


def find_images(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of the numbers in their names: `frame_9.jpg` before `frame_10.jpg`."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES
             and not path.name.startswith(".") and path.is_file()]
    return sorted(found, key=lambda path: [(0, int(part), "") if part.isdigit() else (1, 0, part)
                                           for part in re.split(r"(\d+)", path.name)])


def read_images(files: Sequence[Path], fps: float, times: Sequence[float] | NDArray[np.float64],
                crop: Callable[[int, int], CropBox]) -> Clip:
    """The pictures that are shown at given times.

    Args:
        files: The pictures, in order.
        fps: How many of them make a second.
        times: Seconds.
        crop: Gives the part of the first picture to show, and how large.

    Returns:
        Frames (T, 3, H, W) uint8 RGB, and when they begin.

    Raises:
        VideoError: A file can't be read as a picture, or is of another size than the first.
    """
    places = (np.asarray(times) * fps + 1e-6).astype(np.int64).clip(0, len(files) - 1)  # (T,)
    size = _open(files[int(places[0])]).size
    box = crop(size[1], size[0])
    frames = []
    for place in places.tolist():
        image = _open(files[place])
        if image.size != size:
            raise VideoError(f"{files[place]} is {image.size[0]}x{image.size[1]} px and not {size[0]}x{size[1]} as the "
                             "pictures before: make all of one size")
        part = (box.left, box.top, box.left + box.width, box.top + box.height)
        small = image.resize((box.out_width, box.out_height), Image.Resampling.BICUBIC, part)
        pixels = np.asarray(small)[:, ::-1] if box.flip else np.asarray(small)
        frames.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1))  # (3, H, W)
    return Clip(torch.stack(frames), places / fps)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise VideoError(f"{path} can't be read as a picture ({error}): fetch it again") from error

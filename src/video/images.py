"""Reading of videos that are stored as pictures, one file a frame, as some data sets are published."""

import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image

from egovlpv2.video.container import VideoError
from egovlpv2.video.decode import Clip, Crop, crop_box

_UPRIGHT = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp"))


def find_images(folder: Path) -> list[Path]:
    """List the pictures of a folder in the order of the numbers in their names: `frame_9.jpg`, `frame_10.jpg`."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES
             and not path.name.startswith(".") and path.is_file()]
    return sorted(found, key=lambda path: [(0, int(part), "") if part.isdigit() else (1, 0, part)
                                           for part in re.split(r"(\d+)", path.name)])


def read_images(files: Sequence[Path], fps: float, times: Sequence[float] | NDArray[np.float64],
                crop: Crop) -> Clip:
    """Read the pictures that are shown at given times.

    Args:
        files: The pictures, in order.
        fps: Rate, in pictures a second.
        times: Seconds.
        crop: Part of the pictures to show, and how large.

    Returns:
        Frames (T, 3, H, W) uint8 RGB, and their start times.

    Raises:
        VideoError: A file can't be read as a picture, or is of another size than the first.
    """
    places = (np.asarray(times) * fps + 1e-6).astype(np.int64).clip(0, len(files) - 1)  # (T,)
    size = _open(files[int(places[0])]).size
    box = crop_box(crop, size[::-1], *size[::-1])
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
    """Read a picture in 8-bit RGB and turn it upright."""
    try:
        with Image.open(path) as image:
            turn = _UPRIGHT.get(_orientation(image))
            picture = _to_rgb(image)
    except (OSError, ValueError, OverflowError, SyntaxError, EOFError, struct.error, zlib.error,
            Image.DecompressionBombError) as error:
        raise VideoError(f"{path} can't be read as a picture ({_line(error)}): fetch it again") from error
    return picture if turn is None else picture.transpose(turn)


def _line(error: Exception) -> str:
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def _orientation(image: Image.Image) -> int:
    """Return the orientation in the EXIF data, 1 to 8; 1 if there is none that can be read."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, ValueError, KeyError, TypeError, SyntaxError, EOFError, struct.error):
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB; transparent pixels get the colour that is stored."""
    if image.mode == "F":  # 1 is white by convention; some count to 255
        levels = np.nan_to_num(np.asarray(image))  # (H, W)
        return _grey(levels if levels.max() > 1 else levels * 255)
    if image.mode.startswith("I"):  # of 16 bits, also where they are held as 32
        return _grey(np.asarray(image).astype(np.float32) / 257)
    return image.convert("RGB")


def _grey(levels: NDArray[np.floating[Any]]) -> Image.Image:
    return Image.fromarray(np.rint(levels.clip(0, 255)).astype(np.uint8)).convert("RGB")

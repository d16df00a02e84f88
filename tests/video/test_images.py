"""Videos that are stored as pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from egovlpv2.features.videos import Windows, find_videos
from egovlpv2.video.decode import VideoError
from egovlpv2.video.images import find_images
from egovlpv2.video.transforms import CropBox, EvalTransform
from PIL import Image


def write(folder: Path, count: int, size: tuple[int, int] = (40, 32)) -> None:
    """Grey pictures `shot_1.png`, `shot_2.png`, ... that get lighter by 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", size, (10 * i,) * 3).save(folder / f"shot_{i + 1}.png")


def test_pictures_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write(tmp_path / "P01", 12)
    (tmp_path / "P01" / "notes.txt").write_text("no picture")
    assert [path.stem for path in find_images(tmp_path / "P01")] == [f"shot_{i}" for i in range(1, 13)]


def test_the_picture_of_a_time_is_shown(tmp_path: Path) -> None:
    write(tmp_path / "P01", 12)
    (source,) = find_videos([tmp_path], image_fps=2.0)
    assert source.name == "P01" and source.duration(600.0) == 6.0
    clip = source.read([0.0, 0.49, 0.5, 3.3, 6.2], EvalTransform(16, 16), 600.0)
    assert clip.frames.shape == (5, 3, 16, 16) and clip.frames.dtype == torch.uint8
    assert clip.frames[:, 0, 8, 8].tolist() == [0, 0, 10, 60, 110]
    assert clip.times.tolist() == [0.0, 0.0, 0.5, 3.0, 5.5]
    windows = Windows(1.0, 2, 2, 2, 16, 600.0)
    frames = windows.read(source, 6.0, 1, 2)  # 2 to 4 s and 4 to 6 s, at 2.5, 3.5, 4.5 and 5.5 s
    assert windows.count(6.0) == 3 and frames[:, :, 0, 0, 0].tolist() == [[50, 70], [90, 110]]


def test_a_part_is_cut_out_and_mirrored(tmp_path: Path) -> None:
    (tmp_path / "P01").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "P01" / "1.png")
    (source,) = find_videos([tmp_path / "P01"], image_fps=1.0)
    clip = source.read([0.0], lambda height, width: CropBox(2, 3, 4, 6, 4, 6, flip=True), 600.0)
    assert np.array_equal(clip.frames[0].permute(1, 2, 0), pixels[2:6, 3:9][:, ::-1])


def test_mistakes_are_named(tmp_path: Path) -> None:
    write(tmp_path / "P01", 3)
    with pytest.raises(ValueError, match="P01 holds 3 pictures: --image-fps says how many of them make a second"):
        find_videos([tmp_path])
    (source,) = find_videos([tmp_path], image_fps=1.0)
    (tmp_path / "P01" / "shot_2.png").write_bytes(b"no picture")
    with pytest.raises(VideoError, match="shot_2.png can't be read as a picture"):
        source.read([1.0], EvalTransform(16), 600.0)
    Image.new("RGB", (50, 32)).save(tmp_path / "P01" / "shot_3.png")
    with pytest.raises(VideoError, match="shot_3.png is 50x32 px and not 40x32 as the pictures before"):
        source.read([0.0, 2.0], EvalTransform(16), 600.0)

"""Videos that are stored as pictures."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from egovlpv2.video.collection import find_videos
from egovlpv2.video.container import VideoError
from egovlpv2.video.images import find_images, read_images
from egovlpv2.video.transforms import CropBox, EvalTransform
from egovlpv2.video.windows import Windows


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
    clip = source.read([0.0, 0.49, 0.5, 3.3, 6.2], EvalTransform(16), 600.0)
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
    with pytest.raises(ValueError, match="P01 holds 3 pictures: give their rate with --image-fps"):
        find_videos([tmp_path])
    (source,) = find_videos([tmp_path], image_fps=1.0)
    (tmp_path / "P01" / "shot_2.png").write_bytes(b"no picture")
    with pytest.raises(VideoError, match="shot_2.png can't be read as a picture"):
        source.read([1.0], EvalTransform(16), 600.0)
    Image.new("RGB", (50, 32)).save(tmp_path / "P01" / "shot_3.png")
    with pytest.raises(VideoError, match="shot_3.png is 50x32 px and not 40x32 as the pictures before"):
        source.read([0.0, 2.0], EvalTransform(16), 600.0)


def shown(path: Path) -> np.ndarray:
    """Read the whole picture of a file, (H, W, 3)."""
    crop = lambda height, width: CropBox(0, 0, height, width, height, width)  # noqa: E731
    return read_images([path], 1.0, [0.0], crop).frames[0].permute(1, 2, 0).numpy()


RAMP = (np.linspace(0, 65535, 32)[:, None] * np.ones((1, 40))).astype(np.uint16)


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_pictures_of_16_bits_are_scaled(tmp_path: Path, mode: str) -> None:
    (tmp_path / "P01").mkdir()
    path = tmp_path / "P01" / "1.png"
    image = Image.fromarray(RAMP.astype(np.int32) if mode == "I" else RAMP)
    image.save(path, format="PNG" if mode == "I;16" else "TIFF")
    found = shown(path).astype(int)
    assert np.abs(found - (RAMP[..., None] / 257)).max() <= 1 and found.shape == (32, 40, 3)


@pytest.mark.parametrize(("pixels", "value"), [
    (np.full((8, 8), 0.5, np.float32), 128), (np.full((8, 8), 200.0, np.float32), 200),
    (np.full((8, 8, 4), 77, np.uint8), 77), (np.full((8, 8), True), 255)])
def test_other_kinds_of_pixels_are_shown_as_they_look(tmp_path: Path, pixels: np.ndarray, value: int) -> None:
    (tmp_path / "P01").mkdir()
    Image.fromarray(pixels).save(tmp_path / "P01" / "1.png", format="TIFF" if pixels.dtype == np.float32 else "PNG")
    assert (shown(tmp_path / "P01" / "1.png") == value).all()


def png_of_16_bits(pixels: np.ndarray) -> bytes:
    """Encode pixels (H, W, channels) uint16 as PNG, which Pillow does not write in colour."""
    kind = {3: 2, 4: 6}[pixels.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, kind, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(data)) + name + data
                                            + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks)


@pytest.mark.parametrize("channels", [3, 4])
def test_coloured_pictures_of_16_bits_are_scaled(tmp_path: Path, channels: int) -> None:
    (tmp_path / "P01").mkdir()
    pixels = np.random.default_rng(0).integers(0, 65536, (8, 10, channels), dtype=np.uint16)
    (tmp_path / "P01" / "1.png").write_bytes(png_of_16_bits(pixels))
    assert np.abs(shown(tmp_path / "P01" / "1.png").astype(int) - pixels[..., :3] / 257).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_come_upright(tmp_path: Path, orientation: int) -> None:
    scene = np.zeros((32, 48, 3), np.uint8)  # as it should be seen: red on top left, green on top right, blue below
    scene[:16, :24], scene[:16, 24:], scene[16:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    stored = {1: scene, 2: scene[:, ::-1], 3: scene[::-1, ::-1], 4: scene[::-1], 5: scene.transpose(1, 0, 2),
              6: np.rot90(scene), 7: np.rot90(scene, 2).transpose(1, 0, 2), 8: np.rot90(scene, -1)}[orientation]
    (tmp_path / "P01").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "P01" / "1.png", exif=exif)
    assert np.array_equal(shown(tmp_path / "P01" / "1.png"), scene)


def test_broken_pictures_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "P01"
    folder.mkdir()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for suffix in ("png", "jpg", "webp", "bmp"):
        path = folder / f"1.{suffix}"
        noise.save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(VideoError, match=rf"1.{suffix} can't be read as a picture"):
            shown(path)
        path.unlink()
    noise.save(folder / "1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(VideoError, match="1.png can't be read as a picture .*decompression bomb"):
        shown(folder / "1.png")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_mutated_pictures_are_shown_or_named(tmp_path: Path) -> None:
    folder, rng = tmp_path / "P01", np.random.default_rng(0)
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    noise = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    for suffix in ("png", "jpg", "webp", "bmp"):
        path = folder / f"1.{suffix}"
        noise.save(path, **({} if suffix == "bmp" else {"exif": exif}))
        data = path.read_bytes()
        for _ in range(60):
            broken = bytearray(data[: rng.integers(len(data) // 4, len(data) + 1)])
            for place in rng.integers(0, min(len(broken), 400), rng.integers(1, 8)):
                broken[place] = rng.integers(256)
            path.write_bytes(broken)
            try:
                assert shown(path).dtype == np.uint8
            except VideoError as error:
                assert f"1.{suffix}" in str(error) and "\n" not in str(error)
        path.unlink()

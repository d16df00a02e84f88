"""Pictures that are stored in another orientation, or that change within a file."""

import struct
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numbered_videos import write_video

from egovlpv2.video.decode import crop_box, read_clip, read_frames, video_info
from egovlpv2.video.transforms import CropBox, EvalTransform, TrainTransform

ONE = 65536
SCENE = np.zeros((48, 128, 3), np.uint8)  # all eight orientations differ
SCENE[:24, :64], SCENE[:24, 64:], SCENE[24:, :64], SCENE[24:, 64:] = 40, 110, 180, 250
ORIENTATIONS = {  # a, b, c, d of the display matrix, and the picture that they make of the stored one
    (1, 0, 0, 1): lambda x: x,
    (0, 1, -1, 0): lambda x: np.rot90(x, -1),  # clockwise
    (-1, 0, 0, -1): lambda x: np.rot90(x, 2),
    (0, -1, 1, 0): lambda x: np.rot90(x),
    (-1, 0, 0, 1): lambda x: x[:, ::-1],
    (1, 0, 0, -1): lambda x: x[::-1],
    (0, 1, 1, 0): lambda x: x.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda x: np.rot90(x, 2).transpose(1, 0, 2),
}


def write_turned(path: Path, *matrix: int) -> Path:
    """Write three equal pictures with a display matrix: its a, b, c and d, of which 65536 is one."""
    write_video(path, pictures=[SCENE] * 3)
    data = bytearray(path.read_bytes())
    place = data.find(b"tkhd") + 4 + 40  # of version 0
    data[place : place + 36] = struct.pack(">9i", *matrix[:2], 0, *matrix[2:], 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_videos_come_upright(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    path = write_turned(tmp_path / "turned.mp4", *(ONE * x for x in matrix))
    expected = ORIENTATIONS[matrix](SCENE)
    assert video_info(path)[:2] == expected.shape[:2]
    found = read_frames(path, [0.0]).frames[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected.astype(int)).mean() < 3
    part = read_frames(path, [0.0], lambda height, width: CropBox(0, 0, height // 4, width // 4, 8, 8)).frames
    assert abs(part.float().mean() - float(expected[4, 4, 0])) < 5


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (ONE, 0, 0, 0), (0, 0, 0, ONE), (0, ONE, 0, 0), (ONE, ONE, 0, 0)])
def test_a_matrix_that_leaves_nothing_of_the_picture_is_ignored(tmp_path: Path, matrix: tuple[int, ...]) -> None:
    path = write_turned(tmp_path / "turned.mp4", *matrix)
    assert video_info(path)[:2] == (48, 128)
    found = read_frames(path, [0.0]).frames[0].permute(1, 2, 0).numpy()
    assert np.abs(found - SCENE.astype(int)).mean() < 3


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_rotated_videos_come_upright(tmp_path: Path, rotation: int, turns: int) -> None:
    turned = write_video(tmp_path / "turned.mov", pictures=[SCENE] * 3, rotation=rotation)
    expected = np.rot90(SCENE, turns)  # counterclockwise
    assert video_info(turned)[:2] == expected.shape[:2]
    found = read_frames(turned, [0.0]).frames[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected.astype(int)).mean() < 3


def write_sizes(path: Path, *sizes: tuple[int, int], codec: str = "libvpx", pix_fmt: str = "yuv420p") -> Path:
    """Write ten pictures of each size (height, width), as a WebRTC recording holds them: one stream, new sizes."""
    scene = torch.from_numpy(SCENE).permute(2, 0, 1)[None].float()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, 30)
        stream.height, stream.width = sizes[0]
        stream.pix_fmt = pix_fmt
        for k, size in enumerate(sizes):
            encoder = stream if not k else av.CodecContext.create(codec, "w")
            if k:
                encoder.height, encoder.width = size
                encoder.pix_fmt, encoder.time_base, encoder.framerate = pix_fmt, Fraction(1, 30), Fraction(30)
            pixels = torch.nn.functional.interpolate(scene, size)[0].permute(1, 2, 0).byte().numpy()
            packets = []
            for i in range(10):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels))
                frame.pts, frame.time_base = 10 * k + i, Fraction(1, 30)
                packets += encoder.encode(frame)
            for packet in packets + encoder.encode(None):
                packet.stream = stream
                container.mux(packet)
    return path


SIZES = [((48, 128), (96, 256)), ((96, 256), (48, 128)), ((48, 128), (128, 48), (48, 128))]


@pytest.mark.parametrize("sizes", SIZES)
def test_pictures_that_change_their_size_are_shown_whole(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    path = write_sizes(tmp_path / "changes.webm", *sizes)
    times = [(10 * k + 5) / 30 for k in range(len(sizes))]
    for order in (times, times[::-1]):
        frames = read_frames(path, order).frames
        assert frames.shape[2:] == sizes[0]
        assert (frames - frames[:1].float()).abs().mean() < 4  # the same scene at each size
    assert read_clip(path, None, None, 4, 32).frames.shape == (4, 3, 32, 32)


def test_the_crop_is_taken_anew_for_each_size(tmp_path: Path) -> None:
    path = write_sizes(tmp_path / "grows.webm", (48, 128), (96, 256))
    middle = read_frames(path, [0.1, 0.5], EvalTransform(32)).frames.float()
    assert (middle[1] - middle[0]).abs().mean() < 6
    corner = read_frames(path, [0.1, 0.5], CropBox(0, 0, 24, 64, 12, 32)).frames.float()
    assert corner.shape == (2, 3, 12, 32) and (corner - 40).abs().mean() < 4  # of the first size, in its pixels
    for seed in range(6):
        crop = partial(TrainTransform(32, scale=(0.9, 1.0), ratio=(2.0, 3.0)), rng=np.random.default_rng(seed))
        random = read_frames(path, [0.1, 0.5], crop).frames.float()
        assert (random[0, :, :, :8].mean() < random[0, :, :, -8:].mean()) == (
            random[1, :, :, :8].mean() < random[1, :, :, -8:].mean())  # both are mirrored, or none


def test_the_pixel_format_may_change(tmp_path: Path) -> None:
    path = tmp_path / "formats.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", 30)
        stream.height, stream.width, stream.pix_fmt = 48, 128, "yuvj420p"
        for i, pixels in enumerate(["yuvj420p"] * 5 + ["yuvj444p"] * 5):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.height, encoder.width, encoder.pix_fmt, encoder.time_base = 48, 128, pixels, Fraction(1, 30)
            frame = av.VideoFrame.from_ndarray(SCENE).reformat(format=pixels)
            frame.pts, frame.time_base = i, Fraction(1, 30)
            for packet in encoder.encode(frame) + encoder.encode(None):
                packet.stream = stream
                container.mux(packet)
    frames = read_frames(path, [0.05, 0.25]).frames.float()
    assert (frames - torch.from_numpy(SCENE).permute(2, 0, 1)).abs().mean() < 4


@pytest.mark.parametrize(("size", "expected"), [
    ((48, 128), (12, 40, 6, 20)),
    ((96, 256), (24, 80, 12, 40)),
    ((24, 256), (6, 80, 3, 40)),
    ((4, 8), (1, 2, 1, 1)),  # never thinner than a pixel
    ((1, 2), (0, 1, 1, 1)),  # and within the picture
])
def test_a_fixed_box_grows_and_shrinks_with_the_picture(size: tuple[int, int], expected: tuple[int, ...]) -> None:
    box = CropBox(12, 40, 6, 20, 8, 9, True)
    assert crop_box(box, (48, 128), *size) == CropBox(*expected, 8, 9, True)

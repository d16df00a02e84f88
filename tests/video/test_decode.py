"""The reader on videos whose frames carry their number, and on real ones."""

import multiprocessing
import wave
from bisect import bisect_right
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numbered_videos import HEIGHT, WIDTH, numbers, picture, write_video

from egovlpv2.video.container import VideoError
from egovlpv2.video.decode import read_chunks, read_clip, read_frames
from egovlpv2.video.reader import open_file
from egovlpv2.video.seeking import SeekingDecoder
from egovlpv2.video.transforms import CropBox

WHOLE = CropBox(0, 0, HEIGHT, WIDTH, HEIGHT, WIDTH)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov", "ts"])
@pytest.mark.parametrize(("gop", "b_frames"), [(1, 0), (12, 0), (12, 3), (250, 3)])
def test_every_frame_is_found_in_any_order(tmp_path: Path, ending: str, gop: int, b_frames: int) -> None:
    path = write_video(tmp_path / f"video.{ending}", gop=gop, b_frames=b_frames)
    middles = (np.arange(60) + 0.5) / 30
    for order in (np.arange(60), np.arange(60)[::-7], np.random.default_rng(0).permutation(60)[:20]):
        clip = read_frames(path, middles[order])
        assert numbers(clip.frames) == order.tolist()
        assert np.allclose(clip.times, order / 30, atol=6e-4)  # mkv rounds to milliseconds


@pytest.mark.parametrize(("ending", "b_frames"), [("mp4", 0), ("mp4", 2), ("mkv", 2), ("avi", 0)])
def test_mpeg4_is_read_exactly(tmp_path: Path, ending: str, b_frames: int) -> None:
    path = write_video(tmp_path / f"video.{ending}", b_frames=b_frames, codec="mpeg4")
    order = np.random.default_rng(1).permutation(60)
    assert numbers(read_frames(path, (order + 0.5) / 30).frames) == order.tolist()


@pytest.mark.parametrize("b_frames", [0, 3])
def test_a_variable_frame_rate_counts_in_time(tmp_path: Path, b_frames: int) -> None:
    stamps = np.cumsum(np.random.default_rng(0).integers(5, 200, 60)) - 5
    stamps -= stamps[0]
    path = write_video(tmp_path / "variable.mkv", stamps=stamps.tolist(), b_frames=b_frames)
    times = np.random.default_rng(1).uniform(0, stamps[-1] / 1000, 40)
    expected = [bisect_right(stamps.tolist(), time * 1000 + 0.5) - 1 for time in times]
    clip = read_frames(path, times)
    assert numbers(clip.frames) == expected
    assert np.allclose(clip.times, stamps[expected] / 1000)


def test_clips_take_the_centres_of_segments(video: Path) -> None:
    frames = read_clip(video, 0.5, 1.5, 4).frames
    assert frames.dtype == torch.uint8 and frames.shape == (4, 3, HEIGHT, WIDTH)
    assert numbers(frames) == [18, 26, 33, 41]
    assert numbers(read_clip(video, None, None, 2).frames) == [15, 45]
    assert numbers(read_clip(video, -5.0, 99.0, 2).frames) == [15, 45]  # cut to the video
    assert read_clip(video, 0.0, 1.0, 3, size=32).frames.shape == (3, 3, 32, 32)
    clip = read_clip(video, 1.0, 1.0, 2)
    assert clip.times.tolist() == [1.0, 1.0] and clip.times.dtype == np.float64


def test_times_around_the_ends_show_the_first_and_last_frame(video: Path) -> None:
    assert numbers(read_frames(video, [-0.5, 0.0, 1.999, 2.5]).frames) == [0, 0, 59, 59]
    with pytest.raises(VideoError, match=r"plain.mp4 ends at 2.000 s, before 3.500 s"):
        read_frames(video, [3.5])


def test_an_error_does_not_spoil_the_next_clip(video: Path) -> None:
    with pytest.raises(VideoError):
        read_frames(video, [9.0])
    assert numbers(read_frames(video, [1.0]).frames) == [30]


def test_a_clip_reads_from_both_of_its_chunks(tmp_path: Path) -> None:
    for chunk in (0, 1):
        write_video(tmp_path / f"{chunk}.mp4", pictures=[picture(60 * chunk + i) for i in range(60)])
    clip = read_chunks(tmp_path, [1.51, 1.99, 2.0, 2.51], chunk_seconds=2.0)
    assert numbers(clip.frames) == [45, 59, 60, 75]
    assert np.allclose(clip.times, [1.5, 59 / 30, 2.0, 2.5])
    assert numbers(read_chunks(tmp_path, [3.9, 4.02, 4.5], chunk_seconds=2.0).frames) == [117, 119, 119]
    with pytest.raises(VideoError, match=r"2.mp4 is missing"):
        read_chunks(tmp_path, [3.9, 5.5], chunk_seconds=2.0)


def test_chunks_may_have_a_gap_at_their_ends(tmp_path: Path) -> None:
    write_video(tmp_path / "0.mp4", count=59)
    write_video(tmp_path / "1.mp4")
    assert numbers(read_chunks(tmp_path, [1.99, 2.01], chunk_seconds=2.0).frames) == [58, 0]


def _gradients(number: int) -> np.ndarray:
    """Make a smooth picture `(180, 240, 3)` that moves."""
    y, x = np.mgrid[0:180, 0:240]
    waves = 128 + 90 * np.sin((x + 5 * number) / 20) * np.cos(y / 15)
    return np.stack([x * 255 / 240, y * 255 / 180, waves], -1).astype(np.uint8)


@pytest.mark.parametrize("box", [CropBox(30, 46, 120, 150, 96, 112), CropBox(0, 10, 60, 80, 112, 112, True)])
def test_cropping_and_scaling_equal_a_full_decode(tmp_path: Path, box: CropBox) -> None:
    path = write_video(tmp_path / "smooth.mp4", pictures=[_gradients(i) for i in range(4)])
    with av.open(str(path)) as container:
        full = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])  # (T, H, W, 3)
    part = full[:, box.top : box.top + box.height, box.left : box.left + box.width]
    part = torch.from_numpy(part).permute(0, 3, 1, 2).float()  # (T, 3, H, W)
    part = torch.nn.functional.interpolate(part, (box.out_height, box.out_width), mode="bilinear", antialias=True)
    expected = part.flip(-1) if box.flip else part
    found = read_frames(path, [0.01, 0.04, 0.07, 0.11], box).frames
    assert (found - expected).abs().mean() < 1.5
    assert (found - expected).abs().max() < 8
    assert torch.equal(read_frames(path, [0.01, 0.04], lambda height, width: box).frames, found[:2])


@pytest.mark.parametrize("width", [240, 228, 182, 50])
def test_the_whole_picture_is_a_full_decode_to_its_edges(tmp_path: Path, width: int) -> None:
    path = write_video(tmp_path / "smooth.mp4", pictures=[np.ascontiguousarray(_gradients(0)[:, :width])])
    with av.open(str(path)) as container:
        full = next(container.decode(video=0)).to_ndarray(format="rgb24")  # (H, W, 3)
    difference = np.abs(read_frames(path, [0.0]).frames[0].permute(1, 2, 0).numpy() - full.astype(int))  # (H, W, 3)
    assert difference.mean((0, 2)).max() < 3  # of any column
    mirrored = read_frames(path, [0.0], CropBox(0, 0, 180, width, 180, width, flip=True)).frames
    assert torch.equal(mirrored.flip(-1), read_frames(path, [0.0]).frames)


def test_a_box_outside_the_picture_is_refused(video: Path) -> None:
    with pytest.raises(ValueError, match="does not lie within a picture of 128x48 px"):
        read_frames(video, [0.0], WHOLE._replace(left=2))


def test_files_that_hold_no_video_say_why(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video at all " * 100)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    reasons = {"absent.mp4": "is missing", "empty.mp4": "is empty", "text.mp4": "can't be", "sound.wav": "has no video"}
    for name, reason in reasons.items():
        with pytest.raises(VideoError, match=f"{name} {reason}") as caught:
            read_clip(tmp_path / name, None, None, 4)
        assert "\n" not in str(caught.value)


def test_impossible_clips_say_why(video: Path) -> None:
    with pytest.raises(VideoError, match=r"clip 12.0-14.0 s begins after the end of .*plain.mp4 \(2.0 s\)"):
        read_clip(video, 12.0, 14.0, 4)
    with pytest.raises(VideoError, match="ends before it begins"):
        read_clip(video, 1.0, 0.5, 4)
    with pytest.raises(VideoError, match="no times"):
        read_frames(video, [])
    for time in (float("nan"), float("inf")):
        with pytest.raises(VideoError, match=r"no frame of .*plain.mp4 is shown at (nan|inf) s: give finite times"):
            read_frames(video, [0.0, time])
    with pytest.raises(VideoError, match="ends at 2.000 s"):
        read_frames(video, [1e300])
    assert numbers(read_frames(video, [-1e300]).frames) == [0]


def test_a_truncated_file_gives_what_it_has_and_then_an_error(tmp_path: Path) -> None:
    noise = [np.random.default_rng(i).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8) for i in range(60)]
    path = write_video(tmp_path / "cut.mp4", pictures=noise, options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert len(read_frames(path, [0.1, 0.5]).frames) == 2
    for time in (1.2, 1.9):
        with pytest.raises(VideoError, match="can't be decoded|ends at"):
            read_frames(path, [time])
    late = write_video(tmp_path / "late.mp4", pictures=noise)
    late.write_bytes(late.read_bytes()[: late.stat().st_size // 2])  # loses its index, which comes last
    with pytest.raises(VideoError, match="late.mp4 can't be opened"):
        read_clip(late, None, None, 4)


def test_a_file_that_changes_is_opened_anew(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4")
    assert numbers(read_frames(path, [0.0]).frames) == [0]
    write_video(path, pictures=[picture(77)] * 9)
    assert numbers(read_frames(path, [0.0]).frames) == [77]


def test_more_files_than_are_kept_open(tmp_path: Path) -> None:
    paths = [write_video(tmp_path / f"{i}.mp4", pictures=[picture(i)] * 6) for i in range(10)]
    for _ in range(2):
        assert [numbers(read_frames(path, [0.1]).frames)[0] for path in paths] == list(range(10))


def _numbers_at(path: Path, times: list[float]) -> list[int]:
    return numbers(read_frames(path, times).frames)


def test_forked_workers_do_not_share_positions(video: Path) -> None:
    assert _numbers_at(video, [0.01, 1.0]) == [0, 30]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(_numbers_at, [(video, [i / 30 + 0.01]) for i in range(0, 60, 5)]) == [
            [i] for i in range(0, 60, 5)
        ]
    assert _numbers_at(video, [1.1]) == [33]


def test_going_on_decodes_no_frame_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "one_keyframe.mp4", gop=250)
    open_file(path)
    fed: list[int] = []
    feed = SeekingDecoder._feed
    monkeypatch.setattr(SeekingDecoder, "_feed", lambda self, target: (fed.append(target), feed(self, target))[1])
    for start in (0.0, 0.5, 1.0, 1.5):
        read_clip(path, start, start + 0.5, 4)
    assert len(fed) <= 60

"""Times read in any order show what a sequential decode of the file shows."""

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from arbiter import mistakes, quiet
from av.packet import Packet
from numbered_videos import numbers, picture

from egovlpv2.video.container import VideoError
from egovlpv2.video.decode import read_clip, read_frames, video_info
from egovlpv2.video.find import VIDEO_SUFFIXES
from egovlpv2.video.reader import open_file

OPEN = {"x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=20"}
B3 = {"bf": "3", "sc_threshold": "0"}
HIDDEN = {"auto-alt-ref": "1", "lag-in-frames": "16", "arnr-maxframes": "5", "b": "60k"}  # frames that are never shown
FAST = [
    ("avi", "libx264", B3), ("avi", "mpeg4", {"bf": "2"}), ("mpg", "mpeg2video", {"bf": "2"}), ("vob", "libx264", B3),
    ("ts", "libx264", B3), ("webm", "libvpx", {}), ("webm", "libvpx-vp9", HIDDEN), ("mkv", "libx264", OPEN),
    ("mp4", "libx264", B3), ("mp4", "libx264", REFRESH),
]
SLOW = [
    *[(ending, "libx264", options) for ending in ("avi", "flv", "m2ts", "mkv", "mov", "mp4", "nut", "ts", "vob")
      for options in (B3, OPEN, REFRESH) if (ending, "libx264", options) not in FAST],
    *[(ending, "mpeg4", {"bf": bf}) for ending in ("mkv", "mov", "mp4", "nut", "avi") for bf in ("0", "2")],
    *[(ending, codec, {"bf": "2"}) for ending in ("mkv", "ts", "avi") for codec in ("mpeg1video", "mpeg2video")],
    ("mpg", "mpeg1video", {"bf": "2"}), ("webm", "libvpx", HIDDEN), ("mkv", "libvpx-vp9", HIDDEN),
    ("mp4", "libvpx-vp9", HIDDEN), ("flv", "flv", {}), ("wmv", "wmv2", {}), ("avi", "mjpeg", {}), ("mov", "mjpeg", {}),
]
TEST_DATA = Path(os.environ.get("EGOVLPV2_TEST_DATA", "/nonexistent"))
quiet()


def write(path: Path, codec: str, options: dict[str, str], count: int = 60, gop: int = 24,
          container_options: dict[str, str] | None = None) -> Path:
    """Write numbered frames, 30 a second."""
    quick = {"deadline": "realtime", "cpu-used": "8"} if codec.startswith("libvpx") and options is not HIDDEN else {}
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, 30, options={"g": str(gop), **quick, **options})
        stream.height, stream.width = 48, 128
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(picture(i)).reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = i, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remux(source: Path, target: Path, change: Callable[[int, Packet], bool]) -> Path:
    """Copy packets; `change` gets the number of each and the packet, and returns False to drop it."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for number, packet in enumerate(packet for packet in old.demux(stream) if packet.size):
            if change(number, packet):
                packet.stream = copy
                new.mux(packet)
    return target


def _name(kind: tuple[str, str, dict[str, str]]) -> str:
    return "-".join([kind[0], kind[1], *kind[2].values()])[:60]


@pytest.mark.parametrize("kind", FAST, ids=_name)
def test_frames_are_those_of_a_sequential_decode(tmp_path: Path, kind: tuple[str, str, dict[str, str]]) -> None:
    path = write(tmp_path / f"video.{kind[0]}", *kind[1:])
    assert not mistakes(path, np.random.default_rng(0), 20)
    assert video_info(path).duration == pytest.approx(2.0, abs=0.07)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SLOW, ids=_name)
def test_more_frames_are_those_of_a_sequential_decode(tmp_path: Path, kind: tuple[str, str, dict[str, str]]) -> None:
    path = write(tmp_path / f"video.{kind[0]}", *kind[1:], count=90)
    assert not mistakes(path, np.random.default_rng(0))


@pytest.mark.parametrize(("ending", "codec", "options"), [
    ("avi", "libx264", B3), ("avi", "mpeg4", {"bf": "2"}), ("avi", "mpeg1video", {"bf": "2"}), ("vob", "libx264", B3),
    ("vob", "mpeg2video", {"bf": "2"})])
def test_frames_without_times_follow_at_the_rate_of_the_stream(
        tmp_path: Path, ending: str, codec: str, options: dict[str, str]) -> None:
    path = write(tmp_path / f"video.{ending}", codec, options)
    order = np.random.default_rng(0).permutation(60)
    clip = read_frames(path, (order + 0.5) / 30)
    assert numbers(clip.frames) == order.tolist()
    assert np.allclose(clip.times, order / 30)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_an_mp4_that_lacks_its_order_of_showing_is_read_in_order(tmp_path: Path, codec: str) -> None:
    path = write(tmp_path / "video.mp4", codec, {"bf": "2"})
    path.write_bytes(path.read_bytes().replace(b"ctts", b"free").replace(b"edts", b"free"))
    order = np.random.default_rng(0).permutation(60)
    assert numbers(read_frames(path, (order + 0.5) / 30).frames) == order.tolist()


LIES: dict[str, Callable[[int], bool]] = {
    "all": lambda number: True, "none": lambda number: False, "first": lambda number: number == 0,
    "wrong": lambda number: number == 37, "some": lambda number: number % 11 == 5 or number % 24 == 0}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(("ending", "codec"), [("mp4", "libx264"), ("mp4", "mpeg4"), ("mkv", "mpeg4"),
                                               ("webm", "libvpx")])
def test_keyframes_that_are_not_mislead_nobody(tmp_path: Path, ending: str, codec: str, lie: str) -> None:
    def change(number: int, packet: Packet) -> bool:
        packet.is_keyframe = LIES[lie](number)
        return True

    path = remux(write(tmp_path / f"true.{ending}", codec, {}), tmp_path / f"lie.{ending}", change)
    order = np.random.default_rng(0).permutation(60)[:30]
    assert numbers(read_frames(path, (order + 0.5) / 30).frames) == order.tolist()


def test_intra_refresh_needs_no_start_from_the_beginning(tmp_path: Path) -> None:
    path = write(tmp_path / "video.mp4", "libx264", REFRESH, count=120)
    order = np.random.default_rng(0).permutation(120)
    assert numbers(read_frames(path, (order + 0.5) / 30).frames) == order.tolist()
    assert open_file(path)._sequence is None


@pytest.mark.parametrize(("ending", "codec", "options"), [
    ("ts", "libx264", B3), ("ts", "mpeg2video", {"bf": "2"}), ("mkv", "libx264", B3), ("webm", "libvpx", {}),
    ("webm", "libvpx-vp9", {}), ("mp4", "mpeg4", {}), ("mp4", "libx264", B3)])
def test_a_stream_cut_in_mid_group_shows_nothing_before_its_first_keyframe(
        tmp_path: Path, ending: str, codec: str, options: dict[str, str]) -> None:
    whole = write(tmp_path / f"whole.{ending}", codec, {"sc_threshold": "2000000000"} | options, count=120, gop=60)
    path = remux(whole, tmp_path / f"cut.{ending}", lambda number, packet: number >= 10)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        key = next(packet.pts for packet in container.demux(stream) if packet.is_keyframe)
        first = float((key - stream.start_time) * stream.time_base)  # frame 60
    assert first > 1.5
    for time in (0.0, first - 1.1):
        with pytest.raises(VideoError, match=f"shows nothing at {time:.3f} s: .* comes at {first:.3f} s"):
            read_frames(path, [time])
    times = [first - 0.9, first + 0.01, first + 1.01, first + 0.51]
    assert numbers(read_frames(path, times).frames) == [60, 60, 90, 75]


@pytest.mark.parametrize("ending", ["webm", "mkv"])
def test_a_damaged_index_misleads_nobody(tmp_path: Path, ending: str) -> None:
    codec = "libvpx" if ending == "webm" else "libx264"
    path = write(tmp_path / f"video.{ending}", codec, {}, count=120, gop=30, container_options={
        "cluster_time_limit": "1000"})
    data, times, rng = path.read_bytes(), [0.01, 2.51, 0.51, 3.26, 1.01], np.random.default_rng(0)
    cues = data.find(b"\x1c\x53\xbb\x6b", data.find(b"\x1f\x43\xb6\x75"))  # their header, behind the first cluster
    assert cues > 0
    for place in rng.integers(cues, len(data), 12):
        broken = bytearray(data)
        broken[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        os.utime(path, ns=(int(place), int(place)))
        assert numbers(read_frames(path, times).frames) == [0, 75, 15, 97, 30]


def test_a_damaged_first_keyframe_hides_its_group_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "video.webm", "libvpx", {}, count=90, gop=60)
    with av.open(str(path)) as container:
        first = next(container.demux(video=0))
        place = path.read_bytes().find(bytes(first))
    data = bytearray(path.read_bytes())
    data[place : place + 10] = bytes(10)
    path.write_bytes(data)
    assert numbers(read_frames(path, [2.01, 2.51]).frames) == [60, 75]
    with pytest.raises(VideoError, match="video.webm (shows nothing|can't be decoded) at 0.500 s"):
        read_frames(path, [0.5])


@pytest.mark.parametrize("ending", ["ts", "mpg", "mp4", "mov", "mkv", "webm", "flv", "avi", "wmv", "nut"])
def test_files_behind_one_another_are_refused(tmp_path: Path, ending: str) -> None:
    codec = {"mpg": "mpeg2video", "webm": "libvpx", "flv": "flv", "avi": "mpeg4", "wmv": "wmv2"}.get(ending, "libx264")
    part = write(tmp_path / f"part.{ending}", codec, {}, count=20)
    assert len(read_frames(part, [0.1]).frames) == 1
    path = tmp_path / f"joined.{ending}"
    path.write_bytes(part.read_bytes() * 2)
    for read in (video_info, lambda path: read_frames(path, [0.1])):
        with pytest.raises(VideoError, match=rf"joined.{ending} holds (another video behind|several videos)"):
            read(path)


def _edits(path: Path, entries: list[tuple[int, int]]) -> Path:
    """Replace an MP4's edit list; an entry has the length in milliseconds and where it begins in ticks of the media,
    -1 for nothing."""
    data = path.read_bytes()
    old = data.index(b"elst") - 4
    size = int.from_bytes(data[old : old + 4], "big")
    table = b"".join(length.to_bytes(4, "big") + start.to_bytes(4, "big", signed=True) + b"\0\1\0\0"
                     for length, start in entries)
    new = (16 + len(table)).to_bytes(4, "big") + b"elst" + bytes(4) + len(entries).to_bytes(4, "big") + table
    data = bytearray(data[:old] + new + data[old + size :])
    for name in (b"edts", b"trak", b"moov"):
        place = data.rindex(name, 0, old) - 4
        data[place : place + 4] = (int.from_bytes(data[place : place + 4], "big") + len(new) - size).to_bytes(4, "big")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("entries", "first"), [
    ([(1000, 1024 + 512 * 17)], 17), ([(500, -1), (1500, 1024 + 512 * 5)], 5), ([(2000, 1024)], 0)])
def test_edit_lists_are_kept(tmp_path: Path, entries: list[tuple[int, int]], first: int) -> None:
    path = _edits(write(tmp_path / "video.mp4", "libx264", B3), entries)  # its index comes last: no offset moves
    assert not mistakes(path, np.random.default_rng(0))
    assert numbers(read_frames(path, [0.01, 0.51]).frames) == [first, first + 15]


needs_data = pytest.mark.skipif(not TEST_DATA.is_dir(), reason="EGOVLPV2_TEST_DATA names no folder of videos")


@needs_data
def test_a_corrupted_real_video_is_an_error() -> None:
    for path in TEST_DATA.rglob("corrupted.mp4"):
        with pytest.raises(VideoError, match="corrupted.mp4 can't be decoded"):
            read_clip(path, None, None, 4)


@needs_data
@pytest.mark.slow
def test_all_videos_of_a_folder_equal_their_sequential_decode() -> None:
    found = {}
    for path in sorted(TEST_DATA.rglob("*")):
        if path.suffix in VIDEO_SUFFIXES and path.stem != "corrupted" and "cover" not in path.stem:
            found[path] = mistakes(path, np.random.default_rng(0))
    assert found and not any(found.values()), found

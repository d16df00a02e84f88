"""Opening of video files."""

import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import pytest
from numbered_videos import numbers, picture, write_video

from egovlpv2.video.container import VideoError, as_fraction, open_video
from egovlpv2.video.decode import read_frames, video_info


def write_streams(path: Path, *streams: tuple[str, int]) -> Path:
    """Write video streams, each of one codec and a number of pictures; those after the first start at number 100."""
    with av.open(str(path), "w") as container:
        added = []
        for codec, _ in streams:
            stream = container.add_stream(codec, 30)
            stream.height, stream.width = 48, 128
            stream.pix_fmt = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(codec, "yuv420p")
            added.append(stream)
        packets = []
        for k, (stream, (_, count)) in enumerate(zip(added, streams, strict=True)):
            for i in range(count):
                frame = av.VideoFrame.from_ndarray(picture(100 * k + i)).reformat(format=stream.pix_fmt)
                frame.pts, frame.time_base = i, Fraction(1, 30)
                packets += stream.encode(frame)
            packets += stream.encode(None)
        for packet in packets:
            container.mux(packet)
    return path


@pytest.mark.parametrize(("ending", "cover"), [("mp4", "mjpeg"), ("mp4", "png"), ("mkv", "mjpeg")])
def test_a_cover_before_the_video_is_passed_over(tmp_path: Path, ending: str, cover: str) -> None:
    path = write_streams(tmp_path / f"cover.{ending}", (cover, 1), ("libx264", 20))
    assert numbers(read_frames(path, [0.01, 0.51]).frames) == [100, 115]


def test_the_first_of_two_moving_streams_is_taken(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "two.mkv", ("libx264", 20), ("libx264", 20))
    assert numbers(read_frames(path, [0.51]).frames) == [15]


def test_a_file_of_one_picture_is_a_video(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "still.mkv", ("mjpeg", 1))
    assert numbers(read_frames(path, [0.0, 0.5]).frames) == [0, 0]


@pytest.mark.parametrize("name", ["10:20:30.mp4", "http:x.mp4", "file:x.mp4", "concat:a|b.mp4", "%03d #?.mp4"])
def test_a_name_is_never_a_protocol(tmp_path: Path, video: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(video, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert numbers(read_frames(Path(name), [1.01]).frames) == [30]
    assert numbers(read_frames(name, [1.01]).frames) == [30]


def test_names_that_are_not_utf8_are_opened(tmp_path: Path, video: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    shutil.copy(video, name)
    assert numbers(read_frames(name, [1.01]).frames) == [30]


def test_a_playlist_reaches_no_network(tmp_path: Path) -> None:
    path = tmp_path / "list.mp4"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://localhost:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError, match=r"list.mp4 can't be opened|has no video"):
        open_video(path)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_metadata_that_is_not_utf8_hinders_nothing(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"video.{ending}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 30)
        stream.height, stream.width, stream.pix_fmt = 48, 128, "yuv420p"
        container.metadata["title"] = stream.metadata["title"] = "XYZXYZ"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(7))))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    assert b"XYZXYZ" in data
    path.write_bytes(data.replace(b"XYZXYZ", b"\xe9\xff\xc3\xe9\xff\xfe"))
    assert numbers(read_frames(path, [0.0]).frames) == [7]


@pytest.mark.parametrize(("ending", "old", "new"), [("mkv", b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ"),
                                                    ("mp4", b"avc1", b"zzz1")])
def test_an_unknown_codec_is_named(tmp_path: Path, ending: str, old: bytes, new: bytes) -> None:
    path = write_video(tmp_path / f"video.{ending}")
    data = path.read_bytes()
    path.write_bytes(data.replace(old, new))
    with pytest.raises(VideoError, match="is in a codec that FFmpeg can't decode here"):
        video_info(path)


def test_what_is_not_a_video_file_says_so(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    long = "x" * 300 + ".mp4"
    reasons = {"pipe.mp4": "is not a file", "folder.mp4": "is not a file", long: "can't be opened", "a\0.mp4": "can't"}
    for name, reason in reasons.items():
        with pytest.raises(VideoError, match=reason) as caught:
            video_info(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read anything")
def test_an_unreadable_file_says_so(video: Path) -> None:
    video.chmod(0)
    with pytest.raises(VideoError, match=r"can't be opened \(Permission denied\)"):
        video_info(video)


def test_rates_of_any_version_of_av_become_fractions(video: Path) -> None:
    container, stream = open_video(video)
    assert as_fraction(stream.average_rate) == Fraction(30) and as_fraction(None) is None
    assert as_fraction(stream.time_base) == Fraction(1, 15360)
    container.close()
    assert as_fraction(Fraction(0)) is None  # as AVRational(0, 1)

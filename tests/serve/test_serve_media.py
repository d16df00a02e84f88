"""Which files browsers play, and moments that are encoded for them."""

import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from video.numbered_videos import write_video

from egovlpv2.search.manifest import VideoEntry
from egovlpv2.serve.library import Video, video_id
from egovlpv2.serve.media import Playable, encode_moment, find_playable, read_picture
from egovlpv2.serve.workers import ClientGone
from egovlpv2.video.collection import find_videos
from egovlpv2.video.container import VideoError


def video_of(path: Path, image_fps: float | None = None) -> Video:
    (source,) = find_videos([path], image_fps)
    return Video(video_id(source.name), source.name, VideoEntry.of(source, 600.0), source.duration(600.0))


def with_sound(path: Path, source: Path, codec: str) -> Path:
    """A copy of a video with a tone."""
    with av.open(str(source)) as given, av.open(str(path), "w") as out:
        pictures = out.add_stream_from_template(given.streams.video[0])
        sound = out.add_stream(codec, 48_000, layout="stereo")
        for packet in given.demux(given.streams.video[0]):
            if packet.dts is not None:
                packet.stream = pictures
                out.mux(packet)
        for i in range(40):
            tone = np.tile(np.sin(np.arange(1024) / 20).astype(np.float32), (2, 1))
            frame = av.AudioFrame.from_ndarray(tone, "fltp", "stereo")
            frame.sample_rate, frame.pts = 48_000, i * 1024
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return path


@pytest.mark.parametrize("name, codec, kind", [
    ("a.mp4", "libx264", "video/mp4"), ("a.m4v", "libx264", "video/mp4"), ("a.webm", "libvpx-vp9", "video/webm"),
    ("a.webm", "libvpx", "video/webm"), ("a.mp4", "mpeg4", None), ("a.mkv", "libx264", None), ("a.avi", "mpeg4", None),
    ("a.mov", "libx264", None), ("a.mp4", "libx265", None)])
def test_files_that_browsers_play(tmp_path: Path, name: str, codec: str, kind: str | None) -> None:
    try:
        path = write_video(tmp_path / name, 40, 20, codec=codec)
    except (av.FFmpegError, ValueError):
        pytest.skip(f"this FFmpeg has no {codec}")
    found = find_playable(video_of(path), 0.5, 1.5)
    assert found == (None if kind is None else Playable(path, kind, 0.0))


@pytest.mark.parametrize("codec, plays", [("aac", True), ("ac3", False)])
def test_sounds_that_browsers_play(tmp_path: Path, codec: str, plays: bool) -> None:
    silent = write_video(tmp_path / "silent.mp4", 40, 20)
    video = video_of(with_sound(tmp_path / "heard.mp4", silent, codec))
    assert (find_playable(video, 0, 1) is not None) == plays
    out = encode_moment(video, 0.0, 0.5, tmp_path / "out" / "clip.mp4", lambda: None)
    with av.open(str(out)) as container:
        assert [stream.codec_context.name for stream in container.streams] == ["h264", "aac"]


def test_a_file_with_another_name_or_one_that_changes_is_looked_at_anew(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 40, 20)
    video = video_of(path)
    assert find_playable(video, 0, 1)
    shutil.copy(write_video(tmp_path / "b.avi", 40, 20, codec="mpeg4"), path)
    assert find_playable(video, 0, 1) is None
    path.write_bytes(b"no video" * 100)
    with pytest.raises(VideoError, match="^a.mp4 can't be opened"):
        find_playable(video, 0, 1)


def test_pictures_as_a_video(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for i in range(12):
        Image.new("RGB", (64, 48), (20 * i, 0, 0)).save(tmp_path / "pictures" / f"{i:03}.png")
    video = video_of(tmp_path / "pictures", 4.0)
    assert find_playable(video, 0, 1) is None
    out = encode_moment(video, 1.0, 3.0, tmp_path / "clip.mp4", lambda: None)
    with av.open(str(out)) as container:
        assert float(container.duration or 0) / av.time_base == 2.0 and container.streams.video[0].frames == 8
    assert read_picture(video, 1.1, 24).startswith(b"\xff\xd8")


def test_encoding_ends_when_nobody_waits_for_it(tmp_path: Path) -> None:
    video = video_of(write_video(tmp_path / "a.mp4", 200, 20))
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise ClientGone

    with pytest.raises(ClientGone):
        encode_moment(video, 0.0, 10.0, tmp_path / "out" / "clip.mp4", check)
    assert len(calls) == 2 and list((tmp_path / "out").iterdir()) == []

"""Clips that the file system refuses are failures of those clips."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video.numbered_videos import write_video

from egovlpv2.data_modules import clips
from egovlpv2.data_modules.clips import ClipReader, read_or_replace
from egovlpv2.video.container import VideoError


@pytest.mark.parametrize("make", [lambda folder: ClipReader(folder, 2, 16),
                                  lambda folder: ClipReader(folder, 2, 16, 4.0)])
@pytest.mark.parametrize("name", ["a" * 300, "zero\0byte"])
def test_names_that_no_file_can_have(tmp_path: Path, make: Callable[[Path], ClipReader], name: str) -> None:
    with pytest.raises(VideoError):
        make(tmp_path).evaluate(name, 0.0, 1.0)
    with pytest.raises(VideoError):
        make(tmp_path).train(name, 0.0, 1.0, np.random.default_rng(0))


def test_a_refused_file_is_replaced_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(clips, "read_chunks", refuse)
    monkeypatch.setattr(clips, "video_info", refuse)
    reader, good = ClipReader(tmp_path, 2, 16, 4.0), np.zeros(3)
    row, read, failures = read_or_replace(0, 5, np.random.default_rng(0),
                                          lambda i: good if i else reader.evaluate("v", 0, 1))
    assert row and read is good and {failure.video for failure in failures} == {"v"}
    assert failures[0].reason == f"{tmp_path / 'v'} can't be read (Permission denied): check its name and permissions"


@pytest.mark.parametrize("video", ["../secret.mp4", "/etc/hostname", "a/../../secret.mp4"])
def test_a_video_outside_the_folder_is_not_read(tmp_path: Path, video: str) -> None:
    write_video(tmp_path / "secret.mp4", count=4)
    reader = ClipReader(tmp_path / "videos", 2, 32)
    with pytest.raises(VideoError, match="of an annotation would lie outside .*videos: name it by its path in there"):
        reader.evaluate(video, 0, 0.2)
    with pytest.raises(VideoError, match="would lie outside"):
        ClipReader(tmp_path / "videos", 2, 32, 8.0).evaluate(video, 0, 0.2)

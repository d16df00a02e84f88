"""A file that can't be read: every reader says why, in one line with the path."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from egovlpv2.checkpoints.head_weights import read_answer_head, read_summary_head
from egovlpv2.checkpoints.weights import load_backbone
from egovlpv2.features.files import FeatureFolder, read_features
from egovlpv2.features.queries import read_queries
from egovlpv2.search.manifest import read_manifest
from egovlpv2.video.collection import find_videos
from egovlpv2.video.decode import video_info

Reader = Callable[[Path], Any]
READERS: dict[str, tuple[str, Reader]] = {
    "ckpt": (".ckpt", load_backbone), "pth": (".pth", load_backbone), "safetensors": (".safetensors", load_backbone),
    "head": (".ckpt", read_summary_head), "answers": (".safetensors", read_answer_head),
    "features": (".safetensors", read_features), "queries": (".json", lambda path: read_queries([str(path)])),
    "video": (".mp4", video_info), "videos": (".mp4", lambda path: video_info(find_videos([path])[0].files[0])),
}
FOLDERS: dict[str, Reader] = {"features": FeatureFolder, "index": read_manifest}


@pytest.fixture
def shut(tmp_path: Path) -> Iterator[Path]:
    """A folder that this process may not enter, as root may enter any."""
    folder, user = tmp_path / "shut", os.geteuid()
    folder.mkdir()
    yield folder
    os.seteuid(user)
    folder.chmod(0o700)


def refused(read: Reader, path: Path, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", READERS)
def test_a_folder_a_dangling_link_and_an_empty_file_are_named_as_such(name: str, tmp_path: Path) -> None:
    suffix, read = READERS[name]
    path = tmp_path / f"empty{suffix}"
    path.touch()
    refused(read, path, "empty")
    path = tmp_path / f"link{suffix}"
    path.symlink_to("/nowhere/x")
    refused(read, path, "link.* /nowhere/x")
    path = tmp_path / f"circle{suffix}"
    path.symlink_to(path.name)
    refused(read, path, "Too many levels of symbolic links")
    path = tmp_path / f"folder{suffix}"
    path.mkdir()
    refused(read, path, "is a folder|Is a directory|is not a file|holds no videos")


@pytest.mark.parametrize("name", READERS)
def test_a_file_without_permission_is_not_called_missing_or_damaged(name: str, shut: Path) -> None:
    suffix, read = READERS[name]
    (shut / f"a{suffix}").write_bytes(b"{}" * 600)
    shut.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    refused(read, shut / f"a{suffix}", "Permission denied")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_path_that_is_not_a_folder_is_called_what_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(FOLDERS[name], tmp_path / "file", "Not a directory")
    (tmp_path / "link").symlink_to("/nowhere/x")
    refused(FOLDERS[name], tmp_path / "link", "a link to /nowhere/x, which is missing")

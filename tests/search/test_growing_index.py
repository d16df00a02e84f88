"""`egovlpv2 index` again: new and changed videos are done, the others stay, and what is gone is named."""

import fcntl
import json
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as WaitedTooLong  # the built-in one only from Python 3.11 on
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from features.test_extract import write
from search.searching import QUERY, index, search

from egovlpv2 import Index, build_index
from egovlpv2.features.encoder import FeatureEncoder
from egovlpv2.search import manifest as manifest_module
from egovlpv2.search.manifest import add, read_manifest
from egovlpv2.video.collection import find_videos


def test_it_grows_with_new_videos_alone(videos: Path, weights: Path, made: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    stamp = (made / "a.safetensors").stat().st_mtime_ns
    write(videos / "d.mp4", 77, 30)
    capsys.readouterr()
    index(videos, weights, made)
    out = capsys.readouterr().out
    assert "1 of 4 videos written" in out and "11 windows of 4 videos" in out
    assert (made / "a.safetensors").stat().st_mtime_ns == stamp
    assert "d" in {moment.video for moment in Index(made, device="cpu").search(QUERY, top=99)}


def test_numbers_of_numpy_are_written(videos: Path, weights: Path, tmp_path: Path) -> None:
    numbers: dict[str, Any] = {"seconds": np.float32(1), "num_frames": np.int64(2), "chunk_seconds": np.float32(600),
                               "max_tokens": np.int64(12), "image_fps": np.float32(5)}
    report = build_index([str(videos)], str(weights), tmp_path / "index", num_workers=0, device="cpu", **numbers)
    assert report.written == 3 and read_manifest(tmp_path / "index").max_tokens == 12


def test_part_of_the_videos_leaves_the_rest_in(videos: Path, weights: Path, made: Path) -> None:
    index(write(videos.parent / "more" / "e.mp4", 9), weights, made)
    assert set(json.loads((made / "index.json").read_text())["videos"]) == set("abce")


def test_a_video_that_changed_is_told_and_done_anew(videos: Path, weights: Path, made: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    write(videos / "b.mp4", 500, 30)
    capsys.readouterr()
    search(made, "--rerank", 9)
    out = capsys.readouterr().out
    assert out.count("no pictures:") == 1 and "b.mp4 has changed since it was indexed" in out
    index(videos, weights, made)
    assert "1 of 3 videos written" in capsys.readouterr().out
    search(made, "--rerank", 9)
    assert "no pictures" not in capsys.readouterr().out


def test_a_video_that_is_gone_is_told(videos: Path, made: Path, tmp_path: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    (videos / "a.mp4").unlink()
    capsys.readouterr()
    search(made, "--rerank", 9)
    out = capsys.readouterr().out
    assert "a.mp4 is not there any more" in out and " a " in out
    assert "a.mp4 is not there any more" in (tmp_path / "page.html").read_text()


def test_the_length_of_chunks_is_nothing_to_a_single_file(videos: Path, weights: Path, made: Path,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    index(videos, weights, made, "--chunk-seconds", 20)
    assert "0 of 3 videos written" in capsys.readouterr().out


def test_a_video_that_moved_keeps_its_embeddings(videos: Path, weights: Path, made: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    videos.rename(videos.parent / "moved")
    capsys.readouterr()
    index(videos.parent / "moved", weights, made)
    search(made)
    out = capsys.readouterr().out
    assert "0 of 3 videos written" in out and "no pictures" not in out


def test_two_videos_of_one_name_are_refused(videos: Path, weights: Path, made: Path) -> None:
    other = write(videos.parent / "other" / "a.mp4", 900)
    with pytest.raises(SystemExit, match=r"has a video 'a' already, .*in/a.mp4, and .*other/a.mp4 is another"):
        index(other, weights, made)
    assert Index(made, device="cpu").manifest.videos["a"].files == (str(videos / "a.mp4"),)


def test_one_process_at_a_time_writes_the_list(made: Path, videos: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with (made / "index.json.lock").open("ab") as other:  # closed, and so unlocked, whatever happens inside
            fcntl.flock(other, fcntl.LOCK_EX)
            adding = pool.submit(add, made, read_manifest(made), find_videos([videos]), 600.0)
            with pytest.raises(WaitedTooLong):
                adding.result(timeout=0.3)
        assert adding.result(timeout=5) is None


def test_chunks_are_one_video(weights: Path, tmp_path: Path) -> None:
    for k in range(3):
        write(tmp_path / "in" / "long" / f"{k}.mp4", 60 * k, 40)
    index(tmp_path / "in", weights, tmp_path / "index", "--chunk-seconds", 4)
    searched = Index(tmp_path / "index", device="cpu")
    moments = searched.search(QUERY, top=99, rerank=99)
    assert len(searched.store) == 11 and all(moment.match is not None for moment in moments)
    assert max(moment.end for moment in moments) > 8
    assert searched.frames(moments[0], count=5).shape == (5, 3, 48, 64)


def test_a_video_that_got_another_chunk_is_done_anew(weights: Path, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in" / "long" / "0.mp4", 0, 40)
    index(tmp_path / "in", weights, tmp_path / "index", "--chunk-seconds", 4)
    write(tmp_path / "in" / "long" / "1.mp4", 90, 40)
    capsys.readouterr()
    index(tmp_path / "in", weights, tmp_path / "index", "--chunk-seconds", 4)
    assert "1 of 1 videos written" in (out := capsys.readouterr().out) and "7 windows of 1 videos" in out


def test_numbers_of_numpy_make_an_index(videos: Path, weights: Path, tokenizer: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"num_frames": np.int64(4), "seconds": np.float32(2), "max_tokens": np.int64(12),
                             "tokenizer": Path(tokenizer)}
    report = build_index([str(videos)], str(weights), tmp_path / "index", num_workers=0, **given)
    assert report.written == 3 and not report.failures


def test_a_video_that_changes_while_it_is_read_is_not_taken(videos: Path, weights: Path, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """Its embeddings would be partly of the old and partly of the new one."""
    encode, out = FeatureEncoder.encode, tmp_path / "index"

    def encode_and_change(self: FeatureEncoder, *args: Any) -> Any:
        write(videos / "c.mp4", 500, 20)
        return encode(self, *args)

    monkeypatch.setattr(FeatureEncoder, "encode", encode_and_change)
    with pytest.raises(SystemExit, match=r"1 of 1 videos failed:\n  .*c.mp4 has changed while it was read: run the"):
        index(videos / "c.mp4", weights, out)
    monkeypatch.undo()
    assert not list(out.glob("*.safetensors")) and not list(out.glob("*.partial"))
    index(videos / "c.mp4", weights, out)
    assert Index(out, device="cpu").store.names == ["c"]


def test_the_settings_of_queries_stay(videos: Path, weights: Path, made: Path) -> None:
    write(videos / "d.mp4", 77, 30)
    build_index([str(videos)], str(weights), made, num_workers=0, device="cpu")
    assert read_manifest(made).max_tokens == 12
    build_index([str(videos)], str(weights), made, num_workers=0, device="cpu", max_tokens=9)
    assert read_manifest(made).max_tokens == 9


def test_an_index_is_open_to_readers_while_a_video_is_embedded_anew(videos: Path, weights: Path, made: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a writer has done so far: each of its files is looked at before the next is written."""
    seen = []
    real = manifest_module.write_json

    def look(path: Path, content: Any) -> None:
        seen.append(Index(made, device="cpu").store.names)
        real(path, content)
        seen.append(Index(made, device="cpu").store.names)

    monkeypatch.setattr(manifest_module, "write_json", look)
    write(videos / "b.mp4", 500, 30)
    index(videos, weights, made)
    assert seen[0] == seen[-1] == ["a", "b", "c"] and ["a", "c"] in seen and len(seen) >= 6


def test_a_wrong_length_of_chunks_costs_no_embeddings(weights: Path, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(3):
        write(tmp_path / "in" / "long" / f"{k}.mp4", 60 * k, 40)
    index(tmp_path / "in", weights, tmp_path / "index", "--chunk-seconds", 4)
    before = read_manifest(tmp_path / "index")
    capsys.readouterr()
    index(tmp_path / "in", weights, tmp_path / "index")
    assert "0 of 1 videos written" in capsys.readouterr().out and read_manifest(tmp_path / "index") == before
    opened = Index(tmp_path / "index", device="cpu")
    assert opened.frames(opened.search(QUERY)[0]).any()


@pytest.mark.parametrize("damage", ["another chunk, and a wrong length of them", "not a video"])
def test_a_changed_video_that_cant_be_read_keeps_its_embeddings(damage: str, weights: Path, tmp_path: Path) -> None:
    for k in range(2):
        write(tmp_path / "in" / "long" / f"{k}.mp4", 60 * k, 40)
    index(tmp_path / "in", weights, tmp_path / "index", "--chunk-seconds", 4)
    before, stamp = read_manifest(tmp_path / "index"), (tmp_path / "index" / "long.safetensors").stat().st_mtime_ns
    if damage == "not a video":
        (tmp_path / "in" / "long" / "1.mp4").write_bytes(b"no video")
    else:
        write(tmp_path / "in" / "long" / "2.mp4", 120, 40)
    length = ["--chunk-seconds", 4] if damage == "not a video" else []
    with pytest.raises(SystemExit, match=r"1 of 1 videos failed:\n  .*long"):
        index(tmp_path / "in", weights, tmp_path / "index", *length)
    assert read_manifest(tmp_path / "index") == before
    assert (tmp_path / "index" / "long.safetensors").stat().st_mtime_ns == stamp

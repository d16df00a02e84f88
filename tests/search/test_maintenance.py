"""`egovlpv2 index --check`: an index that is damaged is told, and repaired where it can be."""

import json
import os
import shutil
from pathlib import Path

import pytest
from search.searching import index, search
from search.test_codes import add_video, searches

from egovlpv2 import Index, build_index
from egovlpv2.cli import main as cli
from egovlpv2.search.codes import update_codes
from egovlpv2.search.maintenance import check_index
from egovlpv2.search.manifest import FILE, read_manifest
from egovlpv2.search.store import EmbeddingStore, open_store


def check(made: Path) -> None:
    cli(["index", "--check", "--out", str(made)])


def test_a_whole_index(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    capsys.readouterr()
    check(made)
    assert capsys.readouterr().out == f"{made}: the embeddings of 3 videos are whole\n"
    assert {path: path.stat().st_mtime_ns for path in made.iterdir()} == before


@pytest.mark.parametrize("same_time", [True, False])
def test_a_damaged_video_is_set_aside_and_done_again(same_time: bool, made: Path, videos: Path, weights: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    path = made / "b.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # a small change of one number, which is still one
    stamp = path.stat()
    path.write_bytes(content)
    if same_time:
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(SystemExit, match=r"run `egovlpv2 index` again on 1 videos:\n  b: b.safetensors is damaged"):
        check(made)
    assert not path.exists() and (made / "b.safetensors.damaged").exists()
    assert Index(made, device="cpu").store.names == ["a", "c"]
    capsys.readouterr()
    index(videos, weights, made)
    assert "1 of 3 videos written" in capsys.readouterr().out
    check(made)
    assert Index(made, device="cpu").store.names == ["a", "b", "c"]


def test_a_file_cut_short(made: Path) -> None:
    path = made / "a.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"a.safetensors is cut short"):
        Index(made, device="cpu")
    assert check_index(made).failures["a"] == "a.safetensors is damaged: its content is not what was written"
    assert Index(made, device="cpu").store.names == ["b", "c"]


def test_what_a_killed_process_leaves_is_recorded(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((made / FILE).read_text())
    del manifest["embeddings"]["c"]
    (made / FILE).write_text(json.dumps(manifest))
    (made / "d.safetensors.partial").write_bytes(b"x")
    assert Index(made, device="cpu").store.names == ["a", "b"]
    capsys.readouterr()
    check(made)
    assert "repaired: the embeddings of c were finished, and are recorded now" in capsys.readouterr().out
    assert Index(made, device="cpu").store.names == ["a", "b", "c"] and not list(made.glob("*.partial"))


def test_embeddings_that_are_gone(made: Path) -> None:
    (made / "a.safetensors").unlink()
    assert Index(made, device="cpu").store.names == ["b", "c"]  # as before the check
    report = check_index(made)
    assert report.repaired == ["a is not searched any more: its embeddings are gone"]
    assert report.failures == {"a": "it has no embeddings"} and set(read_manifest(made).embeddings) == {"b", "c"}


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_damaged_codes_are_made_anew(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egovlpv2.search.store.FEW_ROWS", 0)
    for seed, name in enumerate("abc"):
        add_video(tmp_path, name, seed)
    update_codes(tmp_path, "pq")
    found = searches(open_store(tmp_path)[1])
    (path,) = tmp_path.glob("codes-*.faiss")
    path.unlink() if damage == "gone" else path.write_bytes(b"x" + path.read_bytes()[1:])
    report = check_index(tmp_path)
    assert report.repaired == [f"the codes in {path.name} were damaged or gone"] and not report.failed
    assert searches(open_store(tmp_path)[1]) == found and len(list(tmp_path.glob("codes-*"))) == 1


def test_a_copy_is_as_good(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files have other times."""
    monkeypatch.setattr("egovlpv2.search.store.FEW_ROWS", 0)
    for seed, name in enumerate("xyz"):
        add_video(tmp_path / "index2", name, seed)
    update_codes(tmp_path / "index2", "pq")
    for source in (made, tmp_path / "index2"):
        copy = source.with_name(f"{source.name}-copy")
        shutil.copytree(source, copy, copy_function=shutil.copyfile)
        manifest, store = open_store(copy)
        assert store.names == EmbeddingStore(source).names and (store.codes is not None) == (source != made)
        if source != made:
            assert store.codes is not None and store.codes.videos == {0, 1, 2}
            assert searches(store) == searches(open_store(source)[1])
        report = check_index(copy)
        assert not report.failures and not report.repaired
        assert all(record.unchanged(copy / f"{name}.safetensors")
                   for name, record in read_manifest(copy).embeddings.items())


def test_an_index_of_an_earlier_version(made: Path, videos: Path, weights: Path) -> None:
    manifest = json.loads((made / FILE).read_text())
    for name in ("embeddings", "codes"):
        del manifest[name]
    (made / FILE).write_text(json.dumps(manifest))
    assert Index(made, device="cpu").store.names == ["a", "b", "c"]
    index(videos, weights, made)
    assert set(read_manifest(made).embeddings) == {"a", "b", "c"}


@pytest.mark.parametrize("options, message", [
    (["--check", "--store", "pq"], "--check takes no videos, --weights or --store"),
    (["in", "--check"], "--check takes no videos"),
    ([], "give videos to embed, --store or --check"),
    (["in"], "give the weights to embed the videos with: --weights W"),
])
def test_options_that_do_not_go_together(options: list[str], message: str, made: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=message):
        cli(["index", *options, "--out", str(made)])


def test_a_folder_that_is_no_index(tmp_path: Path) -> None:
    for options in (["--check"], ["--store", "pq"]):
        with pytest.raises(SystemExit, match="is not an index"):
            cli(["index", *options, "--out", str(tmp_path / "nothing")])
    assert not (tmp_path / "nothing").exists()


def test_codes_by_the_command(made: Path, videos: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"--store pq: .* has \d+ windows, and codes are learned from 1,000"):
        cli(["index", "--store", "pq", "--out", str(made)])
    cli(["index", str(videos), "--weights", str(weights), "--out", str(made.parent / "fine"), "--device", "cpu",
         "--every", "0.004", "--store", "pq", "--max-tokens", "12", "--num-workers", "0"])
    assert "windows of 3 videos" in capsys.readouterr().out
    assert open_store(made.parent / "fine")[1].codes is not None
    search(made.parent / "fine")
    report = build_index(out=made.parent / "fine", store="float16")
    assert open_store(made.parent / "fine")[1].codes is None and "0 of 0 videos written" in str(report)


def test_embeddings_of_another_index_are_set_aside(made: Path, videos: Path, weights: Path, tmp_path: Path) -> None:
    index(videos, weights, tmp_path / "other", "--seconds", 1)
    shutil.copy(tmp_path / "other" / "b.safetensors", made / "extra.safetensors")
    assert Index(made, device="cpu").store.names == ["a", "b", "c"]
    assert "extra.safetensors is of another index (window " in check_index(made).failures["extra"]
    assert (made / "extra.safetensors.damaged").exists() and Index(made, device="cpu").store.names == ["a", "b", "c"]


def test_what_nothing_refers_to_is_removed(made: Path) -> None:
    for name in ("codes-0123456789abcdef.faiss", "chance-0123456789abcdef.npy"):
        (made / name).write_bytes(b"x")
    check_index(made)
    assert not list(made.glob("*-0123456789abcdef.*")) and len(list(made.glob("chance-*.npy"))) == 1


def test_an_index_that_has_become_too_small_for_codes_does_without(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        add_video(tmp_path, name, seed)
    update_codes(tmp_path, "pq")
    (tmp_path / "b.safetensors").write_bytes(b"x")
    report = check_index(tmp_path)
    assert set(report.failures) == {"b"} and not list(tmp_path.glob("codes-*"))
    assert open_store(tmp_path)[1].codes is None

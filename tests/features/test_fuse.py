"""`egovlpv2 fuse`: features fused from trunks equal those of `egovlpv2 extract`, without partial files."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from video.numbered_videos import write_video

from egovlpv2.batch import Text
from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.cli import main as cli
from egovlpv2.features import FeatureFolder, fuse, read_features
from egovlpv2.features.locks import claim
from egovlpv2.model.backbone import Backbone
from egovlpv2.tokenization import load_tokenizer, tokenize
from egovlpv2.video.decode import read_frames
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import EvalTransform

TEXTS = {"a": ["w1 w2 w3", "w7", "w1 w9 w9 w4 w8"], "b": ["w5 w6"]}
MAX_WORDS = 9
WINDOWS = {"a": 6, "b": 4}  # windows of each video


class Made(NamedTuple):
    """Two videos, their queries, a model and its trunks of them."""

    backbone: Backbone
    weights: Path
    videos: Path
    queries: Path
    trunks: Path


@pytest.fixture
def make(make_backbone: Callable[..., Backbone], tokenizer: str, tmp_path: Path) -> Callable[..., Made]:
    """A function that makes a model and stores trunks."""

    def _make(**changes: Any) -> Made:
        made = Made(make_backbone(tokenizer=tokenizer, **changes), tmp_path / "weights.safetensors",
                    tmp_path / "videos", tmp_path / "queries.json", tmp_path / "trunks")
        save_backbone(made.backbone, made.weights)
        made.videos.mkdir()
        draw = np.random.default_rng(0)
        for name, count in (("a", 30), ("b", 20)):  # ten frames a second
            write_video(made.videos / f"{name}.mp4", fps=10, pictures=[
                np.kron(draw.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(count)])
        made.queries.write_text(json.dumps(TEXTS))
        cli(["extract", *extraction(made, made.trunks, "trunk")])
        return made

    return _make


@pytest.fixture
def made(make: Callable[..., Made]) -> Made:
    return make()


def extraction(made: Made, out: Path, kind: str) -> list[str]:
    asked = [] if kind in ("trunk", "dual") else ["--queries", str(made.queries), "--max-tokens", str(MAX_WORDS)]
    return [str(made.videos), "--out", str(out), "--kind", kind, "--weights", str(made.weights), "--device", "cpu",
            "--fps", "10", "--window", "8", "--stride", "4", "--batch-size", "3", "--num-workers", "0", *asked]


def command(made: Made, out: Path, *more: object) -> list[str]:
    return ["fuse", str(made.trunks), "--out", str(out), "--queries", str(made.queries), "--weights",
            str(made.weights), "--device", "cpu", "--batch-size", "4", "--max-tokens", str(MAX_WORDS), *map(str, more)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def clips(made: Made, name: str) -> Tensor:
    """Read the frames of all windows of a video."""
    path, size = made.videos / f"{name}.mp4", EvalTransform(32)
    return torch.stack([read_frames(path, uniform_times(0.4 * k, 0.4 * k + 0.8, 4), size).frames
                        for k in range(WINDOWS[name])])


def near(found: Tensor, expected: Tensor) -> None:
    """Trunks are stored as float16."""
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected.float(), atol=1e-2, rtol=1e-2)


def refused(arguments: list[str], match: str) -> None:
    with pytest.raises(SystemExit, match=match) as end:
        cli(arguments)
    assert str(end.value).startswith("egovlpv2 fuse: error: ")


@pytest.mark.parametrize("changes", [{}, {"fusion_cls": "own"}, {"fusion": "stacked"}])
@pytest.mark.parametrize("kind", ["fused", "transformed"])
def test_stored_trunks_give_what_extract_gives_at_once(make: Callable[..., Made], changes: dict[str, str], kind: str,
                                                       tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make(**changes)
    cli(["extract", *extraction(made, tmp_path / "direct", kind)])
    capsys.readouterr()
    cli(command(made, tmp_path / "later", "--kind", kind))
    assert "2 of 2 videos written" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path / "later")) == ["a.safetensors", "b.safetensors"]
    direct, later = FeatureFolder(tmp_path / "direct"), FeatureFolder(tmp_path / "later")
    assert direct.recipe == later.recipe and later.recipe.kind == kind
    tokens = load_tokenizer(made.backbone.config.text.tokenizer)
    for name, texts in TEXTS.items():
        one, two = direct.read(name), later.read(name)
        assert (two.queries, two.duration) == (texts, one.duration)
        assert two.values.shape == (WINDOWS[name], len(texts), 24)
        spread = two.values.float().std(1).mean() if len(texts) > 1 else 1.0
        assert two.values.float().std(0).mean() > 0.05 and spread > 0.05  # neither windows nor queries are alike
        near(two.values, one.values)
        assert torch.equal(two.words, one.words) and torch.equal(two.word_mask, one.word_mask)
        text = tokenize(tokens, texts, MAX_WORDS)
        assert torch.equal(two.word_mask, text["attention_mask"].bool())
        assert one.unfused.shape == one.unfused_cls.shape == (0, 0)
        with torch.no_grad():
            near(two.words, made.backbone.text_features(text))
            trunk = made.backbone.trunk_video(clips(made, name), gate=True)
            for i in range(len(texts)):
                asked = Text(**{key: ids[i : i + 1].expand(WINDOWS[name], -1) for key, ids in text.items()})
                cls = made.backbone.fused_features(clips(made, name), asked)
                near(two.values[:, i], made.backbone.fused_video_transform(cls) if kind == "transformed" else cls)
        near(two.unfused, trunk[:, 1:].mean(1))
        near(two.unfused_cls, trunk[:, 0])


def test_it_is_the_own_token_that_sees_the_words(make: Callable[..., Made]) -> None:
    made = make(fusion_cls="own")
    with torch.no_grad():
        closed, gate_open = (made.backbone.trunk_video(clips(made, "a"), gate=gate)[:, 0] for gate in (False, True))
    stored = FeatureFolder(made.trunks).read("a").values[:, 0]
    near(stored, gate_open)
    assert (stored.float() - closed).abs().mean() > 0.05


def test_some_queries_are_read_in_the_order_asked_for(made: Made, tmp_path: Path) -> None:
    cli(command(made, tmp_path / "out"))
    folder = FeatureFolder(tmp_path / "out")
    everything = folder.read("a")
    lengths = everything.word_mask.sum(1).tolist()
    assert len(set(lengths)) == 3
    for rows in ([2, 0], [1], [0, 1, 2], [1, 1]):
        asked = [TEXTS["a"][row] for row in rows]
        some = folder.read("a", asked)
        assert some.queries == asked and torch.equal(some.values, everything.values[:, rows])
        assert torch.equal(some.words, everything.words[rows])
        assert some.word_mask.sum(1).tolist() == [lengths[row] for row in rows]
        assert torch.equal(some.unfused, everything.unfused) and some.recipe == everything.recipe
    none = folder.read("a", [])
    assert none.queries == [] and none.values.shape == (6, 0, 24) and none.words.shape[0] == 0
    with pytest.raises(ValueError, match=r"a.safetensors lacks the query 'w5 w6': extract, or fuse, with"):
        folder.read("a", ["w7", "w5 w6"])


def test_columns_are_read_of_features_of_queries_only(made: Made, tmp_path: Path) -> None:
    cli(["extract", *extraction(made, tmp_path / "dual", "dual"), "--queries", str(made.queries)])
    with pytest.raises(ValueError, match="a.safetensors holds features of kind dual, not one for each query"):
        read_features(tmp_path / "dual" / "a.safetensors", ["w7"])


@pytest.mark.parametrize("size", [1, 4, 6, 100])
def test_trunks_come_in_pieces(made: Made, size: int) -> None:
    folder = FeatureFolder(made.trunks)
    whole, pieces = folder.read("a").values, list(folder.pieces("a", size))
    assert whole.shape == (6, 4 * 4 + 1, 24) and folder.count("a") == 6 and folder.duration("a") == pytest.approx(3.0)
    assert [len(piece) for piece in pieces] == [size] * (6 // size) + [6 % size] * (6 % size > 0)
    assert torch.equal(torch.cat(pieces), whole)


def test_the_size_of_the_pieces_changes_nothing(made: Made, tmp_path: Path) -> None:
    for size in (1, 100):
        cli(command(made, tmp_path / str(size), "--batch-size", size))
    one, all_at_once = (read_features(tmp_path / str(size) / "a.safetensors") for size in (1, 100))
    torch.testing.assert_close(one.values.float(), all_at_once.values.float(), atol=2e-3, rtol=2e-3)
    assert torch.equal(one.unfused, all_at_once.unfused) and torch.equal(one.unfused_cls, all_at_once.unfused_cls)


def test_what_is_finished_stays(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    cli(command(made, out))
    whole, stamp = contents(out), (out / "a.safetensors").stat().st_mtime_ns
    (out / "b.safetensors").unlink()
    other = claim(out / "b.safetensors")  # another process is at it
    capsys.readouterr()
    cli(command(made, out))
    assert "0 of 2 videos written" in (printed := capsys.readouterr().out) and "2 already there or being wr" in printed
    other.release()
    cli(command(made, out))
    assert "1 of 2 videos written" in capsys.readouterr().out
    assert contents(out) == whole and (out / "a.safetensors").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("problem", [RuntimeError("a mistake of ours"), KeyboardInterrupt()])
def test_a_stop_in_the_middle_leaves_nothing_half_written(made: Made, tmp_path: Path, problem: BaseException,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    out, look, calls = tmp_path / "out", fuse.fuse_with_queries, []

    def stop(*args: Any) -> Tensor:
        calls.append(len(args[2]))
        if len(calls) == 4:  # the second of two pieces of the second video
            assert (out / "b.safetensors.partial").exists()
            raise problem
        return look(*args)

    with monkeypatch.context() as patch:
        patch.setattr(fuse, "fuse_with_queries", stop)
        with pytest.raises(SystemExit if isinstance(problem, KeyboardInterrupt) else RuntimeError):
            cli(command(made, out, "--batch-size", 3))
    assert calls == [3, 3, 3, 1] and os.listdir(out) == ["a.safetensors"]
    cli(command(made, out, "--batch-size", 3))
    cli(command(made, tmp_path / "uninterrupted", "--batch-size", 3))
    assert contents(out) == contents(tmp_path / "uninterrupted") and len(contents(out)) == 2


def test_videos_that_nothing_is_asked_of_are_left_out(made: Made, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    made.queries.write_text(json.dumps({"b": TEXTS["b"], "elsewhere": ["w1"]}))
    cli(command(made, tmp_path / "out"))
    assert "1 of 1 videos written" in capsys.readouterr().out and os.listdir(tmp_path / "out") == ["b.safetensors"]


def test_what_does_not_go_together_is_refused(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = made.backbone
    other.video_tower.cls_token.data += 1
    save_backbone(other, tmp_path / "other.safetensors")
    refused(command(made, out, "--weights", tmp_path / "other.safetensors"),
            r"trunks is of the weights \w{16} and .*other.safetensors is \w{16}: give those weights, or extract anew")
    cli(["extract", *extraction(made, tmp_path / "fused", "fused")])
    refused(command(made._replace(trunks=tmp_path / "fused"), out),
            "fused holds features of kind fused: `egovlpv2 extract --kind trunk` writes")
    refused(command(made._replace(trunks=tmp_path / "none"), out), "none holds no feature files")
    refused(command(made, made.trunks), r"another recipe \(there and here: kind trunk and transformed\)")
    refused(command(made, out, "--queries", tmp_path / "none.json"), "none.json can't be read")
    for name in ("batch-size", "max-tokens"):
        refused(command(made, out, f"--{name}", 0), f"--{name} 0: give a (whole|finite) number")
    made.queries.write_text('{"elsewhere": ["w1"]}')
    refused(command(made, out), "no query is of any of the 2 videos in .*trunks: the queries are of 'elsewhere'.*'a'")
    made.queries.write_text('{"a": []}')
    refused(command(made, out), "no query is of any of the 2 videos")
    assert not out.exists() and set(contents(made.trunks)) == {"a.safetensors", "b.safetensors"}


def test_finished_files_that_lack_a_query_are_refused(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cli(command(made, out))
    before = contents(out)
    made.queries.write_text(json.dumps(TEXTS | {"b": ["w9 w9", *TEXTS["b"]]}))
    refused(command(made, out), "b.safetensors lacks 1 queries of its video, 'w9 w9' for one: give another folder")
    refused(command(made, out, "--kind", "fused"), r"another recipe \(there and here: kind transformed and fused\)")
    assert contents(out) == before
    made.queries.write_text(json.dumps({"a": TEXTS["a"][:1]}))  # fewer are all there
    cli(command(made, out))
    assert contents(out) == before


def test_a_trunk_cut_short_is_named(made: Made, tmp_path: Path) -> None:
    path = made.trunks / "b.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused(command(made, tmp_path / "out"), "b.safetensors is cut short or is not a feature file")


def test_a_damaged_trunk_stops_no_other(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = made.trunks / "a.safetensors", tmp_path / "out"
    path.write_bytes(path.read_bytes()[:-2] + np.array(np.nan, dtype="<f2").tobytes())
    with pytest.raises(SystemExit, match="1 of 2 videos failed:\n.*a.safetensors: the feature of window 5"):
        cli(command(made, out))
    assert os.listdir(out) == ["b.safetensors"] and "1 of 2 videos written" in capsys.readouterr().out

"""NLQ: clips of features with their queries, windows as positions, and what can't be used is counted or named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import only
from nlq_files import clip, row, write_official
from torch import Tensor

from egovlpv2.batch import QueryBatch
from egovlpv2.data_modules.loaders import PAD_INDEX
from egovlpv2.data_modules.nlq import NLQDataModule, NLQQueries
from egovlpv2.features.clips import ClipSpan, read_clip_features
from egovlpv2.features.files import FeatureFolder, FeatureWriter
from egovlpv2.features.header import Recipe

WIDTH, RATE = 4, 2  # of the features, and how many there are a second
def write_features(folder: Path, name: str, seconds: float, queries: tuple[str, ...] = (), kind: str = "fused",
                   checkpoint: str = "0" * 16) -> Path:
    """Features that tell their time: feature t of query q is t + 1000 q. Query q has q + 1 words, each of value q."""
    folder.mkdir(exist_ok=True)
    path, count, asked = folder / f"{name}.safetensors", int(seconds * RATE), len(queries)
    values = torch.arange(count)[:, None, None] + 1000.0 * torch.arange(asked)[:, None]  # (T, Q, 1)
    if kind != "fused":
        values = torch.arange(count, dtype=torch.float32)[:, None]
    words = torch.arange(asked).half()[:, None, None].expand(-1, asked, WIDTH)
    mask = torch.arange(asked) <= torch.arange(asked)[:, None]
    with path.open("wb") as file:
        recipe = Recipe(kind, WIDTH, 10.0, 20, 5, 4, 32, checkpoint)
        writer = FeatureWriter(file, recipe, seconds, count, queries, *((words, mask) if asked else ()))
        writer.append(values.expand(*values.shape[:-1], WIDTH))
        writer.finish()
    return path


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., NLQDataModule]:
    """A function that makes a data module of clips that are all in all splits."""

    def _make(*clips: dict[str, Any], **options: Any) -> NLQDataModule:
        write_official(tmp_path / "nlq_train.json", *clips), write_official(tmp_path / "nlq_val.json", *clips)
        options = {"batch_size": 2, "eval_batch_size": 2, "num_workers": 0} | options
        return NLQDataModule(str(tmp_path), str(tmp_path / "features"), **options)

    return _make


def test_a_batch(make: Callable[..., NLQDataModule], tmp_path: Path) -> None:
    write_features(tmp_path / "features", "a", 10.0, ("where?", "what?"))
    write_features(tmp_path / "features", "b", 3.0, ("what?",))
    data = make(clip("a", [row("What? ", 2, 4)]), clip("b", [row("", 0, 1)], [row(None, 0, 1), row("What?", 1.2, 9)]))
    batch = only(data)
    assert set(batch) == set(QueryBatch.__annotations__)
    assert batch["key"] == [("a", "a-0", 0), ("b", "b-1", 1)]
    assert batch["text"] == ["what?", "what?"]  # as the released code asks
    assert batch["index"].tolist() == [0, 1] and batch["duration"].tolist() == [10.0, 3.0]
    assert batch["video"].shape == (2, 256, WIDTH) and batch["video"].dtype == torch.float32
    assert batch["video_mask"].sum(1).tolist() == [20, 6] and batch["video_mask"][1, :6].all()
    assert torch.equal(batch["video"][0, :20, 0], torch.arange(1000.0, 1020.0))  # the second query of its clip
    assert torch.equal(batch["video"][1, :, 0], torch.cat([torch.arange(6.0), torch.zeros(250)]))
    assert batch["query_mask"].tolist() == [[True, True], [True, False]]  # as many words as each has
    assert batch["query"][..., 0].tolist() == [[1, 1], [0, 0]]
    assert (batch["start"].tolist(), batch["end"].tolist()) == ([4, 2], [7, 5])  # to the clip's end at most
    assert torch.equal(batch["window"], torch.tensor([[2.0, 4.0], [1.2, 9.0]]))
    assert batch["highlight"][1].nonzero().flatten().tolist() == [2, 3, 4, 5]
    assert data.counts == {"val_clips_without_queries": 0, "val_empty_queries": 2, "val_without_features": 0,
                           "val_without_length": 0, "queries": 2}


def test_features_of_clips_alone_and_of_whole_videos(tmp_path: Path) -> None:
    folder = tmp_path / "features"
    write_features(folder, "film", 30.0, kind="dual")
    write_features(folder, "own", 4.0, kind="dual")
    read = FeatureFolder(folder)
    own = read_clip_features(read, ClipSpan("own", "film", 10.0, 15.0))
    assert own.values[:, 0].tolist() == list(range(8)) and own.duration == 4.0
    part = read_clip_features(read, ClipSpan("part", "film", 10.0, 15.0))
    assert part.values[:, 0].tolist() == list(range(20, 30)) and part.duration == 5.0
    late = read_clip_features(read, ClipSpan("late", "film", 28.0, 48.0))  # a shorter video
    assert late.values[:, 0].tolist() == [56, 57, 58, 59] and late.duration == 2.0
    assert len(read_clip_features(read, ClipSpan("short", "film", 10.0, 10.1)).values) == 1
    for start in (30.0, 50.0):
        with pytest.raises(ValueError, match=f"of film last 30.0 s, and clip gone begins at {start} s: extract the wh"):
            read_clip_features(read, ClipSpan("gone", "film", start, 60.0))


def test_dual_features_serve_all_queries(make: Callable[..., NLQDataModule], tmp_path: Path) -> None:
    write_features(tmp_path / "features", "film", 30.0, ("where?", "what?"), "dual")
    batch = only(make(clip("a", [row("What?", 0, 1), row("Where?", 0, 1)], start=5.0, end=8.0)))
    assert batch["video"][:, :6, 0].tolist() == [[10, 11, 12, 13, 14, 15]] * 2 and not batch["video"][:, 6:].any()
    assert batch["query_mask"].sum(1).tolist() == [2, 1]


def test_features_are_extracted_for_other_files_of_queries_too(toy: Path) -> None:
    def files(**options: Any) -> list[str]:
        data = NLQDataModule(str(toy / "nlq"), "features", train="questions_train.json", val="questions_val.json",
                             test="synonyms_test.json", **options)
        return [Path(path).name for path in data.query_files]

    own = ["questions_train.json", "questions_val.json", "synonyms_test.json"]
    assert files() == own
    assert files(more_queries=["nlq_test.json", "questions_val.json"]) == [*own, "nlq_test.json"]
    with pytest.raises(ValueError, match="There is no file .*gone.json"):
        files(more_queries=["gone.json"])


def test_max_positions(make: Callable[..., NLQDataModule], tmp_path: Path) -> None:
    write_features(tmp_path / "features", "a", 10.0, ("what?",))
    batch = only(make(clip("a", [row("What?", 5.0, 7.5)]), max_positions=4))
    assert batch["video"][0, :, 0].tolist() == [2, 7, 12, 17]
    assert (batch["start"].item(), batch["end"].item()) == (2, 2)


@pytest.mark.parametrize(
    ("window", "margin", "lit"),
    [((10, 20), 0.1, (9, 20)), ((10, 20), 0.0, (10, 19)), ((10, 20), 0.5, (5, 24)), ((0, 10), 0.1, (0, 10)),
     ((30, 40), 0.1, (29, 39)), ((10, 12), 0.1, (10, 11)), ((0, 40), 0.1, (0, 39))],
)
def test_highlights_go_beyond_their_windows(make: Callable[..., NLQDataModule], tmp_path: Path,
                                            window: tuple[float, float], margin: float, lit: tuple[int, int]) -> None:
    """One position is half a second here; the other clip makes room for a highlight to run into padding."""
    write_features(tmp_path / "features", "a", 20.0, ("what?",))
    write_features(tmp_path / "features", "b", 30.0, ("what?",))
    start, end = window[0] / RATE, window[1] / RATE
    batch = only(make(clip("a", [row("What?", start, end)]), clip("b", [row("What?", 0.0, 1.0)]),
                      highlight_margin=margin))
    assert batch["highlight"][0].nonzero().flatten().tolist() == list(range(lit[0], lit[1] + 1))
    assert set(batch["highlight"].unique().tolist()) == {0.0, 1.0}


def test_windows_of_no_length_are_not_trained_on_but_judged(make: Callable[..., NLQDataModule], tmp_path: Path) -> None:
    write_features(tmp_path / "features", "a", 10.0, ("what?",))
    data = make(clip("a", [row("What?", 1, 1), row("What?", 2, 3), row("What?"), row("What?", 4, 6)]))
    keys = [key[2] for batch in data.train_dataloader() for key in batch["key"]]
    assert sorted(keys) == [1, 3]
    assert data.counts["train_without_length"] == 2 and data.counts["train_rows"] == 2
    keys = [key[2] for batch in data.val_dataloader() for key in batch["key"]]
    assert keys == [0, 1, 2, 3] and data.counts["val_without_length"] == 1 and data.counts["queries"] == 4
    with pytest.raises(ValueError, match="nlq_train.json: none of 1 queries with features has a window"):
        make(clip("a", [row("What?", 1, 1)])).train_dataloader()


def test_what_has_no_answers_is_predicted_and_not_tested_on(make: Callable[..., NLQDataModule], tmp_path: Path) -> None:
    write_features(tmp_path / "features", "a", 10.0, ("what?",))
    data = make(clip("a", [row("What?", 1, 2)]), test="nlq_test_unannotated.json")
    write_official(tmp_path / "nlq_test_unannotated.json", clip("a", [row("What?")]))
    (batch,) = data.predict_dataloader()
    assert batch["window"].isnan().all() and batch["window"].shape == (1, 2)
    assert data.counts["test_without_length"] == 0
    assert not data.has_test_data
    write_official(tmp_path / "nlq_test_unannotated.json", clip("a", [row("What?", 1, 2)]))
    assert data.has_test_data and len(list(data.test_dataloader())) == 1
    data = make(clip("a", [row("What?", 1, 2)]))
    (batch,) = data.predict_dataloader()
    assert batch["window"].tolist() == [[1, 2]] and not data.has_test_data
    with pytest.raises(ValueError, match="no annotations to test on: set data.init_args.test"):
        data.test_dataloader()


def test_what_is_counted(make: Callable[..., NLQDataModule], tmp_path: Path) -> None:
    write_features(tmp_path / "features", "a", 10.0, ("what?",))
    silent = clip("silent")
    del silent["annotations"]
    data = make(clip("a", [row("What?", 1, 2), row("  ", 1, 2), row(None, 1, 2)]), silent, clip("empty", []),
                clip("unseen", [row("What?", 1, 2)]))
    assert [query.key for query in data.queries("val")] == ["a a-0 0"]
    assert data.counts == {"val_clips_without_queries": 2, "val_empty_queries": 2, "val_without_features": 1}
    assert data.protocol | {"max_positions": 256, "highlight_margin": 0.1, "kind": "fused",
                            "features_per_second": 2.0, "window_seconds": 2.0, "shuffled": False} == data.protocol
    assert [span.duration for span in data.spans("val")] == [20.0]


def test_shuffled_features(make: Callable[..., NLQDataModule], tmp_path: Path) -> None:
    for name in "ab":
        write_features(tmp_path / "features", name, 20.0, ("what?",))
    clips = [clip(name, [row("What?", 1, 2)]) for name in "ab"]
    orders = [only(make(*clips, shuffled=True, seed=seed))["video"][:, :40, 0].tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert all(sorted(order) == list(range(40)) != order for order in orders[0])
    assert orders[0][0] != orders[0][1]  # each clip has its own
    assert make(*clips, shuffled=True).protocol["shuffled"] is True


def test_epoch_keys_and_filler(make: Callable[..., NLQDataModule], tmp_path: Path,
                               monkeypatch: pytest.MonkeyPatch) -> None:
    write_features(tmp_path / "features", "a", 10.0, ("what?",))
    data = make(clip("a", [row("What?", i, i + 1) for i in range(5)]))
    loader = data.train_dataloader()
    loader.sampler.set_epoch(3)
    keys = list(loader.sampler)
    assert sorted(keys) == [(3, i) for i in range(5)] != keys
    rows = [i for batch in loader for i in batch["index"].tolist()]
    assert rows == [key[1] for key in keys][:4]
    queries: NLQQueries = loader.dataset
    assert torch.equal(queries[3, 1].video, queries[1].video) and queries[3, 1].query == queries[1].query
    assert queries[PAD_INDEX] is None
    monkeypatch.setattr(data, "_processes", lambda: (2, 1))
    first, second = data.val_dataloader()  # rows 1 and 3, then a filler alone
    assert first["index"].tolist() == [1, 3] and second["key"] == []
    assert second["video"].shape == (0, 1, WIDTH) and second["window"].shape == (0, 2)
    assert all(len(value) == 0 for value in second.values())
    for name, value in first.items():
        assert not isinstance(value, Tensor) or value.dtype == second[name].dtype, name
    data.eval_batch_size = 3
    batch = only(data)
    assert batch["index"].tolist() == [1, 3] and batch["video"].shape == (2, 256, WIDTH)


def test_bad_features_are_named(make: Callable[..., NLQDataModule], tmp_path: Path) -> None:
    folder = tmp_path / "features"
    clips = [clip("a", [row("Why?", 1, 2)]), clip("b", [row("What?", 1, 2)])]
    with pytest.raises(ValueError, match="holds no feature files"):
        make(*clips).val_dataloader()
    path = write_features(folder, "other", 10.0, ("what?",))
    with pytest.raises(ValueError, match="has features of none of the clips of .*nlq_val.json: extract them"):
        make(*clips).val_dataloader()
    path = write_features(folder, "a", 10.0, ("what?",))
    with pytest.raises(ValueError, match=r"features of a were extracted without the query 'why\?': extract them"):
        only(make(*clips))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="a.safetensors is cut short"):
        only(make(*clips))
    write_features(folder, "a", 10.0, ("what?",), checkpoint="1" * 16)
    with pytest.raises(ValueError, match="don't go together .checkpoint 1+ and 0+"):
        only(make(*clips))


def test_a_file_cut_short_after_the_start_is_named(make: Callable[..., NLQDataModule], tmp_path: Path) -> None:
    path = write_features(tmp_path / "features", "a", 10.0, ("what?",))
    loader = make(clip("a", [row("What?", 1, 2)])).val_dataloader()
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="a.safetensors is cut short"):
        list(loader)


def test_the_toy_world(toy: Path, tmp_path: Path) -> None:
    told = {}
    for split in ("train", "val", "test"):
        for video in json.loads((toy / "nlq" / f"nlq_{split}.json").read_text())["videos"]:
            rows = video["clips"][0]["annotations"][0]["language_queries"]
            told |= {(video["clips"][0]["clip_uid"], i): (split, entry) for i, entry in enumerate(rows)}
            write_features(tmp_path / "features", video["video_uid"], video["clips"][0]["video_end_sec"],
                           tuple(entry["query"].lower() for entry in rows))
    data = NLQDataModule(str(toy / "nlq"), str(tmp_path / "features"), test="nlq_test.json", num_workers=0,
                         videos=str(toy / "long" / "videos"), chunk_seconds=8.0)
    assert data.has_test_data
    for split in ("val", "test"):
        batches = list(getattr(data, f"{split}_dataloader")())
        for batch in batches:
            step = batch["duration"] / batch["video_mask"].sum(1)
            for i, (uid, _, index) in enumerate(batch["key"]):
                where, entry = told.pop((uid, index))
                times = [entry["clip_start_sec"], entry["clip_end_sec"]]
                assert where == split and entry["query"].lower() == batch["text"][i]
                assert batch["window"][i].tolist() == pytest.approx(times)
                span = [batch["start"][i] * step[i], (batch["end"][i] + 1) * step[i]]
                assert span == pytest.approx(times, abs=step[i].item())
    assert {split for split, _ in told.values()} == {"train"}
    frames = data.preview_frames("val", 0, 3)
    assert frames.shape == (3, 3, 128, 128) and frames.dtype == torch.uint8
    assert not torch.equal(frames[0], frames[2])
    data.videos = None
    del data.sources
    assert data.preview_frames("val", 0, 3) is None

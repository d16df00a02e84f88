"""NLQ's annotations: both forms of the files are read alike, and what is wrong with them is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import REAL_DATA
from nlq_files import clip, row, write_official

from egovlpv2.data_modules.nlq import NLQDataModule, NLQQuery, label_span, read_nlq_queries
from egovlpv2.features.clips import ClipSpan

REAL = REAL_DATA / "nlq"


def test_both_forms_tell_the_same(tmp_path: Path) -> None:
    official = write_official(tmp_path / "o.json", clip("a", [row("What?", 1, 2)], [row("Who?", 3, 4.5), row("", 1, 1)],
                                                        end=480.0), video="a")
    entry = {"fps": 1.875, "num_frames": 900, "timestamps": [[1, 3], [5, 8], [1, 1]],
             "exact_times": [[1, 2], [3, 4.5], [1, 1]], "sentences": ["What?", " Who?", ""],
             "annotation_uids": ["a-0", "a-1", "a-1"], "query_idx": [0, 0, 1]}
    (tmp_path / "train.json").write_text(json.dumps({"a": entry}))
    (found,) = read_nlq_queries(tmp_path / "train.json")
    assert [found] == list(read_nlq_queries(official))
    assert found[1] == NLQQuery(ClipSpan("a", "a", 0.0, 480.0), "a-1", 0, "who?", (3.0, 4.5))


@pytest.mark.parametrize(
    ("times", "message"),
    [((3, 2), "query a a-0 0: 3.0-2.0 s ends before it begins"), ((float("nan"), 2), "NaN is not a number"),
     ((22, 23), "22.0-23.0 s lies outside its clip of 20.0 s"), ((-0.5, -0.1), "lies outside its clip"),
     ((-3, 1), "clip_start_sec: Expected `float` >= -1"), ((3, None), "has one of clip_start_sec and clip_end_sec"),
     ((1, 1e7), "clip_end_sec: Expected `float` <= 1000000")],
)
def test_bad_windows(tmp_path: Path, times: tuple[float, float], message: str) -> None:
    path = write_official(tmp_path / "bad.json", clip("a", [row("What?", *times)]))
    with pytest.raises(ValueError, match=f"bad.json.*{message}"):
        list(read_nlq_queries(path))


@pytest.mark.parametrize(
    "content",
    ["[]", "3", '{"videos": [{}]}', '{"a": 3}', '{"a": {"fps": 1.875}}',
     '{"a": {"fps": 0, "num_frames": 9, "annotation_uids": [], "query_idx": [], "sentences": [], "exact_times": []}}',
     '{"a": {"fps": 1, "num_frames": 9, "annotation_uids": [], "query_idx": [], "sentences": ["What?"], '
     '"exact_times": []}}'],
)
def test_other_forms_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match="bad.json.* (official nlq_.*.json|VSLNet's|has 0 entries)"):
        list(read_nlq_queries(tmp_path / "bad.json"))


@pytest.mark.parametrize(("change", "message"), [
    (lambda c: c[1].update(clip_uid="a"), r"videos\[0\].clips\[1\]: clip_uid 'a' is there twice, first in videos"),
    (lambda c: c[1]["annotations"][0].update(annotation_uid="a-0"), "annotation_uid 'a-0' is there twice, first"),
    (lambda c: c[1]["annotations"][0].pop("annotation_uid"), "clip b: the query 'what.' is in an annotation without"),
    (lambda c: c[1].update(clip_uid=5), r"clips\[1\].clip_uid: Expected `str`, got `int`"),
    (lambda c: c[1].update(video_end_sec=None), "clip b has no times"),
    (lambda c: c[1].update(video_end_sec=0.0), "clip b lasts from 0.0 to 0.0 s of its video"),
    (lambda c: c[1]["annotations"][0]["language_queries"][0].update(query=["What?"]), "query: Expected `str . null`"),
])
def test_what_is_wrong_with_a_clip_is_named(tmp_path: Path, change: Callable[[Any], object], message: str) -> None:
    clips = [clip(name, [row("What?", 1, 2)]) for name in ("a", "b")]
    change(clips)
    with pytest.raises(ValueError, match=f"bad.json.*{message}"):
        list(read_nlq_queries(write_official(tmp_path / "bad.json", *clips)))


def test_a_query_of_vslnet_that_is_there_twice_is_named(tmp_path: Path) -> None:
    entry = {"fps": 1.0, "num_frames": 9, "annotation_uids": ["u", "u"], "query_idx": [3, 3], "sentences": ["a", "b"],
             "exact_times": [[0, 1], [0, 1]]}
    (tmp_path / "bad.json").write_text(json.dumps({"a": entry}))
    with pytest.raises(ValueError, match=r"bad.json: clip a, sentences\[1\]: the query of annotation 'u 3' is"):
        list(read_nlq_queries(tmp_path / "bad.json"))


def test_unreadable_annotations_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone.json can't be read: No such file or directory"):
        list(read_nlq_queries(tmp_path / "gone.json"))
    for content, message in ((b'{"videos": [', "not JSON"), (b"\xff\xfe", "the file is UTF-16")):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(ValueError, match=f"bad.json, line 1.*: {message}"):
            list(read_nlq_queries(tmp_path / "bad.json"))


@pytest.mark.skipif(not REAL.is_dir(), reason="EGOVLPV2_REAL_DATA has no such files")
def test_real_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NLQDataModule, "has_features", lambda *_: True)
    told = [query for clip in read_nlq_queries(REAL / "nlq_val.json") for query in clip]
    assert len(told) == 3875
    assert sum(query.window[0] == query.window[1] for query in told) == 342
    data = NLQDataModule(str(REAL), str(tmp_path), train="train.json", num_workers=0)
    assert len(data.val_dataloader().dataset) == 3874  # the one without a text has no length either
    assert len(data.train_dataloader().dataset) == 11291 - 963
    assert data.counts == {"val_clips_without_queries": 0, "val_empty_queries": 1, "val_without_features": 0,
                           "val_without_length": 341, "queries": 3874, "train_clips_without_queries": 0,
                           "train_empty_queries": 0, "train_without_features": 0, "train_without_length": 963,
                           "train_rows": 10328}
    same = {query.key: query.window for clip in read_nlq_queries(REAL / "val.json") for query in clip}
    assert same == {query.key: query.window for query in told if query.text}
    queries = data.queries("train")
    for query in queries[:: len(queries) // 50]:
        start, end = label_span(query.window, query.span.duration, 256)
        step = query.span.duration / 256
        assert abs(start * step - query.window[0]) <= step and abs((end + 1) * step - query.window[1]) <= step

"""MQ's annotations: all forms of the files are read alike, and what is wrong with them is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from mq_files import clip, entry, row, write_official

from egovlpv2.data_modules.moments import Moments, read_moments
from egovlpv2.features.clips import ClipSpan


def test_all_spellings_tell_the_same(tmp_path: Path) -> None:
    rows = [("wash", 1.0, 2.5), ("cut", 0.0, 20.0)]
    found = []
    for segments in (False, True):
        for parent in (True, False):
            told = entry("val", *rows, segments=segments)
            if not parent:
                del told["parent_end_sec"]
            (tmp_path / "c.json").write_text(json.dumps({"a": told}))
            found += read_moments(tmp_path / "c.json")
    assert found == [Moments(ClipSpan("a", "film", 10.0, 30.0), "val", rows)] * 4
    official = write_official(tmp_path / "m.json", clip("a", [row(*told) for told in rows], start=10.0, end=30.0))
    assert list(read_moments(official)) == [found[0]._replace(split="")]


@pytest.mark.parametrize(
    ("told", "message"),
    [(row("wash", 3, 2), "bad.json: clip a: wash: 3.0-2.0 s ends before it begins"),
     (row("wash", float("nan"), 2), "bad.json: NaN is not a number"),
     (row("wash", 22, 23), "lies outside its clip of 20.0 s"),
     (row("wash", -3, 1), r"bad.json: clip a: labels\[0\]: start_time: Expected `float` >= -1"),
     (row("wash", -0.5, -0.1), "lies outside its clip"), (row("wash", 1, 1e7), "end_time: Expected `float` <= 1000000"),
     (row(["wash"], 1, 2), "label: Expected `str`, got `array`"),
     (row(" ", 1, 2), "label: Expected a text that is not")],
)
def test_bad_times(tmp_path: Path, told: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(read_moments(write_official(tmp_path / "bad.json", clip("a", [told]))))


@pytest.mark.parametrize(
    "content", ["[]", "3", '{"videos": [{}]}', '{"a": 3}', '{"a": {"duration": 3}}',
                *(json.dumps({"a": entry("val") | {"annotations": [{"label": "wash"} | times]}})
                  for times in ({"segment": [1]}, {"start_time": None, "end_time": 1}))]
)
def test_other_forms_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match="bad.json.* an? (official moments_.*.json|clip_annotations.json|segment)"):
        list(read_moments(tmp_path / "bad.json"))


def test_a_clip_that_is_there_twice_is_named(tmp_path: Path) -> None:
    path = write_official(tmp_path / "bad.json", clip("a", []), clip("b", []), clip("a", []))
    with pytest.raises(ValueError, match=r"bad.json, videos\[0\].clips\[2\]: clip_uid 'a' is there twice, first"):
        list(read_moments(path))
    path.write_text('{"a": %s, "a": %s}' % ((json.dumps(entry("val")),) * 2))
    with pytest.raises(ValueError, match="bad.json: the key 'a' is there twice"):
        list(read_moments(path))


@pytest.mark.parametrize(("changes", "message"), [
    ({"subset": "validation"}, "clip a: subset is 'validation': write train, val or test"),
    ({"clip_id": "b"}, "clip a has the clip_id 'b': give it one name"),
    ({"parent_start_sec": 5.0, "parent_end_sec": 5.0}, "clip a lasts from 5.0 to 5.0 s of its video"),
    ({"parent_end_sec": None, "duration": 0.0}, "clip a lasts from"), ({"video_id": 7}, "video_id: Expected `str"),
    ({"annotations": [{"label": "wash", "segment": [1, 1e9]}]}, "Expected `float` <= 1000000.0"),
])
def test_bad_clips_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "bad.json").write_text(json.dumps({"a": entry("val") | {"parent_start_sec": 0.0} | changes}))
    with pytest.raises(ValueError, match=f"bad.json.*{message}"):
        list(read_moments(tmp_path / "bad.json"))


def test_a_clip_without_an_end_is_named(tmp_path: Path) -> None:
    path = write_official(tmp_path / "bad.json", clip("a", []) | {"video_end_sec": None})
    with pytest.raises(ValueError, match=r"bad.json.*clips\[0\].video_end_sec: Expected `float`, got `null`"):
        list(read_moments(path))

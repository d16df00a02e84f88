"""Narrations as queries: the authors' records and jitter, and what can't be used is counted."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from nlq_files import clip, row, write_official
from test_nlq import write_features

from egovlpv2.cli import main as cli
from egovlpv2.data_modules.naq import (
    NarratedClip,
    Narration,
    jitter_span,
    merge,
    narrations_as_queries,
    read_clips,
    vslnet_form,
)
from egovlpv2.data_modules.nlq import NLQDataModule, read_nlq_queries

CLIP = {"clip_uid": "c", "video_start_sec": 0.0, "video_end_sec": 30.0}
EXAMPLE = json.loads((ROOT / "tests" / "golden" / "naq_example.json").read_text())


@pytest.fixture
def write_narrations(tmp_path: Path, make_row: Callable[..., dict[str, Any]],
                     write_csv: Callable[[Path, list[dict[str, Any]]], Path]) -> Callable[..., Path]:
    """A function that writes narrations, each of one second from its start on."""

    def _write(*rows: tuple[str, float, str]) -> Path:
        told = [make_row(i, video, start, clip_text=text) for i, (video, start, text) in enumerate(rows)]
        return write_csv(tmp_path / "egoclip.csv", told)

    return _write


def write_clips(path: Path, video: str, *clips: dict[str, Any], split: str | None = "train") -> Path:
    entry = {"video_uid": video, "clips": clips} | ({} if split is None else {"split": split})
    path.write_text(json.dumps({"videos": [entry]}))
    return path


def test_the_authors_example_agrees_exactly() -> None:
    clips = {video: [NarratedClip(*entry.values()) for entry in entries] for video, entries in EXAMPLE["clips"].items()}
    told: dict[str, list[Narration]] = {}
    for entry in EXAMPLE["narrations"]:
        narration = Narration(entry["clip_text"], entry["clip_start"], entry["clip_end"])
        told.setdefault(entry["video_uid"], []).append(narration)
    naq = narrations_as_queries(clips, told)
    assert naq == EXAMPLE["naq"]
    merged = merge(EXAMPLE["nlq"], naq, "nlq.json")
    assert merged == EXAMPLE["merged"] and vslnet_form(merged) == EXAMPLE["vslnet"]


def test_the_authors_jitter_agrees_exactly() -> None:
    uniform = random.Random(7).uniform
    for case in EXAMPLE["jitter"]["cases"]:
        span, features = (case["start"], case["end"]), case["num_features"]
        expansion = EXAMPLE["jitter"]["expansion_factor"]
        assert list(jitter_span(case["query"], span, features, expansion, uniform)) == case["out"], case


def test_the_command_writes_the_authors_file(tmp_path: Path, write_csv: Callable[..., Path],
                                             make_row: Callable[..., dict[str, Any]]) -> None:
    rows = [make_row(i, **{"video": entry["video_uid"], "start": 0.0},
                     **{key: entry[key] for key in ("narration_time", "clip_start", "clip_end", "clip_text")})
            for i, entry in enumerate(EXAMPLE["narrations"])]
    narrations = write_csv(tmp_path / "egoclip.csv", rows)
    (tmp_path / "nlq.json").write_text(json.dumps(EXAMPLE["nlq"]))
    clips = write_clips(tmp_path / "vq.json", "v1", *EXAMPLE["clips"]["v1"])
    for form, expected in (("official", EXAMPLE["merged"]), ("vslnet", EXAMPLE["vslnet"])):
        cli(["naq", str(narrations), str(tmp_path / "out.json"), "--clips", str(tmp_path / "nlq.json"), str(clips),
             "--nlq", str(tmp_path / "nlq.json"), "--form", form])
        assert json.loads((tmp_path / "out.json").read_text()) == expected


def test_what_cant_be_used_is_counted(tmp_path: Path, write_narrations: Callable[..., Path],
                                      capsys: pytest.CaptureFixture[str]) -> None:
    narrations = write_narrations(("film", 2.0, "#C C cuts"), ("film", 4.5, "#C C peels"), ("film", 30.0, "#O O sits"),
                                  ("other", 1.0, "#C C walks"))
    clips = write_clips(tmp_path / "vq.json", "film", {"clip_uid": "a", "video_start_sec": 1.0, "video_end_sec": 5.0},
                        {"clip_uid": None, "video_start_sec": 0.0, "video_end_sec": 9.0}, {"clip_uid": "b"})
    cli(["naq", str(narrations), str(tmp_path / "naq.json"), "--clips", str(clips)])
    out = " ".join(capsys.readouterr().out.split())
    assert "4 narrations 0 malformed rows left out 1 narrations of videos without clips left out" in out
    assert "2 narrations outside every clip left out 1 clips 2 clips without an id left out 1 narrations as" in out
    (queries,) = read_nlq_queries(tmp_path / "naq.json")
    assert [(query.text, query.window, query.annotation) for query in queries] == [("#c c cuts", (1.0, 2.0), "film_a")]


def test_a_narration_that_begins_before_its_video_is_outside(tmp_path: Path, write_narrations: Callable[..., Path],
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    narrations = write_narrations(("film", -0.5, "#C C cuts"), ("film", 0.0, "#C C peels"))
    clips = write_clips(tmp_path / "vq.json", "film", {"clip_uid": "a", "video_start_sec": 0.0, "video_end_sec": 5.0})
    cli(["naq", str(narrations), str(tmp_path / "naq.json"), "--clips", str(clips)])
    assert "1 narrations outside every clip left out" in " ".join(capsys.readouterr().out.split())


def test_clips_are_taken_once_from_all_files(tmp_path: Path) -> None:
    entry = {"clip_uid": "a", "video_start_sec": 0.0, "video_end_sec": 5.0}
    files = [write_clips(tmp_path / "nlq.json", "v", entry, split=None),
             write_clips(tmp_path / "vq.json", "v", entry, entry | {"clip_uid": "b"}),
             write_clips(tmp_path / "mq.json", "w", entry | {"clip_uid": "c"})]
    found, incomplete = read_clips(files)
    assert {video: [clip.clip for clip in clips] for video, clips in found.items()} == {"v": ["a", "b"], "w": ["c"]}
    assert incomplete == 0


def test_narrations_without_clips_are_refused(tmp_path: Path, write_narrations: Callable[..., Path]) -> None:
    narrations, out = write_narrations(("film", 2.0, "#C C cuts")), str(tmp_path / "naq.json")
    empty = write_clips(tmp_path / "empty.json", "film")
    with pytest.raises(SystemExit, match="empty.json: there are no clips to put narrations in: give nlq_train.json"):
        cli(["naq", str(narrations), out, "--clips", str(empty)])
    other = write_clips(tmp_path / "o.json", "other", {"clip_uid": "a", "video_start_sec": 0, "video_end_sec": 9})
    with pytest.raises(SystemExit, match="none of the 1 narrations of .*egoclip.csv lies in a clip of .*o.json: give"):
        cli(["naq", str(narrations), out, "--clips", str(other)])
    assert not Path(out).exists()


def test_clips_to_validate_on_are_refused(tmp_path: Path, write_narrations: Callable[..., Path]) -> None:
    clips = write_clips(tmp_path / "val.json", "film", {"clip_uid": "a", "video_start_sec": 0, "video_end_sec": 9},
                        split="val")
    with pytest.raises(SystemExit, match="the video film is of the split val, whose narrations must not be trained on"):
        cli(["naq", str(write_narrations(("film", 2.0, "#C C cuts"))), str(tmp_path / "naq.json"), "--clips",
             str(clips)])


def test_other_files_in_the_place_of_clips_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"clips": []}')
    with pytest.raises(ValueError, match="a.json, which should be an official file of NLQ, MQ or VQ: .*`videos`"):
        read_clips([tmp_path / "a.json"])


@pytest.mark.parametrize("span", [(0, 0), (3, 9), (17, 19)])
def test_a_jittered_span_holds_the_old_one_up_to_rounding(span: tuple[int, int]) -> None:
    draw = random.Random(0)
    for _ in range(200):
        start, end = jitter_span("#c c cuts", span, 20, 2.5, draw.uniform)
        assert 0 <= start <= span[0] + 1 and span[1] - 1 <= end < 20


@pytest.fixture
def module(tmp_path: Path) -> Callable[..., NLQDataModule]:
    """A function that makes a data module with a narration and a question about one clip."""
    for name in ("nlq_train.json", "nlq_val.json"):
        write_official(tmp_path / name, clip("a", [row("#C C cuts", 4, 7), row("What?", 4, 7)]))
    write_features(tmp_path / "features", "a", 20.0, ("#c c cuts", "what?"))

    def _make(**options: Any) -> NLQDataModule:
        return NLQDataModule(str(tmp_path), str(tmp_path / "features"), batch_size=2, num_workers=0, **options)

    return _make


def spans(data: NLQDataModule, epoch: int = 0) -> dict[str, tuple[int, int]]:
    rows = data.train_dataloader().dataset
    samples = [rows[(epoch, i)] for i in range(2)]
    return {sample.query.text: sample.span for sample in samples}


def test_training_jitters_narrations_alone_anew_in_each_epoch(module: Callable[..., NLQDataModule]) -> None:
    still, data = spans(module()), module(narration_jitter=2.5)
    drawn = [spans(data, epoch) for epoch in range(20)]
    assert still["#c c cuts"] == still["what?"] == (8, 13)
    assert {found["what?"] for found in drawn} == {(8, 13)} and len({found["#c c cuts"] for found in drawn}) > 5
    assert drawn == [spans(module(narration_jitter=2.5), epoch) for epoch in range(20)]
    assert drawn != [spans(module(narration_jitter=2.5, seed=1), epoch) for epoch in range(20)]
    assert data.counts["train_narrations"] == 1 and data.protocol["narration_jitter"] == 2.5


def test_highlights_follow_the_jittered_span(module: Callable[..., NLQDataModule]) -> None:
    data = module(narration_jitter=4.0, highlight_margin=0.0)
    (batch,) = data.train_dataloader()
    for start, end, highlight in zip(batch["start"], batch["end"], batch["highlight"], strict=True):
        assert highlight.nonzero().flatten().tolist() == list(range(start, end + 1))
    assert batch["window"].tolist() == [[4, 7], [4, 7]]


def test_evaluation_doesnt_jitter(module: Callable[..., NLQDataModule]) -> None:
    (batch,) = module(narration_jitter=4.0).val_dataloader()
    assert batch["start"].tolist() == [8, 8] and batch["end"].tolist() == [13, 13]


def test_a_jitter_that_shrinks_is_refused(module: Callable[..., NLQDataModule]) -> None:
    with pytest.raises(ValueError, match="narration_jitter=0.5: give 1 or more"):
        module(narration_jitter=0.5)


def test_no_input_is_written_over(tmp_path: Path, write_narrations: Callable[..., Path]) -> None:
    told, clips = write_narrations(("v", 1.0, "C cuts")), write_clips(tmp_path / "mq.json", "v", CLIP)
    nlq = write_clips(tmp_path / "nlq.json", "v", clip("c", [row("where?", 1.0, 2.0)]))
    before = {path: path.read_bytes() for path in (told, clips, nlq)}
    for out in before:
        with pytest.raises(SystemExit, match=f"{out.name} is read and would be written over"):
            cli(["naq", str(told), str(out), "--clips", str(clips), "--nlq", str(nlq)])
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("split", ["val", "test"])
def test_queries_of_another_split_are_refused(tmp_path: Path, write_narrations: Callable[..., Path], split: str
                                              ) -> None:
    told, clips = write_narrations(("v", 1.0, "C cuts")), write_clips(tmp_path / "mq.json", "v", CLIP)
    write_clips(tmp_path / "nlq.json", "v", clip("c", [row("where?", 1.0, 2.0)]), split=split)
    with pytest.raises(SystemExit, match=f"nlq.json: the video v is of the split {split}, whose queries must not be"):
        cli(["naq", str(told), str(tmp_path / "o.json"), "--clips", str(clips), "--nlq", str(tmp_path / "nlq.json")])
    assert not (tmp_path / "o.json").exists()


def test_one_clip_has_one_place(tmp_path: Path, write_narrations: Callable[..., Path]) -> None:
    told, first = write_narrations(("v", 21.0, "C cuts")), write_clips(tmp_path / "a.json", "v", CLIP)
    for video, moved in (("v", CLIP | {"video_start_sec": 5.0}), ("w", CLIP)):
        second = write_clips(tmp_path / "b.json", video, moved)
        with pytest.raises(SystemExit, match=rf"b.json: clip c is .* s of {video}, and in .*a.json .* s of v"):
            cli(["naq", str(told), str(tmp_path / "o.json"), "--clips", str(first), str(second)])
    nlq = write_clips(tmp_path / "nlq.json", "v", clip("c", [row("where?", 1.0, 2.0)], start=3.0))
    with pytest.raises(SystemExit, match="nlq.json: clip c begins at 3 s of its video, and in --clips at 0 s"):
        cli(["naq", str(told), str(tmp_path / "o.json"), "--clips", str(first), "--nlq", str(nlq)])


def test_a_video_in_two_entries_keeps_its_clips_once(tmp_path: Path, write_narrations: Callable[..., Path]) -> None:
    told = write_narrations(("v", 1.0, "C cuts"), ("v", 31.0, "C eats"))
    parts = [clip(name, [row("where?", 1.0, 2.0)], start=start, end=start + 20.0)
             for name, start in (("c", 0.0), ("d", 30.0))]
    for part, uid in zip(parts, "xy", strict=True):
        part["annotations"][0]["annotation_uid"] = uid
    nlq = tmp_path / "nlq.json"
    nlq.write_text(json.dumps({"videos": [{"video_uid": "v", "clips": [part]} for part in parts]}))
    cli(["naq", str(told), str(tmp_path / "o.json"), "--clips", str(nlq), "--nlq", str(nlq)])
    found = {query.text: query.span.clip for queries in read_nlq_queries(tmp_path / "o.json") for query in queries}
    assert found == {"where?": "d", "c cuts": "c", "c eats": "d"}


def test_what_vslnets_form_needs_is_named(tmp_path: Path, write_narrations: Callable[..., Path]) -> None:
    told, clips = write_narrations(("v", 1.0, "C cuts")), write_clips(tmp_path / "mq.json", "v", CLIP)
    for missing in ("annotation_uid", "video_end_sec"):
        entry = clip("e", [row("where?", 1.0, 2.0)])
        (entry["annotations"][0] if missing == "annotation_uid" else entry).pop(missing)
        write_clips(tmp_path / "nlq.json", "w", entry)
        with pytest.raises(SystemExit, match=f"clip e of the NLQ file has no .*{missing}"):
            cli(["naq", str(told), str(tmp_path / "o.json"), "--clips", str(clips), "--nlq",
                 str(tmp_path / "nlq.json"), "--form", "vslnet"])

"""EPIC-Kitchens-100 MIR in its official files: the toy world's, real ones, and broken ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers import REAL_DATA

from egovlpv2.data_modules.ek100 import EK100DataModule

REAL = REAL_DATA / "ek100"
Change = Callable[[pd.DataFrame], pd.DataFrame]
OPTIONS = {"tokenizer": "unused", "num_workers": 0, "batch_size": 3, "eval_batch_size": 4, "num_frames": 2, "size": 32}


@pytest.fixture
def options(toy: Path) -> dict[str, Any]:
    return OPTIONS | {"tokenizer": str(toy / "tokenizer"), "val": "EPIC_100_retrieval_val.csv"}


@pytest.fixture
def copy(toy: Path, tmp_path: Path) -> Path:
    """The toy annotations, to be changed, and a link to the videos."""
    for file in (toy / "ek100").glob("*.csv"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "videos").symlink_to(toy / "ek100" / "videos")
    return tmp_path


def edit(path: Path, change: Change) -> None:
    change(pd.read_csv(path, dtype=str)).to_csv(path, index=False)


def put(column: str, row: int, value: str) -> Change:
    return lambda frame: frame.assign(**{column: frame[column].where(frame.index != row, value)})


def test_batches(toy: Path, options: dict[str, Any]) -> None:
    data = EK100DataModule(str(toy / "ek100"), prompt="#C C {}", eval_num_frames=3, **options)
    rows = pd.read_csv(toy / "ek100" / "EPIC_100_retrieval_test.csv")
    sentences = pd.read_csv(toy / "ek100" / "EPIC_100_retrieval_test_sentence.csv")
    texts, clips = map(list, data.test_dataloader())
    assert sum(len(batch["text"]["input_ids"]) for batch in texts) == len(sentences)
    words = data.tokenizer.decode(texts[0]["text"]["input_ids"][1], skip_special_tokens=True)
    assert words == f"#C C {sentences.narration[1]}"
    assert torch.cat([batch["index"] for batch in clips]).tolist() == list(range(len(rows)))
    assert [key for batch in clips for key in batch["key"]] == rows.narration_id.tolist()
    assert clips[0]["video"].shape == (4, 3, 3, 32, 32) and clips[0]["video"].dtype == torch.uint8
    relevancy = torch.cat([batch["relevancy"] for batch in clips])
    assert relevancy.shape == (len(rows), len(sentences))
    own = [sentences.narration.tolist().index(narration) for narration in rows.narration]
    assert torch.equal(relevancy[range(len(rows)), own], torch.ones(len(rows)))


def test_a_training_clip_comes_with_a_text_that_fits(toy: Path, options: dict[str, Any]) -> None:
    data = EK100DataModule(str(toy / "ek100"), **options)
    sentences = pd.read_csv(toy / "ek100" / "EPIC_100_retrieval_train_sentence.csv")
    seen = set()
    for batch in data.train_dataloader():
        fit = batch["relevancy"][range(3), batch["target"]]
        assert (fit > 0.1).all()
        seen |= set(fit.tolist())
        for ids, target in zip(batch["text"]["input_ids"], batch["target"], strict=True):
            assert data.tokenizer.decode(ids, skip_special_tokens=True) == sentences.narration[int(target)]
    assert len(seen) > 1  # not the clip's own sentence alone


def test_only_texts_that_fit_wholly_can_be_drawn(toy: Path, options: dict[str, Any]) -> None:
    data = EK100DataModule(str(toy / "ek100"), min_relevancy=0.9, **options)
    for batch in data.train_dataloader():
        assert (batch["relevancy"][range(3), batch["target"]] == 1).all()
    with pytest.raises(ValueError, match="min_relevancy is a relevancy from 0 to below 1, not 1"):
        EK100DataModule(str(toy / "ek100"), min_relevancy=1, **options)


def test_without_a_validation_split_videos_are_held_out(toy: Path, options: dict[str, Any]) -> None:
    data = EK100DataModule(str(toy / "ek100"), val_fraction=0.3, **(options | {"val": None}))
    rows = pd.read_csv(toy / "ek100" / "EPIC_100_retrieval_train.csv")
    train, val = data.load("train"), data.load("val")
    assert not {*train.videos} & {*val.videos} and len(train) + len(val) == len(rows) and len(val)
    assert len(train.texts) == pd.read_csv(toy / "ek100" / "EPIC_100_retrieval_train_sentence.csv").shape[0]
    assert len(val.texts) == len(set(val.texts)) < len(val) + 1  # one of each wording in its own rows
    by_id = {name: narration for name, narration in zip(rows.narration_id, rows.narration, strict=True)}
    for i, key in enumerate(val.keys):
        assert val.relevancy[i][val.texts.index(by_id[key])] == 1
    with pytest.raises(ValueError, match="val_fraction=1e-05 leaves no video to val"):
        EK100DataModule(str(toy / "ek100"), val_fraction=1e-5, **(options | {"val": None})).load("val")


@pytest.mark.parametrize(("file", "change", "message"), [
    ("test", lambda f: f.drop(columns="verb_class"), "test.csv has no column verb_class"),
    ("test", lambda f: f[:0], "test.csv has no rows"),
    ("test", put("verb_class", 2, "97"), "line 4, column verb_class: '97' is not a verb class"),
    ("test", put("verb_class", 2, ""), "line 4, column verb_class: '' is not a verb class"),
    ("test", put("verb_class", 0, "1.5"), "line 2, column verb_class: '1.5' is not a verb"),
    ("test", put("all_noun_classes", 1, "[300]"), r"line 3, column all_noun_classes: '\[300"),
    ("test", put("all_noun_classes", 1, "[]"), "line 3, .* has no noun class"),
    ("test", put("all_noun_classes", 1, "__import__('os')"), "line 3, .* is not a list of noun"),
    ("test", put("start_timestamp", 3, "12"), "line 5, column start_timestamp: '12' is not a ti"),
    ("test", put("start_timestamp", 3, "00:00:01.0000000000"), "line 5, column start_timestamp: .* is not a time"),
    ("test", put("verb_class", 2, "9" * 5000), "line 4, column verb_class: '999.* is not a verb class"),
    ("test", put("verb_class", 2, "1.0"), "line 4, column verb_class: '1.0' is not a verb class"),
    ("test", put("all_noun_classes", 2, f"[{'9' * 5000}]"), "line 4, column all_noun_classes: .* is not a list of"),
    ("test", put("narration", 2, " "), "line 4, column narration: ' ' is blank"),
    ("test", put("participant_id", 2, ""), "line 4, column participant_id: '' is blank"),
    ("test", lambda f: pd.concat([f, f[1:2]]), "column narration_id: .* is there twice"),
    ("test_sentence", lambda f: pd.concat([f[:3], f]), "line 5, column narration_id: .* is there twice.*and 2 more"),
    ("train_sentence", put("narration", 2, ""), "sentence.csv, line 4, column narration: '' is blank"),
    ("test", put("stop_timestamp", 3, "00:00:00.00"), "line 5, .*'00:00:00.00' is before the"),
    ("test_sentence", put("narration_id", 1, "P99_01_0"),
     "sentence.csv, line 3, column narration_id: 'P99_01_0' has no row among the clips, so the sentence has no class"),
    ("test", put("start_timestamp", 3, "99:99:99.5"), "line 5, column start_timestamp: '99:99:99.5' is not a time"),
    ("train_sentence", lambda f: f.drop(columns="noun_classes"), "sentence.csv has no column noun_classes"),
    ("train_sentence", put("noun_classes", 4, "[1, 999]"), "line 6, column noun_classes"),
])
def test_mistakes_are_named(copy: Path, options: dict[str, Any], file: str, change: Change, message: str) -> None:
    edit(copy / f"EPIC_100_retrieval_{file}.csv", change)
    with pytest.raises(ValueError, match=message):
        EK100DataModule(str(copy), **options).load(file.removesuffix("_sentence"))


def test_missing_files_and_bad_options(tmp_path: Path, options: dict[str, Any]) -> None:
    data = EK100DataModule(str(tmp_path), **options)
    with pytest.raises(ValueError, match="EPIC_100_retrieval_train.csv is missing: put "):
        data.train_dataloader()
    with pytest.raises(ValueError, match="prompt must have {} where the text goes"):
        EK100DataModule(str(tmp_path), prompt="#C C", **options)
    with pytest.raises(ValueError, match="val_fraction is a share"):
        EK100DataModule(str(tmp_path), val_fraction=0.0, **options)


def test_no_videos(copy: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="There is no folder .*films with the videos"):
        EK100DataModule(str(copy), videos="films", **options).test_dataloader()


def test_validating_on_the_test_data_is_the_benchmark(toy: Path, options: dict[str, Any]) -> None:
    data = EK100DataModule(str(toy / "ek100"), **(options | {"val": "EPIC_100_retrieval_test.csv"}))
    assert data.load("val").texts == data.load("test").texts and not data.has_test_data


def test_a_clip_that_no_text_fits_is_named(copy: Path, options: dict[str, Any]) -> None:
    edit(copy / "EPIC_100_retrieval_train_sentence.csv", lambda f: f[:1].assign(verb_class="50", noun_classes="[299]"))
    with pytest.raises(ValueError, match=r"training clips have no text .*; the first: P01_01_0"):
        EK100DataModule(str(copy), **options).train_dataloader()


def test_relevancy_files_are_used(copy: Path, options: dict[str, Any]) -> None:
    data = EK100DataModule(str(copy), train_relevancy="r.safetensors", **options)
    fresh = EK100DataModule(str(copy), **options).load("train").relevancy.full()
    assert torch.equal(data.load("train").relevancy.full(), fresh) and (copy / "r.safetensors").is_file()
    assert torch.equal(data.load("train").relevancy.full(), fresh)
    with pytest.raises(ValueError, match="r.safetensors is for .* it belongs to another split"):
        EK100DataModule(str(copy), test_relevancy="r.safetensors", **options).load("test")


@pytest.mark.skipif(not REAL.is_dir(), reason="EGOVLPV2_REAL_DATA has no such files")
def test_the_real_files() -> None:
    data = EK100DataModule(str(REAL), train="EPIC_100_uda_source_train.csv", **OPTIONS)
    test = data.load("test")
    assert (len(test), len(test.texts)) == (9668, 3842)
    assert test.videos[0] == "P01/P01_11.MP4" and test.span[0].tolist() == pytest.approx([0.0, 1.89])
    relevancy = test.relevancy.full()
    assert relevancy.shape == (9668, 3842)
    assert float(relevancy.double().mean()) == pytest.approx(0.05492904, abs=1e-7)
    assert float((relevancy == 1).double().mean()) == pytest.approx(0.00168356, abs=1e-7)
    train, val = data.load("train"), data.load("val")
    assert len(train) + len(val) == 16115 and len(train.texts) == 15989
    assert 0.01 < len(val) / 16115 < 0.1
    whole = EK100DataModule(str(REAL), train="EPIC_100_uda_source_train.csv", val=data.test, **OPTIONS)
    assert whole.load("train").relevancy.shape == (16115, 15989)

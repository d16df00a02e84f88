"""CharadesEgo in its official files: the toy world's, real ones, and broken ones."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers import REAL_DATA

from egovlpv2.data_modules.charades_ego import CharadesEgoDataModule

REAL = REAL_DATA / "charades_ego"
OPTIONS = {"tokenizer": "unused", "num_workers": 0, "batch_size": 3, "eval_batch_size": 4, "num_frames": 2, "size": 32}


@pytest.fixture
def options(toy: Path) -> dict[str, Any]:
    return OPTIONS | {"tokenizer": str(toy / "tokenizer"), "val": "CharadesEgo_v1_val_only1st.csv"}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Three classes and four videos; none of them exists."""
    (tmp_path / "Charades_v1_classes.txt").write_text("c000 Holding some clothes\nc001 Eating\nc002 Running about\n")
    write(tmp_path, ["AAAEGO,c000 0.0 4.5;c002 3.0 12.0,10", "BBB,c001 0 1,5", "CCCEGO,,5",
                     "DDDEGO,c001 1 2;c001 9 9.5,6"])
    (tmp_path / "CharadesEgo_v1_480").mkdir()
    return tmp_path


def write(folder: Path, rows: list[str], split: str = "train") -> None:
    (folder / f"CharadesEgo_v1_{split}_only1st.csv").write_text("\n".join(["id,actions,length", *rows]) + "\n")


def test_batches(toy: Path, options: dict[str, Any]) -> None:
    data = CharadesEgoDataModule(str(toy / "charades_ego"), eval_num_frames=4, **options)
    rows = pd.read_csv(toy / "charades_ego" / "CharadesEgo_v1_test_only1st.csv", na_filter=False)
    texts, clips = map(list, data.test_dataloader())
    assert [len(batch["text"]["input_ids"]) for batch in texts] == [157]
    assert [key for batch in clips for key in batch["key"]] == rows.id.tolist()
    assert clips[0]["video"].shape == (4, 4, 3, 32, 32)
    shown = torch.cat([batch["relevancy"] for batch in clips])
    for row, actions in zip(shown, rows.actions, strict=True):
        assert row.nonzero()[:, 0].tolist() == sorted({int(action[1:4]) for action in actions.split(";") if action})


def test_a_training_clip_is_one_action_and_its_class_name(toy: Path, options: dict[str, Any]) -> None:
    data = CharadesEgoDataModule(str(toy / "charades_ego"), **options)
    names = (toy / "charades_ego" / "Charades_v1_classes.txt").read_text().splitlines()
    rows = pd.read_csv(toy / "charades_ego" / "CharadesEgo_v1_train_only1st.csv", na_filter=False)
    loader = data.train_dataloader()
    assert data.counts["train_rows"] == sum(len(actions.split(";")) for actions in rows.actions if actions)
    batch = next(iter(loader))
    assert torch.equal(batch["relevancy"].argmax(1), batch["target"]) and batch["relevancy"].sum() == 3
    for ids, target in zip(batch["text"]["input_ids"], batch["target"], strict=True):
        assert data.tokenizer.decode(ids, skip_special_tokens=True) == names[int(target)][5:]


def test_rows_are_egocentric_and_end_with_their_video(small: Path) -> None:
    data = CharadesEgoDataModule(str(small), val="CharadesEgo_v1_train_only1st.csv", **OPTIONS)
    train, val = data.load("train"), data.load("val")
    assert train.videos == ["AAAEGO.mp4", "AAAEGO.mp4", "DDDEGO.mp4"] and data.counts["train_third_person_rows"] == 1
    assert train.span.tolist() == [[0.0, 4.5], [3.0, 10.0], [1.0, 2.0]]  # cut at the video's end, or past it
    assert data.counts["train_actions_after_the_end"] == 1
    assert train.texts == ["Holding some clothes", "Eating", "Running about"]
    assert val.keys == ["AAAEGO", "CCCEGO", "DDDEGO"] and torch.isinf(val.span[:, 1]).all()
    assert val.relevancy.full().tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_without_a_validation_split_videos_are_held_out(toy: Path, options: dict[str, Any]) -> None:
    data = CharadesEgoDataModule(str(toy / "charades_ego"), val_fraction=0.3, **(options | {"val": None}))
    rows = pd.read_csv(toy / "charades_ego" / "CharadesEgo_v1_train_only1st.csv")
    train, val = data.load("train"), data.load("val")
    assert not {*train.videos} & {*val.videos} and len({*train.videos} | {*val.videos}) == len(rows)


@pytest.mark.parametrize(("row", "message"), [
    ("AAAEGO,c003 0 1,5", "line 2, column actions: 'c003 0 1' has a class that is not one of the 3"),
    ("AAAEGO,c001 3 1,5", "line 2, column actions: 'c001 3 1' ends before it starts"),
    ("AAAEGO,c001 x 1,5", "line 2, column actions: 'c001 x 1' is not `c000 start end`"),
    ("AAAEGO,c001 0 1,inf", "line 2, column length: 'inf' is not a number of seconds"),
    (f"AAAEGO,c001 0 {'9' * 400},5", "line 2, column actions: 'c001 0 999.* ends before it starts, or never"),
    ("AAAEGO,c001 -1 1,5", "line 2, column actions: 'c001 -1 1' is not"),
    ("AAAEGO,c001 0 1,5\nAAAEGO,,6", "line 3, column id: 'AAAEGO' is there twice"),
    (" ,c001 0 1,5", "line 2, column id: ' ' is blank"), ("AAAEGO,c001 0 1", "line 2 has 2 fields and the header 3"),
    ('AAAEGO,"c001 0 1,5', "line 2: not a row of a CSV file"),
    ('AAAEGO,"c001 0 1;\nc001 1 2",5\nBBBEGO,c9,5', "line 4, column actions: 'c9' is not"),
    ("AAAEGO,c001 0 1,"  , "line 2, column length: '' is not a number of seconds"),
    ("AAA,c001 0 1,3", "has no first-person video"),
    ("AAAEGO,c001 0 1,3,", "line 2 has 4 fields and the header 3"),
])
def test_mistakes_are_named(small: Path, row: str, message: str) -> None:
    write(small, [row], "test")
    with pytest.raises(ValueError, match=f"CharadesEgo_v1_test_only1st.csv.*{message}"):
        CharadesEgoDataModule(str(small), **OPTIONS).load("test")


@pytest.mark.parametrize(("text", "message"), [
    ("c000 Holding\nc002 Eating\n", "line 2: 'c002 Eating' is not `c001 name of the class`"),
    ("Holding\n", "line 1: 'Holding' is not `c000 name"),
    ("", "names no class"), ("c000 Eating\nc001 Eating\n", "line 2: the class 'Eating' is there twice"),
    ("c0 Eating\n", "line 1: 'c0 Eating' is not `c000"), ("c" + "9" * 5000 + " x\n", "line 1: 'c999.* is not `c000"),
])
def test_bad_classes_are_named(small: Path, text: str, message: str) -> None:
    (small / "Charades_v1_classes.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        CharadesEgoDataModule(str(small), **OPTIONS).load("train")
    (small / "Charades_v1_classes.txt").unlink()
    with pytest.raises(ValueError, match="Charades_v1_classes.txt is missing: put "):
        CharadesEgoDataModule(str(small), **OPTIONS).load("train")


def test_encodings(small: Path) -> None:
    path, classes = small / "CharadesEgo_v1_train_only1st.csv", small / "Charades_v1_classes.txt"
    expected = CharadesEgoDataModule(str(small), val=path.name, **OPTIONS).load("train")
    for file in (path, classes):
        file.write_bytes(file.read_text().replace("\n", "\r\n").encode("utf-8-sig"))
    found = CharadesEgoDataModule(str(small), val=path.name, **OPTIONS).load("train")
    assert (found.keys, found.texts) == (expected.keys, expected.texts)
    for encoding, message in (("utf-16", "line 1: the file is UTF-16"), ("cp1252", "line 2: the file is not UTF-8")):
        path.write_bytes("id,actions,length\ncaféEGO,,5\n".encode(encoding))
        with pytest.raises(ValueError, match=f"{path.name}, {message}"):
            CharadesEgoDataModule(str(small), val=path.name, **OPTIONS).load("train")


def test_a_column_named_twice(small: Path) -> None:
    path = small / "CharadesEgo_v1_train_only1st.csv"
    path.write_text("id,actions,length,length\nAAAEGO,,5,6\n")
    with pytest.raises(ValueError, match=f"{path.name} names the column 'length' twice"):
        CharadesEgoDataModule(str(small), val=path.name, **OPTIONS).load("train")


def test_ids_that_look_like_numbers_are_texts(small: Path) -> None:
    write(small, ["001EGO,c000 0 1,5", "1EGO,,5"], "test")
    assert CharadesEgoDataModule(str(small), **OPTIONS).load("test").keys == ["001EGO", "1EGO"]


@pytest.mark.skipif(not REAL.is_dir(), reason="EGOVLPV2_REAL_DATA has no such files")
def test_the_real_files() -> None:
    data = CharadesEgoDataModule(str(REAL), test="CharadesEgo_v0_egocentric_test.csv", **OPTIONS)
    test = data.load("test")
    assert (len(test), len(test.texts)) == (103, 157) and test.texts[0] == "Holding some clothes"
    assert int((test.relevancy.full().sum(0) == 0).sum()) == 3  # classes without a positive
    train = CharadesEgoDataModule(str(REAL), train=data.test, val=data.test, **OPTIONS).load("train")
    assert len(train) == 883 and (train.span[:, 1] >= train.span[:, 0]).all()

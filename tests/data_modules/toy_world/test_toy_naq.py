"""The toy world's narrations of long takes, of training rooms alone."""

import csv
import json
from pathlib import Path

import pytest

from egovlpv2.cli import main as cli
from egovlpv2.data_modules.toy_world import write
from egovlpv2.data_modules.toy_world.formats import COLUMNS
from egovlpv2.data_modules.toy_world.naq_formats import NAQ_FILES

SECOND_CHUNKS = {"train_videos": 3, "val_videos": 5, "test_videos": 5, "val_questions": 5, "test_questions": 10,
                 "shortest_video": 12.0, "longest_video": 13.0, "chunk_seconds": 6}


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world whose videos fill two chunks."""
    root = tmp_path_factory.mktemp("toy")
    write.generate(root, num_workers=2, **SECOND_CHUNKS)
    return root


def _rows(world: Path) -> list[dict[str, str]]:
    with (world / "naq" / "egoclip.csv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _clips(path: Path) -> dict[str, tuple[float, float]]:
    return {video["video_uid"]: (clip["video_start_sec"], clip["video_end_sec"])
            for video in json.loads(path.read_text())["videos"] for clip in video["clips"]}


def test_narrations_are_those_of_training_rooms_in_their_takes(longer: Path) -> None:
    videos = {video["uid"]: video for video in json.loads((longer / "script.json").read_text())}
    own = _clips(longer / "nlq" / "nlq_train.json")
    more = _clips(longer / "naq" / "vq_train.json")
    rows = _rows(longer)
    assert own and more and not own.keys() & more.keys() and {row["video_uid"] for row in rows} == own.keys() | more
    assert tuple(rows[0]) == COLUMNS
    for row in rows:
        begin, end = float(row["clip_start"]), float(row["clip_end"])
        assert 0 <= begin < end <= (own | more)[row["video_uid"]][1] == float(row["video_dur"])
        chunk, offset = divmod(float(row["narration_time"]), 6)
        file = (longer / "long" / "videos" / row["video_uid"] / f"{int(chunk)}.mp4").resolve()
        video = videos[file.parent.name]
        assert video["split"] == "train" and int(file.stem) == (row["video_uid"] in more)
        middle = 6 * int(file.stem) + offset
        (event,) = [e for e in video["events"] if abs((e["start"] + e["end"]) / 2 - middle) < 0.01]
        assert event["text"] == row["clip_text"]


def test_the_command_takes_them_all(longer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [longer / "nlq" / "nlq_train.json", longer / "mq" / "moments_train.json", longer / "naq" / "vq_train.json"]
    cli(["naq", str(longer / "naq" / "egoclip.csv"), str(tmp_path / "naq.json"), "--clips", *map(str, files),
         "--nlq", str(files[0])])
    out = " ".join(capsys.readouterr().out.split())
    assert f"{len(_rows(longer))} narrations as queries" in out and "0 narrations outside every clip left out" in out


def test_an_earlier_world_gets_them_and_keeps_its_files(tmp_path: Path) -> None:
    write.generate(tmp_path / "toy", num_workers=2, **SECOND_CHUNKS)
    before = {path: path.read_bytes() for path in (tmp_path / "toy").rglob("*") if path.is_file()}
    for name in NAQ_FILES:
        (tmp_path / "toy" / name).unlink()
    write.generate(tmp_path / "toy", **SECOND_CHUNKS)
    assert {path: path.read_bytes() for path in (tmp_path / "toy").rglob("*") if path.is_file()} == before

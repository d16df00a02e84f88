"""EgoMCQ: the official format, its errors by question and key, and questions that can't be asked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import REAL_DATA
from lightning import LightningModule, Trainer

from egovlpv2.batch import Difference
from egovlpv2.data_modules.clips import ClipReader
from egovlpv2.data_modules.egomcq import EgoMCQ, EgoMCQDataModule
from egovlpv2.data_modules.loaders import PAD_INDEX

REAL = REAL_DATA / "real_egoclip"


class Asker(LightningModule):
    """Counts the questions that it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[int] = []

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        assert set(batch) == {"key", "video", "text", "answer", "kind", "difference"}
        self.answers += batch["answer"].tolist()

    test_step = validation_step


def ask(data: EgoMCQDataModule, run: str = "validate") -> list[int]:
    asker = Asker()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    getattr(trainer, run)(asker, datamodule=data, verbose=False)
    return asker.answers


def reader(folder: Path, num_frames: int = 2) -> ClipReader:
    return ClipReader(folder / "videos", num_frames, 16, 4.0)


def test_batches(world: Path, options: dict[str, Any]) -> None:
    data = EgoMCQDataModule(str(world), mcq_val="egomcq.json", eval_num_frames=3, **options)
    batches = list(data.val_dataloader())
    assert [len(batch["answer"]) for batch in batches] == [2, 2, 2, 1]
    first = batches[0]
    assert first["video"].shape == (2, 5, 3, 3, 16, 16) and first["video"].dtype == torch.uint8
    assert first["text"]["input_ids"].shape == (2, 4)  # as long as the longest
    assert torch.cat([batch["answer"] for batch in batches]).tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert torch.cat([batch["kind"] for batch in batches]).tolist() == [1, 2, 1, 2, 1, 2, 1]
    assert first["difference"].shape == (2, 5) and int(first["difference"][0, 0]) == Difference.neither  # its answer
    assert first["failures"] == []


def test_clips_are_those_of_the_choices(world: Path) -> None:
    """The videos get lighter with time: `short` begins at 100, `other` at 180, by one a frame, eight a second."""
    question = EgoMCQ(world / "egomcq.json", reader(world))[5]  # choices are rows 5, 8, 11, 14 and 17
    light = question.video.float().mean(dim=(1, 2, 3, 4))
    expected = [60 - 2 + 4.0, 60 + 16 + 4, 100 + 6 + 4, 100 + 24 + 4, 180 + 12 + 4]  # the second file begins at 60
    assert torch.allclose(light, torch.tensor(expected), atol=3.0)
    assert question.text == "#C C does thing5"


def test_choices_differ_from_the_answer_by_their_tags(world: Path, questions: dict[str, Any]) -> None:
    tags: list[tuple[Any, Any]] = [("[1]", "[5, 6]"), ([1, 2], [6]), ("[3]", "[7, 6]"), (" [1 ] ", "[8]"),
                                   ("[9]", "[9]")]
    for choice, (verbs, nouns) in zip(questions["0"]["choices"].values(), tags, strict=True):
        choice |= {"tag_verb": verbs, "tag_noun": nouns}
    for key, odd in (("1", "[]"), ("2", None), ("3", "[1"), ("4", 7), ("5", [1.5]), ("6", "x")):
        for choice in questions[key]["choices"].values():
            choice["tag_verb"] = odd
    (world / "tags.json").write_text(json.dumps(questions))
    dataset = EgoMCQ(world / "tags.json", reader(world))
    names = [[Difference(number).name for number in dataset[i].difference.tolist()] for i in range(len(dataset))]
    assert names[0] == ["neither", "neither", "verb", "noun", "both"]
    assert names[1:] == [["unknown"] * 5] * 6  # tags that can't be read stop no evaluation


def test_evaluation_repeats_itself(world: Path) -> None:
    dataset = EgoMCQ(world / "egomcq.json", reader(world))
    assert torch.equal(dataset[3].video, dataset[3].video)


def test_only_one_type(world: Path, questions: dict[str, Any]) -> None:
    (world / "inter.json").write_text(json.dumps({k: q for k, q in questions.items() if q["types"] == 1}))
    dataset = EgoMCQ(world / "inter.json", reader(world))
    assert [dataset[i].kind for i in range(len(dataset))] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q: q.pop("query"), "missing required field `query`"),
        (lambda q: q.pop("answer"), "missing required field `answer`"),
        (lambda q: q["choices"].pop("4"), "choices must have the keys 0 to 4, not '0, 1, 2, 3'"),
        (lambda q: q["choices"]["2"].pop("clip_end"), "choice '2': Object missing required field `clip_end`"),
        (lambda q: q["choices"]["2"].update(clip_start="x"), "choice '2': clip_start: Expected `float`, got `str`"),
        (lambda q: q["choices"]["1"].update(clip_end=-1), "choice '1': clip_start .* and clip_end -1.0 are not a span"),
        (lambda q: q["choices"]["1"].update(clip_start=-61), "choice '1': clip_start: Expected `float` >= -60"),
        (lambda q: q["choices"]["1"].update(clip_end=1e7), "choice '1': clip_end: Expected `float` <= 1000000"),
        (lambda q: q["choices"]["1"].update(video_uid=5), "choice '1': video_uid: Expected `str`, got `int`"),
        (lambda q: q["choices"]["1"].update(video_uid=""), "choice '1': video_uid: Expected a text that is not blank"),
        (lambda q: q["query"].update(clip_text=" "), "query.clip_text: Expected a text that is not blank"),
        (lambda q: q["query"].update(clip_text=7), "query.clip_text: Expected `str`, got `int`"),
        (lambda q: q.update(answer=5), "answer: Expected `int` <= 4"),
        (lambda q: q.update(answer="3"), "answer: Expected `int`, got `str`"),
        (lambda q: q.update(types=3), "types: Expected `int` <= 2"),
        (lambda q: q.update(choices=[1, 2]), "choices: Expected `object`, got `array`"),
    ],
)
def test_a_malformed_question(
    world: Path, questions: dict[str, Any], change: Callable[[dict[str, Any]], object], message: str
) -> None:
    change(questions["2"])
    (world / "bad.json").write_text(json.dumps(questions))
    with pytest.raises(ValueError, match=f"bad.json, question '2'.*{message}"):
        EgoMCQ(world / "bad.json", reader(world))


def test_a_byte_order_mark_and_ids_that_look_like_numbers(world: Path, questions: dict[str, Any]) -> None:
    questions["2"]["choices"]["0"]["video_uid"] = "001"
    (world / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(questions).encode())
    assert "001" in EgoMCQ(world / "a.json", reader(world)).videos


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "bad.json, line 1, column 2: not JSON"), ('{"0": NaN}', "bad.json: NaN"),
     ("[" * 9999, "nested too deeply"), ("[]", "an object of questions"), ("{}", "an object of")]
)
def test_no_questions(world: Path, content: str, message: str) -> None:
    (world / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        EgoMCQ(world / "bad.json", reader(world))
    with pytest.raises(ValueError, match="gone.json is missing: put "):
        EgoMCQ(world / "gone.json", reader(world))


def test_questions_that_cannot_be_asked(
    world: Path, options: dict[str, Any], damage: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage("other")  # in questions 3 and 5
    data = EgoMCQDataModule(str(world), mcq_val="egomcq.json", max_failed_share=0.5, **options)
    assert ask(data) == [0, 1, 2, 4, 1]
    assert data.counts == {"questions": 7, "skipped_questions": 2, "questions_beyond_the_video": 0}
    assert sum("other" in record.message for record in caplog.records) == 1
    data = EgoMCQDataModule(str(world), mcq_val="egomcq.json", **options)
    with pytest.raises(ValueError, match="1 of 7 questions could not be read.*other/0.mp4"):
        ask(data)


def test_a_batch_of_no_question(world: Path, options: dict[str, Any], damage: Callable[[str], None]) -> None:
    damage("long"), damage("other")
    data = EgoMCQDataModule(str(world), mcq_test="egomcq.json", **options)
    for batch in data.test_dataloader():
        assert batch["video"].shape == (0, 5, 2, 3, 16, 16)
        assert batch["text"]["input_ids"].shape == (0, 6)
        assert batch["answer"].shape == batch["kind"].shape == (0,)
    dataset = EgoMCQ(world / "egomcq.json", reader(world))
    assert dataset[PAD_INDEX].video is None and dataset[PAD_INDEX].failures == []


def test_validation_and_test_have_their_files(world: Path, options: dict[str, Any]) -> None:
    data = EgoMCQDataModule(str(world), mcq_test="egomcq.json", **options)
    assert ask(data, "test") == [0, 1, 2, 3, 4, 0, 1]
    with pytest.raises(ValueError, match="Set data.init_args.mcq_val to an egomcq.json in"):
        ask(data)


@pytest.mark.skipif(not REAL.is_dir(), reason="EGOVLPV2_REAL_DATA has no such files")
def test_real_questions(options: dict[str, Any]) -> None:
    options |= {"chunk_seconds": 600.0, "eval_batch_size": 7}
    data = EgoMCQDataModule(str(REAL), mcq_test="egomcq.json", **options)
    assert len(ask(data, "test")) == 21
    assert data.counts == {"questions": 21, "skipped_questions": 0, "questions_beyond_the_video": 0}


def test_questions_beyond_their_videos_are_counted(world: Path, questions: dict[str, Any], options: dict[str, Any]
                                                   ) -> None:
    """In each evaluation anew, in one without any too."""
    questions["0"]["choices"]["0"]["clip_end"] += 60.0
    (world / "far.json").write_text(json.dumps(questions))
    data = EgoMCQDataModule(str(world), mcq_val="far.json", mcq_test="egomcq.json", **options)
    for run, expected in (("validate", 1), ("test", 0)):
        ask(data, run)
        assert data.protocol["counts"]["questions_beyond_the_video"] == expected

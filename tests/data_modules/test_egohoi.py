"""EgoHOIBench and EgoClip with hard negatives: batches, masks, counts, and bad files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer

from egovlpv2.data_modules.clips import ClipReader
from egovlpv2.data_modules.egohoi import EgoHOIBench, EgoHOIDataModule
from egovlpv2.data_modules.hard_negatives import NEGATIVES, NegativesOfFile
from egovlpv2.data_modules.loaders import PAD_INDEX
from egovlpv2.data_modules.tables import read_clip_table

WriteHard = Callable[..., Path]


class Counter(LightningModule):
    """Counts the clips that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[int] = []

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        assert set(batch) == {"key", "video", "text", "hard_text", "hard_mask"}
        self.lines += batch["key"]


@pytest.fixture
def write_hard(world: Path, rows: list[dict[str, Any]], write_csv: Callable[..., Path]) -> WriteHard:
    """Write the world's rows, `row` k with k + 1 negatives of its verb, and one of its noun."""

    def write(name: str = "hard.csv", changes: dict[int, dict[str, str]] | None = None, count: int = 20) -> Path:
        table = [row | {"verb_neg": ",".join(f"#C C does thing{i + j}" for j in range(1, i + 2)),
                        "noun_neg": "#C thing0"} | (changes or {}).get(i, {}) for i, row in enumerate(rows)]
        return write_csv(world / name, table[:count])

    return write


def test_evaluation_batches(world: Path, options: dict[str, Any], write_hard: WriteHard) -> None:
    write_hard()
    data = EgoHOIDataModule(str(world), val="hard.csv", test="hard.csv", eval_num_frames=3, **options)
    assert not data.has_test_data
    batches = list(data.val_dataloader())
    assert [len(batch["key"]) for batch in batches] == [2] * 10
    assert [line for batch in batches for line in batch["key"]] == list(range(2, 22))
    first, last = batches[0], batches[-1]
    assert first["video"].shape == (2, 3, 3, 16, 16) and first["video"].dtype == torch.uint8
    assert first["hard_mask"].shape == (2, 2, 10) and first["hard_text"]["input_ids"].shape == (40, 4)
    assert first["hard_mask"].sum(2).tolist() == [[1, 1], [2, 1]]
    assert last["hard_mask"].sum(2).tolist() == [[10, 1], [10, 1]]  # more than ten are cut
    things = first["hard_text"]["input_ids"].view(2, 2, 10, 4)[first["hard_mask"]]
    assert data.tokenizer.batch_decode(things, skip_special_tokens=True) == [
        "#C C does thing1", "#C thing0", "#C C does thing2", "#C C does thing3", "#C thing0"]


def test_training_batches_with_negatives_of_a_file(world: Path, options: dict[str, Any], write_hard: WriteHard) -> None:
    write_hard(changes={i: {"verb_neg": "", "noun_neg": ""} for i in range(1, 20)})
    data = EgoHOIDataModule(str(world), hard_negatives="hard.csv", num_hard_negatives=3, **options)
    batches = list(data.train_dataloader())
    assert len(batches) == 5 and data.counts["train_rows"] == 20
    assert all(batch["hard_mask"].shape == (8, 2, 3) and len(batch["hard_text"]["input_ids"]) == 48
               and batch["video"].shape == (8, 2, 3, 16, 16) for batch in batches)
    masks = torch.cat([batch["hard_mask"] for batch in batches])
    own = torch.cat([batch["text"]["input_ids"] for batch in batches])
    is_first = own[:, 3] == data.tokenizer.convert_tokens_to_ids("thing0")
    assert is_first.any() and torch.equal(masks.any(2).any(1), is_first)
    assert masks[is_first].tolist() == [[[True, False, False]] * 2] * int(is_first.sum())
    assert data.protocol["hard_negatives"] == "hard.csv" and data.protocol["num_hard_negatives"] == 3


def test_the_authors_file_serves_as_rows_too(world: Path, options: dict[str, Any], write_hard: WriteHard) -> None:
    write_hard(count=11)
    data = EgoHOIDataModule(str(world), train="hard.csv", hard_negatives="hard.csv", **options)
    assert len(list(data.train_dataloader())) == 2
    data = EgoHOIDataModule(str(world), hard_negatives="hard.csv", **options)
    with pytest.raises(ValueError, match=r"hard.csv has 11 rows and \S+egoclip.csv 20"):
        data.train_dataloader()


def test_training_by_rule(world: Path, options: dict[str, Any]) -> None:
    """Row k shows verb k with nouns k and k + 1: other verbs have its nouns, but its verb has no other nouns."""
    for kind in ("verb", "noun"):
        (world / f"narration_{kind}_taxonomy.csv").write_text("label\n" + "".join(f"thing{i}\n" for i in range(21)))
    data = EgoHOIDataModule(str(world), **options)
    batches = list(data.train_dataloader())
    assert data.protocol["hard_negatives"] == "by rule"
    assert torch.cat([batch["hard_mask"] for batch in batches]).any(0).any(1).tolist() == [True, False]
    again = list(EgoHOIDataModule(str(world), **options).train_dataloader())
    for batch, other in zip(batches, again, strict=True):
        assert torch.equal(batch["hard_text"]["input_ids"], other["hard_text"]["input_ids"])


def test_taxonomies_of_other_captions_are_refused(world: Path, options: dict[str, Any]) -> None:
    data = EgoHOIDataModule(str(world), **options)
    with pytest.raises(ValueError, match="narration_verb_taxonomy.csv"):
        data.train_dataloader()
    for kind in ("verb", "noun"):
        (world / f"narration_{kind}_taxonomy.csv").write_text("label\n" + "unheard\n" * 100)
    with pytest.raises(ValueError, match="no row has a hard negative from .*verb_taxonomy.csv and .*noun_taxonomy.csv"):
        data.train_dataloader()


@pytest.mark.parametrize(("changes", "message"), [
    ({"verb_neg": ""}, "hard.csv, line 7, column verb_neg: no sentence"),
    ({"noun_neg": " , "}, "hard.csv, line 7, column noun_neg: no sentence"),
    ({"noun_neg": "#C C does thing5"}, "line 7, column noun_neg: no sentence, but one other than clip_text"),
])
def test_a_clip_without_wrong_sentences_is_no_question(
    world: Path, write_hard: WriteHard, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        EgoHOIBench(write_hard(changes={5: changes}), ClipReader(world / "videos", 2, 16, 4.0))


def test_unreadable_clips_are_left_out_and_counted(
    world: Path, options: dict[str, Any], write_hard: WriteHard, damage: Callable[[str], None]
) -> None:
    write_hard()
    damage("short")
    data = EgoHOIDataModule(str(world), test="hard.csv", max_failed_share=0.3, **options)
    counter = Counter()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.test(counter, datamodule=data, verbose=False)
    assert counter.lines == [*range(2, 12), *range(17, 22)]
    assert data.counts == {"clips": 20, "skipped_clips": 5, "clips_beyond_the_video": 0, "test_malformed_rows": 0,
                           "test_sentences_left_out": data.counts["test_sentences_left_out"]}
    rows = read_clip_table(data.root / data.files["test"], NEGATIVES)
    texts = [texts for row in range(len(rows)) for texts in NegativesOfFile(rows)(row)]
    assert data.counts["test_sentences_left_out"] == sum(max(len(some) - 10, 0) for some in texts) > 0


def test_padding_of_a_share_is_left_out(world: Path, options: dict[str, Any], write_hard: WriteHard) -> None:
    dataset = EgoHOIBench(write_hard(), ClipReader(world / "videos", 2, 16, 4.0))
    tokenizer = EgoHOIDataModule(str(world), **options).tokenizer
    batch = dataset.collate([dataset[PAD_INDEX]], tokenizer, 6)
    assert batch["key"] == [] and batch["video"].shape == (0, 2, 3, 16, 16) and batch["hard_mask"].shape == (0, 2, 10)
    assert batch["hard_text"]["input_ids"].shape[0] == 0


def test_a_fit_without_validation_and_a_split_without_a_file(world: Path, options: dict[str, Any]) -> None:
    data = EgoHOIDataModule(str(world), test=None, **options)
    assert not data.has_test_data
    for name in ("val", "test"):
        with pytest.raises(ValueError, match=f"Set data.init_args.{name} to an EgoMCQ_hardnegHOI.csv"):
            getattr(data, f"{name}_dataloader")()
    with pytest.raises(ValueError, match="num_hard_negatives=0: give 1 or more"):
        EgoHOIDataModule(str(world), num_hard_negatives=0, **options)

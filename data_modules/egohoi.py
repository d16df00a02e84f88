"""EgoHOIBench, and EgoClip with hard-negative captions to train on, in the formats of EgoNCE++ (Xu et al., 2025)."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from egovlpv2.data_modules.base import VideoDataModule
from egovlpv2.data_modules.clip_groups import ClipGroup, Negatives
from egovlpv2.data_modules.clips import ClipError, ClipReader, Failure
from egovlpv2.data_modules.egoclip import EgoClip, collate
from egovlpv2.data_modules.hard_negatives import (
    NEGATIVES,
    HardNegatives,
    NegativesByRule,
    NegativesOfFile,
    check_same_rows,
    pad_negatives,
)
from egovlpv2.data_modules.loaders import PAD_INDEX, ResumableDataLoader, Rows, require_at_least, stack
from egovlpv2.data_modules.tables import NUM_NOUNS, NUM_VERBS, ClipTable, read_clip_table
from egovlpv2.data_modules.word_forms import inflect_noun, inflect_verb, read_taxonomy
from egovlpv2.tokenization import tokenize
from egovlpv2.video.frame_rules import FrameRule, egoclip

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_NEGATIVES = 10
"""Texts with another verb, and with another noun, of a clip of EgoHOIBench."""

_TRIED = 1000  # rows, evenly spaced, one of which must have a hard negative


class HardPair(NamedTuple):
    """A row of EgoClip and its scene-aware negative, each with hard-negative captions."""

    clips: ClipGroup
    negatives: list[HardNegatives]


class HardNegativeClips(Rows[HardPair]):
    """The rows of EgoClip, with hard-negative captions.

    Args:
        clips: The rows.
        negatives: Gives the hard negatives of a row.
        source: The origin of the hard negatives, for the error.

    Raises:
        ValueError: None of a thousand rows has a hard negative.
    """

    def __init__(self, clips: EgoClip, negatives: NegativesByRule | NegativesOfFile, source: str) -> None:
        self.clips, self.negatives = clips, negatives
        if not any(any(negatives(row)) for row in range(0, len(clips), max(1, len(clips) // _TRIED))):
            raise ValueError(f"no row has a hard negative from {source}: look for blank cells in a file, and for a "
                             "taxonomy of other tags")

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: tuple[int, int]) -> HardPair:
        clips = self.clips[key]
        return HardPair(clips, [self.negatives(row) for row in clips.rows])


def collate_pairs(pairs: list[HardPair], tokenizer: "PreTrainedTokenizerBase", max_tokens: int, count: int
                  ) -> dict[str, Any]:
    """Make a `HardNegativeBatch` with `failures`: B/2 rows and, after them, their scene-aware negatives."""
    texts, mask = pad_negatives((pair.negatives[side] for side in (0, 1) for pair in pairs), count)
    return collate([pair.clips for pair in pairs], tokenizer, max_tokens) | {
        "hard_text": tokenize(tokenizer, texts, max_tokens), "hard_mask": mask}  # (B*2K, L), (B, 2, K)


class SentenceSample(NamedTuple):
    """A clip of EgoHOIBench with its texts; one that can't be read has no video."""

    row: int
    line: int
    video: Tensor | None  # (T, 3, H, W) uint8
    text: str
    negatives: HardNegatives
    failures: list[Failure]
    beyond_video: bool = False


class EgoHOIBench(Rows[SentenceSample]):
    """The clips of an `EgoMCQ_hardnegHOI.csv`.

    Args:
        path: The authors' file, or one in its format.
        reader: Reads the clips.

    Raises:
        ValueError: The file can't be read (see `read_clip_table`), or a clip has no text with another verb or noun.
    """

    def __init__(self, path: Path, reader: ClipReader) -> None:
        self.table, self.reader = read_clip_table(path, NEGATIVES), reader
        self.negatives = NegativesOfFile(self.table)
        self.left_out = 0  # sentences beyond the first ten of a kind
        for row in range(len(self.table)):
            for column, texts in zip(NEGATIVES, self.negatives(row), strict=True):
                self.left_out += max(len(texts) - NUM_NEGATIVES, 0)
                if not texts:
                    raise ValueError(f"{path}, line {int(self.table.line[row])}, column {column}: no sentence, but one "
                                     "other than clip_text is needed, or several with commas between them")

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> SentenceSample:
        if row == PAD_INDEX:
            return SentenceSample(row, 0, None, "", HardNegatives([], []), [])
        name, line = self.table.videos[int(self.table.video[row])], int(self.table.line[row])
        text, negatives = self.table.text[row], self.negatives(row)
        try:
            clip = self.reader.evaluate(name, float(self.table.start[row]), float(self.table.end[row]))
        except ClipError as error:
            return SentenceSample(row, line, None, text, negatives, [Failure(row, name, str(error))])
        return SentenceSample(row, line, clip.frames, text, negatives, [], clip.beyond_video)

    def collate(self, samples: list[SentenceSample], tokenizer: "PreTrainedTokenizerBase", max_tokens: int
                ) -> dict[str, Any]:
        """Make a `SentenceBatch` with `failures` of the clips that could be read, maybe none (Q = 0)."""
        readable = [sample for sample in samples if sample.video is not None]
        videos = [sample.video for sample in samples if sample.video is not None]
        side = self.reader.size
        texts, mask = pad_negatives((sample.negatives for sample in readable), NUM_NEGATIVES)
        return {
            "key": [sample.line for sample in readable],
            "video": stack(videos) if videos else torch.zeros(0, self.reader.num_frames, 3, side, side,
                                                              dtype=torch.uint8),  # (Q, T, 3, H, W)
            "text": tokenize(tokenizer, [sample.text for sample in readable], max_tokens, "longest"),  # (Q, L)
            "hard_text": tokenize(tokenizer, texts, max_tokens, "longest"),  # (Q*2K, L)
            "hard_mask": mask,  # (Q, 2, K)
            "failures": [failure for sample in samples for failure in sample.failures],
            "beyond_video": [sample.row for sample in readable if sample.beyond_video],
        }


class EgoHOIDataModule(VideoDataModule):
    """EgoClip with hard-negative captions to train on; validation and test have clips of EgoHOIBench.

    Args:
        root: The data set's folder; the other paths are relative to it.
        train: The training rows, an `egoclip.csv`.
        val: Clips to validate on, an `EgoMCQ_hardnegHOI.csv`; null: none.
        test: Clips to test on.
        hard_negatives: Hard negatives of the training rows, an `EgoClip_hardnegHOI.csv` with the same rows, which may
            be the file of `train` itself; null: by rule (see `NegativesByRule`), which needs the taxonomies.
        verb_taxonomy: The words of the verb classes, see `read_taxonomy`.
        noun_taxonomy: The words of the noun classes.
        num_hard_negatives: Hard negatives with another verb, and as many with another noun, of a training clip: more
            are cut, and where there are fewer the others are masked.
        negatives: The second clip of each row: another one of its own `scene`, or `any` other.
        videos: The folder of `<video_uid>/<k>.mp4`.
        chunk_seconds: Length of a video's files.
        **kwargs: Arguments of every data module of videos, see `VideoDataModule`.
    """

    tasks = ("egovlpv2.tasks.egohoi.EgoHOI",)
    evaluated = "clips"
    chunk_seconds: float

    def __init__(self, root: str, train: str = "egoclip.csv", val: str | None = None,
                 test: str | None = "EgoMCQ_hardnegHOI.csv", hard_negatives: str | None = None,
                 verb_taxonomy: str = "narration_verb_taxonomy.csv", noun_taxonomy: str = "narration_noun_taxonomy.csv",
                 num_hard_negatives: int = NUM_NEGATIVES, negatives: Negatives = "scene", videos: str = "videos",
                 chunk_seconds: float = 600.0, **kwargs: Any) -> None:
        self.chunk_seconds = chunk_seconds  # first, since `released_rule` needs it
        super().__init__(**kwargs)
        require_at_least(1, num_hard_negatives=num_hard_negatives)
        self.root, self.train, self.hard_negatives = Path(root), Path(root) / train, hard_negatives
        self.files = {"val": val, "test": test}
        self.taxonomies = Path(root) / verb_taxonomy, Path(root) / noun_taxonomy
        self.num_hard_negatives, self.negatives = num_hard_negatives, negatives
        self.videos = Path(root) / videos

    @property
    def protocol(self) -> dict[str, Any]:
        files = {split: str(self.root / file) for split, file in self.files.items() if file}
        return super().protocol | files | {"negatives": self.negatives, "num_hard_negatives": self.num_hard_negatives,
                                           "hard_negatives": self.hard_negatives or "by rule"}

    @property
    def has_test_data(self) -> bool:
        return self.files["test"] not in (None, self.files["val"])

    def released_rule(self) -> FrameRule:
        return partial(egoclip, chunk_seconds=self.chunk_seconds)

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled batches of `train` with hard negatives, the same again after a resume."""
        table, negatives = self._read_rows()
        self.counts["malformed_rows"] = table.malformed
        clips = EgoClip(self.train, self.reader(self.num_frames), self.seed, self.negatives, table=table)
        dataset = HardNegativeClips(clips, negatives, self.hard_negatives or " and ".join(map(str, self.taxonomies)))
        return self.train_loader(dataset, partial(collate_pairs, tokenizer=self.tokenizer, max_tokens=self.max_tokens,
                                                  count=self.num_hard_negatives))

    def _read_rows(self) -> tuple[ClipTable, NegativesByRule | NegativesOfFile]:
        """The training rows, and what gives their hard negatives."""
        if self.hard_negatives is None:
            table = read_clip_table(self.train)
            verbs, nouns = (read_taxonomy(path, inflect, count) for path, inflect, count in zip(
                self.taxonomies, (inflect_verb, inflect_noun), (NUM_VERBS, NUM_NOUNS), strict=True))
            return table, NegativesByRule(table, verbs, nouns, self.num_hard_negatives, self.seed)
        path = self.root / self.hard_negatives
        with_negatives = read_clip_table(path, NEGATIVES)
        if path == self.train:
            return with_negatives, NegativesOfFile(with_negatives)
        table = read_clip_table(self.train)
        check_same_rows(table, self.train, with_negatives, path)
        return table, NegativesOfFile(with_negatives)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Batches of `val`; none when training goes without."""
        if self.files["val"] is None and self.trainer and self.trainer.state.fn == "fit":
            return []
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader:
        """Batches of `test`."""
        return self._evaluation("test")

    def predict_dataloader(self) -> DataLoader:
        """Batches of `test`, to write their scores."""
        return self.test_dataloader()

    def _evaluation(self, split: str) -> DataLoader:
        file = self.files[split]
        if file is None:
            raise ValueError(f"Set data.init_args.{split} to an EgoMCQ_hardnegHOI.csv in {self.root}: there is none.")
        dataset = EgoHOIBench(self.root / file, self.reader(self.eval_num_frames))
        self.counts |= {f"{split}_malformed_rows": dataset.table.malformed,
                        f"{split}_sentences_left_out": dataset.left_out}
        return self.eval_loader(dataset, partial(dataset.collate, tokenizer=self.tokenizer,
                                                 max_tokens=self.eval_max_tokens))

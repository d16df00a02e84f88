"""EgoClip: 3.8 million narrated clips to pre-train on, each with a scene-aware negative."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from egovlpv2.batch import multi_hot
from egovlpv2.data_modules.base import VideoDataModule
from egovlpv2.data_modules.clip_pairs import ClipPair, Negatives
from egovlpv2.data_modules.clips import ClipReader, read_or_replace
from egovlpv2.data_modules.egomcq import MCQSplits
from egovlpv2.data_modules.llm_clips import Concatenated, TableClips
from egovlpv2.data_modules.loaders import ResumableDataLoader, Rows, stack
from egovlpv2.data_modules.narration_table import NarrationTable
from egovlpv2.data_modules.tables import NUM_NOUNS, NUM_VERBS, ClipTable, read_clip_table
from egovlpv2.tokenization import tokenize
from egovlpv2.video.frame_rules import FrameRule, egoclip

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SCENE_SECONDS = 60


class Neighbours:
    """Draw scene-aware negatives: other rows of the same minute of the same video.

    The rows are sorted by video and time, so that a minute, a video and everything are ranges of them.

    Args:
        table: The N rows, at least two.
    """

    def __init__(self, table: ClipTable) -> None:
        minute = (table.time / _SCENE_SECONDS).floor().long().clamp_(min=0)  # (N,)
        self._minutes = int(minute.max()) + 1
        scene = table.video.long() * self._minutes + minute  # (N,)
        second = (table.time - minute * _SCENE_SECONDS).clamp_(0, _SCENE_SECONDS - 1e-3)  # (N,) within the minute
        moment = scene * _SCENE_SECONDS + second  # (N,) seconds, as if the videos were one
        self._order = torch.from_numpy(np.argsort(moment.numpy(), kind="stable"))  # (N,) place -> row
        self._place = torch.empty_like(self._order)  # (N,) row -> place
        self._place[self._order] = torch.arange(len(table))
        self._scene = scene[self._order]  # (N,) of a place, ascending
        self._time = table.time

    def draw(self, row: int, rng: np.random.Generator) -> int:
        """Draw a negative of a row.

        Returns:
            Another row of its minute; if there is none, the row of its video that is nearest in time; if its video
            has no other, any other row.
        """
        place = int(self._place[row])
        scene = int(self._scene[place])
        begin, end = self._range(scene, scene + 1)
        if end - begin < 2:
            video = scene // self._minutes * self._minutes
            begin, end = self._range(video, video + self._minutes)
            near = [int(self._order[p]) for p in (place - 1, place + 1) if begin <= p < end]
            if near:
                return min(near, key=lambda other: abs(float(self._time[other] - self._time[row])))
            begin, end = 0, len(self._order)
        other = begin + int(rng.integers(end - begin - 1))
        return int(self._order[other + (other >= place)])

    def same_minute(self, row: int) -> list[int]:
        """The other rows of a row's minute."""
        scene = int(self._scene[int(self._place[row])])
        return [other for other in self._order[slice(*self._range(scene, scene + 1))].tolist() if other != row]

    def _range(self, first: int, last: int) -> tuple[int, int]:
        """First and last place (exclusive) of the scenes from `first` to `last` (exclusive)."""
        begin, end = torch.searchsorted(self._scene, torch.tensor([first, last])).tolist()
        return begin, end


class EgoClip(Rows[ClipPair]):
    """The N rows of an `egoclip.csv`, each with a negative.

    The sample of a key `(epoch, row)` depends on the seed and the key alone. When a clip of the pair can't be read,
    another row and a negative of its own take their place.

    Args:
        path: The official file, or one in its format.
        reader: Reads the clips.
        seed: Seed of the negatives, times and crops.
        negatives: See `EgoClipDataModule`.
        table: The rows of `path`, if they have been read.

    Raises:
        ValueError: The file can't be read (see `read_clip_table`) or has only one row.
    """

    def __init__(self, path: Path, reader: ClipReader, seed: int, negatives: Negatives = "scene",
                 table: ClipTable | None = None) -> None:
        self.table = read_clip_table(path) if table is None else table
        if len(self.table) < 2:
            raise ValueError(f"{path} has one row: a row needs another one as its negative.")
        self.reader, self.seed = reader, seed
        self.draw_negative = Neighbours(self.table).draw if negatives == "scene" else self._draw_any

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, key: tuple[int, int]) -> ClipPair:
        epoch, row = key
        rng = np.random.default_rng((self.seed, epoch, row))
        _, (rows, video), failures = read_or_replace(row, len(self), rng, lambda i: self._read_pair(i, rng))
        verbs, nouns = ([lists[i] for i in rows] for lists in (self.table.verbs, self.table.nouns))
        return ClipPair(rows, video, [self.table.text[i] for i in rows], verbs, nouns, failures)

    def _draw_any(self, row: int, rng: np.random.Generator) -> int:
        other = int(rng.integers(len(self) - 1))
        return other + (other >= row)

    def _read_pair(self, row: int, rng: np.random.Generator) -> tuple[list[int], Tensor]:
        """A row and its negative, with their clips (2, T, 3, H, W)."""
        rows, table = [row, self.draw_negative(row, rng)], self.table
        return rows, torch.stack([self.reader.train(table.videos[int(table.video[i])], float(table.start[i]),
                                                    float(table.end[i]), rng) for i in rows])


def collate(pairs: list[ClipPair], tokenizer: "PreTrainedTokenizerBase", max_tokens: int) -> dict[str, Any]:
    """Make a `ClipBatch` with `failures`: B/2 rows and, after them, their negatives."""
    sides = [(pair, side) for side in (0, 1) for pair in pairs]
    return {
        "video": stack([pair.video[side] for pair, side in sides]),  # (B, T, 3, H, W)
        "text": tokenize(tokenizer, [pair.text[side] for pair, side in sides], max_tokens),  # (B, L)
        "verbs": multi_hot([pair.verbs[side].tolist() for pair, side in sides], NUM_VERBS),  # (B, 118)
        "nouns": multi_hot([pair.nouns[side].tolist() for pair, side in sides], NUM_NOUNS),  # (B, 582)
        "failures": [failure for pair in pairs for failure in pair.failures],
    }


class EgoClipDataModule(VideoDataModule):
    """EgoClip to train on; validation and test have questions of EgoMCQ.

    Args:
        root: The data set's folder; the other paths are relative to it.
        csv: The training rows, an `egoclip.csv`; null: those of the tables alone.
        negatives: The second clip of each row: another one of its own `scene` (paper) or `any` other.
        videos: The folder of `<video_uid>/<k>.mp4`.
        mcq_val: Questions to validate on, an `egomcq.json`; null: a fit doesn't validate.
        mcq_test: Questions to test on, an `egomcq.json`.
        chunk_seconds: Length of a video's files.
        tables: Tables of more training rows, which `egovlpv2 llm-narrations` writes. Each row is shown once an epoch,
            with one of its texts. They have no verbs and nouns: EgoNCE's positives are their own pairs.
        table_prompt: Template of the tables' texts, with `{}` for the text: `#C {}` makes `#C C lifts the cup` of
            `C lifts the cup`.
        **kwargs: Arguments of every data module of videos, see `VideoDataModule`.
    """

    tasks = ("egovlpv2.tasks.pretrain.Pretrain", "egovlpv2.tasks.egomcq.EgoMCQ")
    evaluated = "questions"
    chunk_seconds: float

    def __init__(self, root: str, csv: str | None = "egoclip.csv", negatives: Negatives = "scene",
                 videos: str = "videos", mcq_val: str | None = None, mcq_test: str | None = None,
                 chunk_seconds: float = 600.0, tables: Sequence[str] = (), table_prompt: str = "{}",
                 **kwargs: Any) -> None:
        self.chunk_seconds = chunk_seconds  # first, since `released_rule` needs it
        super().__init__(**kwargs)
        if csv is None and not tables:
            raise ValueError("data.init_args.csv is null and there are no data.init_args.tables: give one of them")
        if "{}" not in table_prompt:
            raise ValueError(f"data.init_args.table_prompt must have {{}} where the text goes, not {table_prompt!r}")
        self.path, self.negatives = None if csv is None else Path(root) / csv, negatives
        self.tables, self.table_prompt = [Path(root) / name for name in tables], table_prompt
        self.videos = Path(root) / videos
        self.questions = MCQSplits(Path(root), mcq_val, mcq_test)

    @property
    def protocol(self) -> dict[str, Any]:
        return super().protocol | self.questions.protocol | {
            "negatives": self.negatives, "tables": [str(path) for path in self.tables]}

    @property
    def has_test_data(self) -> bool:
        return self.questions.has_test_data

    def released_rule(self) -> FrameRule:
        return partial(egoclip, chunk_seconds=self.chunk_seconds)

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled batches of `csv` and the tables with negatives, the same again after a resume."""
        reader = self.reader(self.num_frames)
        parts: list[Rows[ClipPair]] = []
        if self.path is not None:
            rows = EgoClip(self.path, reader, self.seed, self.negatives)
            self.counts["malformed_rows"] = rows.table.malformed
            parts.append(rows)
        tables = [NarrationTable(path) for path in self.tables]
        parts += [TableClips(table, reader, self.seed, place, self.negatives, self.table_prompt)
                  for place, table in enumerate(tables)]
        self.counts |= {f"{source}_table_rows": sum(len(table) for table in tables if table.source == source)
                        for source in sorted({table.source for table in tables})}
        dataset = parts[0] if len(parts) == 1 else Concatenated(parts)
        return self.train_loader(dataset, partial(collate, tokenizer=self.tokenizer, max_tokens=self.max_tokens))

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Batches of `mcq_val`; none when training goes without."""
        if self.questions.val is None and self.trainer and self.trainer.state.fn == "fit":
            return []
        return self.questions.loader("val", self)

    def test_dataloader(self) -> DataLoader:
        """Batches of `mcq_test`."""
        return self.questions.loader("test", self)

    def predict_dataloader(self) -> DataLoader:
        """Batches of `mcq_test`, to write their scores."""
        return self.test_dataloader()

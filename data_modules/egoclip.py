"""EgoClip: 3.8 million narrated clips to pre-train on, each with a scene-aware negative."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from egovlpv2.data_modules.base import Failure
from egovlpv2.data_modules.clips import TRIES, ChunkReader
from egovlpv2.data_modules.egomcq import EgoMCQDataModule
from egovlpv2.data_modules.loaders import ResumableDataLoader
from egovlpv2.data_modules.tables import NUM_NOUNS, NUM_VERBS, ClipTable, read_clip_table
from egovlpv2.tokenization import tokenize
from egovlpv2.video.container import VideoError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Negatives = Literal["scene", "any"]
_SCENE_SECONDS = 60


class Neighbours:
    """Draws scene-aware negatives: other rows of the same minute of the same video.

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

    def _range(self, first: int, last: int) -> tuple[int, int]:
        """The places of the scenes from `first` to before `last`."""
        begin, end = torch.searchsorted(self._scene, torch.tensor([first, last])).tolist()
        return begin, end


class Pair(NamedTuple):
    """A row and its negative, as a worker reads them; `failures` were drawn before and could not be read."""

    video: Tensor  # (2, T, 3, H, W) uint8
    text: list[str]
    verbs: list[Tensor]
    nouns: list[Tensor]
    failures: list[Failure]


class EgoClip(Dataset[Pair]):
    """The N rows of an `egoclip.csv`.

    What a key `(epoch, row)` gives depends on the seed and the key alone. When a clip of the pair can't be read,
    another row and a negative of its own take their place.

    Args:
        path: The official file, or one in its format.
        reader: Of the clips.
        seed: Of the negatives, times and crops.
        negatives: See `EgoClipDataModule`.

    Raises:
        ValueError: The file can't be read (see `read_clip_table`) or has only one row.
    """

    def __init__(self, path: Path, reader: ChunkReader, seed: int, negatives: Negatives = "scene") -> None:
        self.table = read_clip_table(path)
        if len(self.table) < 2:
            raise ValueError(f"{path} has one row: a row needs another one as its negative.")
        self.reader, self.seed = reader, seed
        self.draw_negative = Neighbours(self.table).draw if negatives == "scene" else self._draw_any

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, key: tuple[int, int]) -> Pair:
        epoch, row = key
        rng = np.random.default_rng((self.seed, epoch, row))
        failures: list[Failure] = []
        while len(failures) < TRIES:
            rows = [row, self.draw_negative(row, rng)]
            if video := self._read(rows, rng, failures):
                verbs, nouns = ([lists[i] for i in rows] for lists in (self.table.verbs, self.table.nouns))
                return Pair(torch.stack(video), [self.table.text[i] for i in rows], verbs, nouns, failures)
            row = int(rng.integers(len(self)))
        raise ValueError(f"{TRIES} clips one after the other could not be read; the last: {failures[-1].reason}")

    def _draw_any(self, row: int, rng: np.random.Generator) -> int:
        other = int(rng.integers(len(self) - 1))
        return other + (other >= row)

    def _read(self, rows: list[int], rng: np.random.Generator, failures: list[Failure]) -> list[Tensor]:
        """Read the rows' clips, each (T, 3, H, W); none, and one failure more, if one of them can't be read."""
        clips: list[Tensor] = []
        for row in rows:
            video = self.table.videos[int(self.table.video[row])]
            try:
                clips.append(self.reader.train(video, float(self.table.start[row]), float(self.table.end[row]), rng))
            except VideoError as error:
                failures.append(Failure(row, video, str(error)))
                return []
        return clips


def collate(pairs: list[Pair], tokenizer: "PreTrainedTokenizerBase", max_tokens: int) -> dict[str, Any]:
    """Make a `ClipBatch` with `failures`: B/2 rows and, after them, their negatives."""
    sides = [(pair, side) for side in (0, 1) for pair in pairs]
    return {
        "video": torch.stack([pair.video[side] for pair, side in sides]),  # (B, T, 3, H, W)
        "text": tokenize(tokenizer, [pair.text[side] for pair, side in sides], max_tokens),  # (B, L)
        "verbs": _multi_hot([pair.verbs[side] for pair, side in sides], NUM_VERBS),  # (B, 118)
        "nouns": _multi_hot([pair.nouns[side] for pair, side in sides], NUM_NOUNS),  # (B, 582)
        "failures": [failure for pair in pairs for failure in pair.failures],
    }


def _multi_hot(ids: list[Tensor], num_classes: int) -> Tensor:
    hot = torch.zeros(len(ids), num_classes)
    for row, classes in zip(hot, ids, strict=True):
        row[classes] = 1.0
    return hot


class EgoClipDataModule(EgoMCQDataModule):
    """EgoClip to train on, EgoMCQ to validate and to test.

    Args:
        root: The data set's folder; the other paths are relative to it.
        csv: The training rows, an `egoclip.csv`.
        negatives: What each row brings along: another one of its own `scene` (paper) or `any` other.
        **kwargs: Of the videos and the questions, see `EgoMCQDataModule`.
    """

    def __init__(self, root: str, csv: str = "egoclip.csv", negatives: Negatives = "scene", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.csv, self.negatives = csv, negatives

    @property
    def protocol(self) -> dict[str, Any]:
        return super().protocol | {"negatives": self.negatives}

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled batches of `csv` with negatives, the same again after a resume."""
        dataset = EgoClip(self.root / self.csv, self.reader(self.num_frames), self.seed, self.negatives)
        self.counts["malformed_rows"] = dataset.table.malformed
        return self.train_loader(dataset, partial(collate, tokenizer=self.tokenizer, max_tokens=self.max_tokens))

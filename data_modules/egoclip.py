"""EgoClip: 3.8 million narrated clips to pre-train on, each with scene-aware negatives."""

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
from egovlpv2.data_modules.clip_groups import (
    ClipGroup,
    Negatives,
    draw_others,
    draw_scene_negatives,
    require_rows,
)
from egovlpv2.data_modules.clips import ClipReader, read_or_replace
from egovlpv2.data_modules.egomcq import MCQSplits
from egovlpv2.data_modules.llm_clips import Concatenated, TableClips
from egovlpv2.data_modules.loaders import ResumableDataLoader, Rows, require_at_least, stack
from egovlpv2.data_modules.narration_table import NarrationTable
from egovlpv2.data_modules.tables import NUM_NOUNS, NUM_VERBS, ClipTable, read_clip_table
from egovlpv2.tokenization import tokenize
from egovlpv2.video.frame_rules import FrameRule, egoclip

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SCENE_SECONDS = 60
_TRIES = 10  # for each negative that shows the same object


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

    def draw(self, row: int, count: int, rng: np.random.Generator) -> list[int]:
        """Draw negatives of a row, see `draw_scene_negatives`."""
        place = int(self._place[row])
        scene = int(self._scene[place])
        video = scene // self._minutes * self._minutes
        drawn = draw_scene_negatives(
            place, count, self._range(scene, scene + 1), self._range(video, video + self._minutes),
            range(len(self._order)), lambda other: float(self._time[self._order[other]]), rng)
        return [int(self._order[other]) for other in drawn]

    def same_minute(self, row: int) -> list[int]:
        """The other rows of a row's minute."""
        scene = int(self._scene[int(self._place[row])])
        return [other for place in self._range(scene, scene + 1) if (other := int(self._order[place])) != row]

    def _range(self, first: int, last: int) -> range:
        """Places of the scenes from `first` to `last` (exclusive)."""
        return range(*torch.searchsorted(self._scene, torch.tensor([first, last])).tolist())


class SameObject:
    """Draw negatives that show a row's object in another action: rows that share a noun and no verb with it.

    Args:
        table: The N rows, at least two.
    """

    def __init__(self, table: ClipTable) -> None:
        self._verbs, self._nouns, self._scene = table.verbs, table.nouns, Neighbours(table)
        rows, nouns = table.nouns.entries()
        nouns, order = nouns.sort(stable=True)
        self._rows = rows[order]  # (entries,) those of each noun together
        self._first = torch.searchsorted(nouns, torch.arange(NUM_NOUNS + 1))

    def draw(self, row: int, count: int, rng: np.random.Generator) -> list[int]:
        """Draw negatives of a row; scene-aware ones in place of those that aren't found in a few tries."""
        drawn: list[int] = []
        nouns, verbs = self._nouns[row].tolist(), set(self._verbs[row].tolist())
        for _ in range(_TRIES * count if nouns else 0):
            noun = int(rng.choice(nouns))
            other = int(self._rows[rng.integers(int(self._first[noun]), int(self._first[noun + 1]))])
            if other not in drawn and other != row and not verbs & set(self._verbs[other].tolist()):
                drawn.append(other)
            if len(drawn) == count:
                return drawn
        return drawn + [i for i in self._scene.draw(row, count, rng) if i not in drawn][:count - len(drawn)]


class EgoClip(Rows[ClipGroup]):
    """The rows of an `egoclip.csv`, each with negatives.

    The sample of a key `(epoch, row)` depends on the seed and the key alone. When one of its clips can't be read,
    another row and negatives of its own take their place.

    Args:
        path: The official file, or one in its format.
        reader: Reads the clips.
        seed: Seed of the negatives, times and crops.
        negatives: See `EgoClipDataModule`.
        num_negatives: See `EgoClipDataModule`.
        table: The rows of `path`, if they have been read.

    Raises:
        ValueError: The file can't be read (see `read_clip_table`) or has too few rows.
    """

    def __init__(self, path: Path, reader: ClipReader, seed: int, negatives: Negatives = "scene",
                 num_negatives: int = 1, table: ClipTable | None = None) -> None:
        self.table = read_clip_table(path) if table is None else table
        require_rows(len(self.table), path, num_negatives)
        self.reader, self.seed, self.num_negatives = reader, seed, num_negatives
        kinds: dict[str, type[Neighbours] | type[SameObject]] = {"scene": Neighbours, "object": SameObject}
        self.draw_negatives = self._draw_any if negatives == "any" else kinds[negatives](self.table).draw

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, key: tuple[int, int]) -> ClipGroup:
        epoch, row = key
        rng = np.random.default_rng((self.seed, epoch, row))
        _, (rows, video), failures = read_or_replace(row, len(self), rng, lambda i: self._read_group(i, rng))
        verbs, nouns = ([lists[i] for i in rows] for lists in (self.table.verbs, self.table.nouns))
        return ClipGroup(rows, video, [self.table.text[i] for i in rows], verbs, nouns, failures)

    def _draw_any(self, row: int, count: int, rng: np.random.Generator) -> list[int]:
        return draw_others(range(len(self)), {row}, count, rng)

    def _read_group(self, row: int, rng: np.random.Generator) -> tuple[list[int], Tensor]:
        """A row and its negatives, with their clips (N, T, 3, H, W)."""
        rows, table = [row, *self.draw_negatives(row, self.num_negatives, rng)], self.table
        return rows, torch.stack([self.reader.train(table.videos[int(table.video[i])], float(table.start[i]),
                                                    float(table.end[i]), rng) for i in rows])


def collate(groups: list[ClipGroup], tokenizer: "PreTrainedTokenizerBase", max_tokens: int) -> dict[str, Any]:
    """Make a `ClipBatch` with `failures`: all rows, then the first negative of each, then the second of each."""
    members = [(group, i) for i in range(len(groups[0].text)) for group in groups]
    return {
        "video": stack([group.video[i] for group, i in members]),  # (B, T, 3, H, W)
        "text": tokenize(tokenizer, [group.text[i] for group, i in members], max_tokens),  # (B, L)
        "verbs": multi_hot([group.verbs[i].tolist() for group, i in members], NUM_VERBS),  # (B, 118)
        "nouns": multi_hot([group.nouns[i].tolist() for group, i in members], NUM_NOUNS),  # (B, 582)
        "failures": [failure for group in groups for failure in group.failures],
    }


class EgoClipDataModule(VideoDataModule):
    """EgoClip to train on; validation and test have questions of EgoMCQ.

    Args:
        root: The data set's folder; the other paths are relative to it.
        csv: The training rows, an `egoclip.csv`; null: those of the tables alone.
        negatives: The other clips beside each row: others of its own `scene` (paper), those that show the same `object`
            in another action (they share a noun and no verb with the row, in any video), or `any` others.
        num_negatives: Number of those (paper: 1). With more of one scene, more of a clip's negatives show the same
            objects in other actions.
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
                 num_negatives: int = 1, videos: str = "videos", mcq_val: str | None = None,
                 mcq_test: str | None = None, chunk_seconds: float = 600.0, tables: Sequence[str] = (),
                 table_prompt: str = "{}", **kwargs: Any) -> None:
        self.chunk_seconds = chunk_seconds  # first, since `released_rule` needs it
        super().__init__(**kwargs)
        require_at_least(1, num_negatives=num_negatives)
        if csv is None and not tables:
            raise ValueError("data.init_args.csv is null and there are no data.init_args.tables: give one of them")
        if negatives == "object" and tables:
            raise ValueError("data.init_args.negatives=object needs the nouns and verbs of the rows, and those of "
                             "data.init_args.tables have none: take negatives=scene with tables")
        if "{}" not in table_prompt:
            raise ValueError(f"data.init_args.table_prompt must have {{}} where the text goes, not {table_prompt!r}")
        self.path = None if csv is None else Path(root) / csv
        self.negatives, self.num_negatives = negatives, num_negatives
        self.tables, self.table_prompt = [Path(root) / name for name in tables], table_prompt
        self.videos = Path(root) / videos
        self.questions = MCQSplits(Path(root), mcq_val, mcq_test)

    @property
    def protocol(self) -> dict[str, Any]:
        return super().protocol | self.questions.protocol | {
            "negatives": self.negatives, "num_negatives": self.num_negatives,
            "tables": [str(path) for path in self.tables]}

    @property
    def clips_per_row(self) -> int:
        """Clips of a row in a batch: its own and those of its negatives."""
        return 1 + self.num_negatives

    @property
    def has_test_data(self) -> bool:
        return self.questions.has_test_data

    def released_rule(self) -> FrameRule:
        return partial(egoclip, chunk_seconds=self.chunk_seconds)

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled batches of `csv` and the tables with negatives, the same again after a resume."""
        reader = self.reader(self.num_frames)
        parts: list[Rows[ClipGroup]] = []
        if self.path is not None:
            rows = EgoClip(self.path, reader, self.seed, self.negatives, self.num_negatives)
            self.counts["malformed_rows"] = rows.table.malformed
            parts.append(rows)
        tables = [NarrationTable(path) for path in self.tables]
        parts += [TableClips(table, reader, self.seed, place, self.negatives, self.num_negatives, self.table_prompt)
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

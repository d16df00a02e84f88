"""Base class of the retrieval data sets: clips, the texts to compare them with, and the relevancy of each pair."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from egovlpv2.batch import Text, TextBatch
from egovlpv2.data_modules.base import VideoDataModule
from egovlpv2.data_modules.clips import ClipError, ClipReader, Failure, read_or_replace
from egovlpv2.data_modules.loaders import PAD_INDEX, DistributedEvalSampler, ResumableDataLoader, Rows, stack
from egovlpv2.metrics.relevancy import Relevancy
from egovlpv2.tokenization import tokenize

Tokenize = Callable[[list[str]], Text]

_TEXTS = 256  # tokenised at a time


@dataclass(frozen=True)
class RetrievalSet:
    """N clips and M texts.

    Args:
        keys: The clips' names in their file.
        videos: Each clip's file.
        span: Start and end of each clip, seconds, (N, 2) float64; an infinite end is the video's.
        texts: The texts to compare the clips with.
        relevancy: (N, M).
    """

    keys: list[str]
    videos: list[str]
    span: Tensor
    texts: list[str]
    relevancy: Relevancy

    def __post_init__(self) -> None:
        assert len(self.keys) == len(self.videos) == len(self.span)
        assert self.relevancy.shape == (len(self.videos), len(self.texts))

    def __len__(self) -> int:
        return len(self.videos)


class RetrievalSample(NamedTuple):
    """A clip in a worker; one that can't be read has no video. `failures` could not be read."""

    row: int
    key: str
    video: Tensor | None  # (T, 3, H, W) uint8
    relevancy: Tensor  # (M,)
    target: int  # the text drawn for it
    failures: list[Failure]
    beyond_video: bool = False  # it ends after its video


class Texts(Rows[str]):
    """The M texts, in their order."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> str:
        return self.texts[index]


class TrainingClips(Rows[RetrievalSample]):
    """Clips at random times and in random crops, each with a text drawn among those that fit it.

    The sample of a key `(epoch, row)` depends on the seed and the key alone; a clip that can't be read is replaced.
    """

    def __init__(self, data: RetrievalSet, reader: ClipReader, seed: int, min_relevancy: float) -> None:
        self.data, self.reader, self.seed, self.min_relevancy = data, reader, seed, min_relevancy
        if (unfit := data.relevancy.best() <= min_relevancy).any():
            raise ValueError(f"{int(unfit.sum())} training clips have no text of a relevancy above {min_relevancy}; "
                             f"the first: {data.keys[int(unfit.nonzero()[0])]}. Look at the sentences and the "
                             "relevancy, or lower data.init_args.min_relevancy.")

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> RetrievalSample:
        epoch, row = key
        rng = np.random.default_rng((self.seed, epoch, row))
        row, video, failures = read_or_replace(row, len(self), rng, lambda i: self._read(i, rng))
        relevancy = self.data.relevancy[row]  # (M,)
        fitting = (relevancy > self.min_relevancy).nonzero()[:, 0]
        target = int(fitting[rng.integers(len(fitting))])
        return RetrievalSample(row, self.data.keys[row], video, relevancy, target, failures)

    def _read(self, row: int, rng: np.random.Generator) -> Tensor:
        start, end = self.data.span[row].tolist()
        return self.reader.train(self.data.videos[row], start, end, rng)


class EvaluationClips(Rows[RetrievalSample]):
    """Clips at the centres of equal segments, in the order of the file."""

    def __init__(self, data: RetrievalSet, reader: ClipReader) -> None:
        self.data, self.reader = data, reader

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> RetrievalSample:
        if row == PAD_INDEX:
            return RetrievalSample(row, "", None, torch.empty(0), 0, [])
        name, key, relevancy = self.data.videos[row], self.data.keys[row], self.data.relevancy[row]
        try:
            clip = self.reader.evaluate(name, *self.data.span[row].tolist())
        except ClipError as error:
            return RetrievalSample(row, key, None, relevancy, 0, [Failure(row, name, str(error))])
        return RetrievalSample(row, key, clip.frames, relevancy, 0, [], clip.beyond_video)


def collate(samples: list[RetrievalSample], data: RetrievalSet, empty: Tensor,
            encode: Tokenize | None = None) -> dict[str, Any]:
    """Make a `RetrievalBatch` with `failures` of the clips that could be read, maybe none.

    Args:
        samples: The clips.
        data: The data set that they are from.
        empty: (0, T, 3, H, W), the videos of a batch without clips.
        encode: Tokenises the drawn texts, in training.
    """
    read = [sample for sample in samples if sample.video is not None]
    videos = [sample.video for sample in samples if sample.video is not None]
    batch = {
        "key": [sample.key for sample in read],
        "index": torch.tensor([sample.row for sample in read], dtype=torch.int64),
        "video": stack(videos) if videos else empty,  # (B, T, 3, H, W)
        "relevancy": torch.stack([sample.relevancy for sample in read]) if read else torch.empty(0, len(data.texts)),
        "failures": [failure for sample in samples for failure in sample.failures],
        "beyond_video": [sample.row for sample in read if sample.beyond_video],
    }
    if encode is None:
        return batch
    targets = [sample.target for sample in read]
    return batch | {"text": encode([data.texts[i] for i in targets]), "target": torch.tensor(targets)}


class RetrievalDataModule(VideoDataModule):
    """Base class of the retrieval data sets.

    An evaluation has two loaders: first all texts, on every process, then the clips, distributed over the processes.

    Args:
        root: The data set's folder; the other paths are relative to it.
        videos: The folder of the videos.
        train: Rows to train on.
        val: Rows to validate on; null: those of `is_validation` of the training videos, which are then not trained on.
        test: Rows to test on.
        val_fraction: Share of the training videos to validate on, if there is no `val`.
        prompt: Template of the texts, with `{}` for the text of the file.
        min_relevancy: The text of a training clip is drawn among those of more relevancy than this.
        **kwargs: Arguments of every data module of videos, see `VideoDataModule`.
    """

    evaluated = "clips"

    def __init__(self, root: str, videos: str, train: str, val: str | None, test: str, val_fraction: float = 0.05,
                 prompt: str = "{}", min_relevancy: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if "{}" not in prompt:
            raise ValueError(f"data.init_args.prompt must have {{}} where the text goes, not {prompt!r}.")
        if not 0 < val_fraction < 1:
            raise ValueError(f"data.init_args.val_fraction is a share of the training videos, not {val_fraction}.")
        if not 0 <= min_relevancy < 1:
            raise ValueError(f"data.init_args.min_relevancy is a relevancy from 0 to below 1, not {min_relevancy}.")
        self.root, self.videos = Path(root), Path(root) / videos
        self.train, self.val, self.test = train, val, test
        self.val_fraction, self.prompt, self.min_relevancy = val_fraction, prompt, min_relevancy

    @abstractmethod
    def load(self, split: str) -> RetrievalSet:
        """The clips and texts of `train`, `val` or `test`."""

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings of the data, for `metrics.json`."""
        val = str(self.root / self.val) if self.val else f"{self.val_fraction:.0%} of the training videos"
        files = {"train": str(self.root / self.train), "val": val, "test": str(self.root / self.test)}
        settings = {"flip": self.flip, "prompt": self.prompt, "min_relevancy": self.min_relevancy}
        return super().protocol | files | settings

    @property
    def has_test_data(self) -> bool:
        """True if a fit should end with a test of the best checkpoint."""
        return self.test != self.val

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled clips with a text each, the same again after a resume."""
        dataset = TrainingClips(self._prompted("train"), self.reader(self.num_frames), self.seed, self.min_relevancy)
        encode = partial(tokenize, self.tokenizer, max_tokens=self.max_tokens)
        return self.train_loader(dataset, self._collate(dataset, encode))

    def val_dataloader(self) -> list[DataLoader]:
        """The texts and the clips of `val`."""
        return self._evaluation("val")

    def test_dataloader(self) -> list[DataLoader]:
        """The texts and the clips of `test`."""
        return self._evaluation("test")

    def predict_dataloader(self) -> list[DataLoader]:
        """The texts and the clips of `test`, to write the best texts of each clip."""
        return self.test_dataloader()

    def _prompted(self, split: str) -> RetrievalSet:
        data = self.load(split)
        return replace(data, texts=[self.prompt.replace("{}", text) for text in data.texts])

    def _evaluation(self, split: str) -> list[DataLoader]:
        data = self._prompted(split)
        clips = EvaluationClips(data, self.reader(self.eval_num_frames))
        self.counts |= {f"{split}_texts": len(data.texts)}
        texts = Texts(data.texts)
        everywhere = DistributedEvalSampler(texts, 1, 0)  # Lightning would distribute the texts over the processes
        encode = partial(tokenize, self.tokenizer, max_tokens=self.eval_max_tokens, padding="longest")
        text_loader = DataLoader(texts, batch_size=_TEXTS, sampler=everywhere, collate_fn=partial(_text_batch, encode))
        return [text_loader, self.eval_loader(clips, self._collate(clips))]

    def _collate(self, clips: TrainingClips | EvaluationClips, encode: Tokenize | None = None
                 ) -> Callable[[list[RetrievalSample]], dict[str, Any]]:
        reader = clips.reader
        empty = torch.empty(0, reader.num_frames, 3, reader.size, reader.size, dtype=torch.uint8)
        return partial(collate, data=clips.data, empty=empty, encode=encode)


def _text_batch(encode: Tokenize, texts: list[str]) -> TextBatch:
    return {"text": encode(texts)}

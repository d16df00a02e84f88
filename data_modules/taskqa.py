"""EgoTaskQA: questions about what people do in short videos, in its official files."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from egovlpv2.batch import Text, multi_hot
from egovlpv2.data_modules.base import VideoDataModule
from egovlpv2.data_modules.clips import ClipError, ClipReader, Failure, read_or_replace
from egovlpv2.data_modules.loaders import PAD_INDEX, SET_ROOT, ResumableDataLoader, Rows, require_at_least, stack
from egovlpv2.data_modules.questions import TaskQAQuestion, kind_names, most_frequent, read_questions
from egovlpv2.heads.answers import read_answers
from egovlpv2.tokenization import tokenize
from egovlpv2.video.frame_rules import FrameRule, taskqa


@dataclass(frozen=True)
class QuestionSet:
    """Questions, grouped by video.

    Args:
        questions: All questions.
        videos: The file of each of the V videos.
        rows: The questions of each video, as indexes of `questions`.
        guesses: The most frequent answer to questions like each question, without a look at its video.
        answers: The answer set.
        kinds: The kinds of questions to score.
    """

    questions: list[TaskQAQuestion]
    videos: list[str]
    rows: list[list[int]]
    guesses: list[int]
    answers: list[str]
    kinds: list[str]


class TaskQASample(NamedTuple):
    """A video in a worker, with some of its questions; `failures` could not be read."""

    video: Tensor | None  # (T, 3, H, W) uint8
    rows: list[int]
    failures: list[Failure]


class TrainingQuestions(Rows[TaskQASample]):
    """Videos with up to `size` of their questions; a video's questions are split into new groups in each epoch.

    The sample of a key `(epoch, row)` depends on the seed and the key alone; a video that can't be read is replaced.
    """

    def __init__(self, data: QuestionSet, reader: ClipReader, seed: int, size: int, augment: bool, draws: bool
                 ) -> None:
        self.data, self.reader, self.seed, self.size, self.augment = data, reader, seed, size, augment
        self.draws = draws
        self.shares = [(video, share) for video, rows in enumerate(data.rows)
                       for share in range(ceil(len(rows) / size))]

    def __len__(self) -> int:
        return len(self.shares)

    def __getitem__(self, key: tuple[int, int]) -> TaskQASample:
        epoch, row = key
        rng = np.random.default_rng((self.seed, epoch, row))
        row, frames, failures = read_or_replace(row, len(self), rng, lambda i: self._read(i, rng))
        video, share = self.shares[row]
        shuffled = np.random.default_rng((self.seed, epoch, video)).permutation(self.data.rows[video])
        return TaskQASample(frames, shuffled[share * self.size : (share + 1) * self.size].tolist(), failures)

    def _read(self, row: int, rng: np.random.Generator) -> Tensor:
        name, start, end = self.data.videos[self.shares[row][0]], 0.0, float("inf")
        if self.augment:
            return self.reader.train(name, start, end, rng)
        return self.reader.evaluate(name, start, end, rng if self.draws else None).frames


class EvaluationQuestions(Rows[TaskQASample]):
    """Videos with all their questions: each is decoded, and passes the trunk, once.

    Args:
        data: The questions.
        reader: Reads the videos.
        seed: Seed of random times, the same in each evaluation; None: the centres of equal segments.
    """

    def __init__(self, data: QuestionSet, reader: ClipReader, seed: int | None) -> None:
        self.data, self.reader, self.seed = data, reader, seed

    def __len__(self) -> int:
        return len(self.data.videos)

    def __getitem__(self, row: int) -> TaskQASample:
        if row == PAD_INDEX:
            return TaskQASample(None, [], [])
        name = self.data.videos[row]
        rng = None if self.seed is None else np.random.default_rng((self.seed, row))
        try:
            return TaskQASample(self.reader.evaluate(name, 0.0, float("inf"), rng).frames, self.data.rows[row], [])
        except ClipError as error:
            return TaskQASample(None, self.data.rows[row], [Failure(row, name, str(error))])


def collate(samples: list[TaskQASample], data: QuestionSet, encode: Callable[[list[str]], Text], empty: Tensor
            ) -> dict[str, Any]:
    """Make an `AnswerBatch` with `failures` of the videos that could be read, maybe none.

    Args:
        samples: The videos.
        data: The questions that they are from.
        encode: Tokenises the questions.
        empty: (0, T, 3, H, W), the videos of a batch without any.
    """
    read = [sample for sample in samples if sample.video is not None]
    videos = [sample.video for sample in samples if sample.video is not None]
    rows = [row for sample in read for row in sample.rows]
    questions = [data.questions[row] for row in rows]
    kinds = {name: i for i, name in enumerate(data.kinds)}
    kind_ids = [[kinds[name] for name in ("all", *question.kinds) if name in kinds] for question in questions]
    return {
        "key": [question.key for question in questions],
        "index": torch.tensor(rows, dtype=torch.int64),  # (Q,)
        "video": stack(videos) if videos else empty,  # (V, T, 3, H, W)
        "of_video": torch.tensor([i for i, sample in enumerate(read) for _ in sample.rows], dtype=torch.int64),  # (Q,)
        "text": encode([question.text for question in questions]),  # (Q, L)
        "answer": torch.tensor([question.answer for question in questions], dtype=torch.int64),  # (Q,)
        "guess": torch.tensor([data.guesses[row] for row in rows], dtype=torch.int64),  # (Q,)
        "kinds": multi_hot(kind_ids, len(kinds)).bool(),  # (Q, K)
        "kind_names": data.kinds,
        "answers": data.answers,
        "failures": [failure for sample in samples for failure in sample.failures],
    }


class TaskQADataModule(VideoDataModule):
    """EgoTaskQA; a question's video is the whole of `<videos>/<interval>.mp4`.

    Args:
        root: The data set's folder.
        split: `direct` mixes all questions; `indirect` trains on those that name objects and actions and tests on
            those that refer to them by what was done.
        videos: The folder of the videos, relative to `root`.
        train: Questions to train on; this file and the next four are in `qa/<split>`, in `qa` or in `root`.
        val: Questions to validate on.
        test: Questions to test on.
        answers: The answer set.
        reasoning_types: The kinds of questions to score.
        questions_per_video: A training row is a video with up to so many of its questions, which share its decoding
            and its trunk; `batch_size` counts videos.
        augment: Show training videos at random times and in random crops.
        **kwargs: Arguments of every data module of videos, see `VideoDataModule`.

    Raises:
        ValueError: A file is missing or malformed; the message names file and question.
    """

    tasks = ("egovlpv2.tasks.taskqa.TaskQA",)
    evaluated = "videos"

    def __init__(self, root: str, split: Literal["direct", "indirect"] = "direct", videos: str = "qa_videos",
                 train: str = "formatted_train_qas_encode.json", val: str = "formatted_val_qas_encode.json",
                 test: str = "formatted_test_qas_encode.json", answers: str = "answer_set.txt",
                 reasoning_types: str = "all_reasoning_types.txt", questions_per_video: int = 1, augment: bool = True,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_at_least(1, questions_per_video=questions_per_video)
        self.root, self.split, self.videos = Path(root), split, Path(root) / videos
        self.train, self.val, self.test = train, val, test
        self.answer_file, self.kind_file = answers, reasoning_types
        self.questions_per_video, self.augment = questions_per_video, augment

    def released_rule(self) -> FrameRule:
        return taskqa

    @cached_property
    def answers(self) -> list[str]:
        """The answer set."""
        return read_answers(self._path(self.answer_file))

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings of the data, for `metrics.json`."""
        files = {name: str(self._path(getattr(self, name))) for name in ("train", "val", "test")}
        options = {"split": self.split, "questions_per_video": self.questions_per_video, "augment": self.augment}
        return super().protocol | files | options

    @property
    def has_test_data(self) -> bool:
        """True if a fit should end with a test of the best checkpoint."""
        return self.test != self.val

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled videos with questions, the same again after a resume."""
        data = self.load("train")
        dataset = TrainingQuestions(data, self.reader(self.num_frames), self.seed, self.questions_per_video,
                                    self.augment, self._draws)
        return self.train_loader(dataset, self._collate(data, self.num_frames, self.max_tokens))

    def val_dataloader(self) -> DataLoader:
        """The videos of `val`."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader:
        """The videos of `test`."""
        return self._evaluation("test")

    def predict_dataloader(self) -> DataLoader:
        """The videos of `test`, to write the answers to their questions."""
        return self._evaluation("test")

    def load(self, name: str) -> QuestionSet:
        """The questions of `train`, `val` or `test`."""
        path = self._path(getattr(self, name))
        questions = read_questions(path, self.answers)
        if not questions:
            raise ValueError(f"{path} has no questions.")
        limit = self.max_tokens if name == "train" else self.eval_max_tokens
        self.counts |= {f"{name}_questions": len(questions),
                        f"{name}_cut_questions": self._count_truncated(questions, limit)}
        order = sorted(range(len(questions)), key=lambda row: questions[row].interval)
        by_video = {interval: list(rows) for interval, rows in groupby(order, lambda row: questions[row].interval)}
        guesses = most_frequent(self._training, questions)
        kinds = kind_names(questions, self._path(self.kind_file, required=False))
        return QuestionSet(questions, [f"{interval}.mp4" for interval in by_video], list(by_video.values()), guesses,
                           self.answers, kinds)

    @cached_property
    def _training(self) -> list[TaskQAQuestion]:
        return read_questions(self._path(self.train), self.answers)

    def _count_truncated(self, questions: list[TaskQAQuestion], limit: int) -> int:
        """The number of questions that have more than `limit` tokens."""
        rows = self.tokenizer([question.text for question in questions])["input_ids"]
        return sum(len(ids) > limit for ids in rows)

    def _evaluation(self, name: str) -> DataLoader:
        data = self.load(name)
        dataset = EvaluationQuestions(data, self.reader(self.eval_num_frames), self.seed if self._draws else None)
        return self.eval_loader(dataset, self._collate(data, self.eval_num_frames, self.eval_max_tokens))

    @property
    def _draws(self) -> bool:
        """True if times are drawn at random without augmentation too: the released code does so, in tests as well."""
        return self.frame_rule == "released"

    def _collate(self, data: QuestionSet, num_frames: int, max_tokens: int
                 ) -> Callable[[list[TaskQASample]], dict[str, Any]]:
        encode = partial(tokenize, self.tokenizer, max_tokens=max_tokens)
        empty = torch.empty(0, num_frames, 3, self.size, self.size, dtype=torch.uint8)
        return partial(collate, data=data, encode=encode, empty=empty)

    def _path(self, name: str, required: bool = True) -> Path:
        candidates = [self.root / "qa" / self.split / name, self.root / "qa" / name, self.root / name]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None and required:
            raise ValueError(f"There is no {' or '.join(map(str, candidates))}: {SET_ROOT}.")
        return found or candidates[0]

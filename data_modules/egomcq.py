"""EgoMCQ: questions that ask for the one of five clips that fits a narration, in the official `egomcq.json`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from egovlpv2.batch import Difference
from egovlpv2.data_modules.base import VideoDataModule
from egovlpv2.data_modules.clips import ClipError, ClipReader, EvalClip, Failure
from egovlpv2.data_modules.loaders import PAD_INDEX, Rows, stack
from egovlpv2.data_modules.packed import Strings
from egovlpv2.io.egomcq_files import NUM_CHOICES, MCQClip, read_egomcq
from egovlpv2.tokenization import tokenize
from egovlpv2.video.frame_rules import FrameRule, egoclip

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def difference(clip: MCQClip, other: MCQClip) -> Difference:
    """Compare the tags of two clips."""
    if not (clip.verbs and other.verbs and clip.nouns and other.nouns):
        return Difference.unknown
    verb, noun = clip.verbs.isdisjoint(other.verbs), clip.nouns.isdisjoint(other.nouns)
    kinds = {(True, False): Difference.verb, (False, True): Difference.noun, (True, True): Difference.both}
    return kinds.get((verb, noun), Difference.neither)


class MCQSample(NamedTuple):
    """A question with its clips; one with a clip that can't be read has no video."""

    key: str
    video: Tensor | None  # (5, T, 3, H, W) uint8
    text: str
    answer: int
    kind: int
    difference: Tensor  # (5,) int64
    failures: list[Failure]
    row: int = PAD_INDEX
    beyond_video: bool = False  # one of its clips ends after its video


class EgoMCQ(Rows[MCQSample]):
    """The Q questions of an `egomcq.json`.

    Args:
        path: The official file, or one in its format.
        reader: Reads the clips.

    Raises:
        ValueError: The file is missing, or one of its questions is malformed.
    """

    def __init__(self, path: Path, reader: ClipReader) -> None:
        self.reader = reader
        questions = read_egomcq(path)
        self._keys = Strings.pack(list(questions))
        self._texts = Strings.pack([question.text for question in questions.values()])
        self._answers = torch.tensor([question.answer for question in questions.values()])  # (Q,) int64
        self._kinds = torch.tensor([question.kind for question in questions.values()])  # (Q,) int64
        clips = [question.clips for question in questions.values()]
        self.videos = sorted({clip.video for choices in clips for clip in choices})
        codes = {video: code for code, video in enumerate(self.videos)}
        self._video = torch.tensor([[codes[clip.video] for clip in choices] for choices in clips])  # (Q, 5)
        self._times = torch.tensor([[clip[1:3] for clip in choices] for choices in clips], dtype=torch.float64)
        self._differences = torch.tensor([[difference(choices[question.answer], clip) for clip in choices] for
                                          question, choices in zip(questions.values(), clips, strict=True)])  # (Q, 5)

    def __len__(self) -> int:
        return len(self._answers)

    def __getitem__(self, index: int) -> MCQSample:
        if index == PAD_INDEX:
            return MCQSample("", None, "", 0, 0, self._differences[0], [])
        clips: list[EvalClip] = []
        failures: list[Failure] = []
        for code, (start, end) in zip(self._video[index].tolist(), self._times[index].tolist(), strict=True):
            try:
                clips.append(self.reader.evaluate(self.videos[code], start, end))
            except ClipError as error:
                failures.append(Failure(index, self.videos[code], str(error)))
        video = None if failures else torch.stack([clip.frames for clip in clips])  # (5, T, 3, H, W)
        answer, kind = int(self._answers[index]), int(self._kinds[index])
        return MCQSample(self._keys[index], video, self._texts[index], answer, kind, self._differences[index], failures,
                         index, any(clip.beyond_video for clip in clips))

    def collate(
        self, questions: list[MCQSample], tokenizer: "PreTrainedTokenizerBase", max_tokens: int
    ) -> dict[str, Any]:
        """Make a `ChoiceBatch` with `failures` of the questions whose clips could be read, maybe none (Q = 0)."""
        videos = [question.video for question in questions if question.video is not None]
        readable = [question for question in questions if question.video is not None]
        side = self.reader.size
        none = torch.zeros(0, NUM_CHOICES, self.reader.num_frames, 3, side, side, dtype=torch.uint8)
        return {
            "key": [question.key for question in readable],
            "video": stack(videos) if videos else none,  # (Q, 5, T, 3, H, W)
            "text": tokenize(tokenizer, [question.text for question in readable], max_tokens, "longest"),  # (Q, L)
            "answer": torch.tensor([question.answer for question in readable], dtype=torch.int64),
            "kind": torch.tensor([question.kind for question in readable], dtype=torch.int64),
            "difference": torch.stack([question.difference for question in readable]) if readable
            else self._differences[:0],  # (Q, 5)
            "failures": [failure for question in questions for failure in question.failures],
            "beyond_video": [question.row for question in readable if question.beyond_video],
        }


@dataclass(frozen=True)
class MCQSplits:
    """The questions that a data module validates and tests with.

    Args:
        root: The data set's folder.
        val: Questions to validate on, an `egomcq.json` in `root`; None: there are none.
        test: Questions to test on.
    """

    root: Path
    val: str | None
    test: str | None

    @property
    def protocol(self) -> dict[str, str]:
        """The files, for `metrics.json`."""
        files = {"val": self.val, "test": self.test}
        return {split: str(self.root / file) for split, file in files.items() if file}

    @property
    def has_test_data(self) -> bool:
        """True if there are test questions that are not those of the validation."""
        return self.test not in (None, self.val)

    def loader(self, split: Literal["val", "test"], data: VideoDataModule) -> DataLoader:
        """Batches of a split's questions.

        Args:
            split: `val` or `test`.
            data: Has the videos, the tokenizer and the settings of evaluations.

        Raises:
            ValueError: There are no questions for this split.
        """
        file = self.val if split == "val" else self.test
        if file is None:
            raise ValueError(f"Set data.init_args.mcq_{split} to an egomcq.json in {self.root}: there is none.")
        dataset = EgoMCQ(self.root / file, data.reader(data.eval_num_frames))
        return data.eval_loader(dataset, partial(dataset.collate, tokenizer=data.tokenizer,
                                                 max_tokens=data.eval_max_tokens))


class EgoMCQDataModule(VideoDataModule):
    """EgoMCQ to validate and to test; give the files that the run needs.

    Args:
        root: The data set's folder; the other paths are relative to it.
        videos: The folder of `<video_uid>/<k>.mp4`.
        mcq_val: Questions to validate on, an `egomcq.json`.
        mcq_test: Questions to test on, an `egomcq.json`.
        chunk_seconds: Length of a video's files.
        **kwargs: Arguments of every data module of videos, see `VideoDataModule`.
    """

    tasks = ("egovlpv2.tasks.egomcq.EgoMCQ", "egovlpv2.tasks.pretrain.Pretrain")
    evaluated = "questions"
    chunk_seconds: float

    def __init__(
        self,
        root: str,
        videos: str = "videos",
        mcq_val: str | None = None,
        mcq_test: str | None = None,
        chunk_seconds: float = 600.0,
        **kwargs: Any,
    ) -> None:
        self.chunk_seconds = chunk_seconds  # first, since `released_rule` needs it
        super().__init__(**kwargs)
        self.videos = Path(root) / videos
        self.questions = MCQSplits(Path(root), mcq_val, mcq_test)

    @property
    def protocol(self) -> dict[str, Any]:
        return super().protocol | self.questions.protocol

    def released_rule(self) -> FrameRule:
        return partial(egoclip, chunk_seconds=self.chunk_seconds)

    def val_dataloader(self) -> DataLoader:
        """Batches of `mcq_val`."""
        return self.questions.loader("val", self)

    def test_dataloader(self) -> DataLoader:
        """Batches of `mcq_test`."""
        return self.questions.loader("test", self)

    def predict_dataloader(self) -> DataLoader:
        """Batches of `mcq_test`, to write their scores."""
        return self.test_dataloader()

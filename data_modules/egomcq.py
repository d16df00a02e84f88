"""EgoMCQ: which of five clips does a narration tell of? In the official `egomcq.json`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
from msgspec import Meta
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from egovlpv2.data_modules.base import Failure, VideoDataModule
from egovlpv2.data_modules.clips import ChunkReader, EvalClip
from egovlpv2.data_modules.loaders import PAD_INDEX
from egovlpv2.data_modules.packed import Strings
from egovlpv2.io.schema import Seconds, Start, Words, check_entries, read_json, shown
from egovlpv2.tokenization import tokenize
from egovlpv2.video.container import VideoError
from egovlpv2.video.frame_rules import FrameRule, egoclip

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_CHOICES = 5


@dataclass
class _Clip:
    """A choice as the file has it."""

    video_uid: Words
    clip_start: Start
    clip_end: Seconds


@dataclass
class _Query:
    """What is asked, as the file has it."""

    clip_text: Words


@dataclass
class _Entry:
    """A question as the file has it."""

    query: _Query
    answer: Annotated[int, Meta(ge=0, lt=NUM_CHOICES)]
    types: Annotated[int, Meta(ge=1, le=2)]  # inter-video, intra-video
    choices: dict[str, Any]


class MCQSample(NamedTuple):
    """A question as a worker reads it; one that can't be asked has no video."""

    key: str
    video: Tensor | None  # (5, T, 3, H, W) uint8
    text: str
    answer: int
    kind: int
    failures: list[Failure]
    row: int = PAD_INDEX
    beyond_video: bool = False  # a clip of it ends after its video


class EgoMCQ(Dataset[MCQSample]):
    """The Q questions of an `egomcq.json`.

    Args:
        path: The official file, or one in its format.
        reader: Of the clips.

    Raises:
        ValueError: The file isn't there, or a question of it is malformed.
    """

    def __init__(self, path: Path, reader: ChunkReader) -> None:
        self.reader = reader
        entries = _load(path)
        self._keys = Strings.pack(list(entries))
        self._texts = Strings.pack([entry.query.clip_text for entry in entries.values()])
        self._answers = torch.tensor([entry.answer for entry in entries.values()])  # (Q,) int64
        self._kinds = torch.tensor([entry.types for entry in entries.values()])  # (Q,) int64
        clips = [_clips(f"{path}, question {shown(key)}", entry.choices) for key, entry in entries.items()]
        self.videos = sorted({video for choices in clips for video, _, _ in choices})
        codes = {video: code for code, video in enumerate(self.videos)}
        self._video = torch.tensor([[codes[video] for video, _, _ in choices] for choices in clips])  # (Q, 5)
        self._times = torch.tensor([[times for _, *times in choices] for choices in clips], dtype=torch.float64)

    def __len__(self) -> int:
        return len(self._answers)

    def __getitem__(self, index: int) -> MCQSample:
        if index == PAD_INDEX:
            return MCQSample("", None, "", 0, 0, [])
        clips: list[EvalClip] = []
        failures: list[Failure] = []
        for code, (start, end) in zip(self._video[index].tolist(), self._times[index].tolist(), strict=True):
            try:
                clips.append(self.reader.evaluate(self.videos[code], start, end))
            except VideoError as error:
                failures.append(Failure(index, self.videos[code], str(error)))
        video = None if failures else torch.stack([clip.frames for clip in clips])  # (5, T, 3, H, W)
        answer, kind = int(self._answers[index]), int(self._kinds[index])
        return MCQSample(self._keys[index], video, self._texts[index], answer, kind, failures, index,
                        any(clip.beyond_video for clip in clips))

    def collate(
        self, questions: list[MCQSample], tokenizer: "PreTrainedTokenizerBase", max_tokens: int
    ) -> dict[str, Any]:
        """Make a `ChoiceBatch` with `failures` of those questions that can be asked, maybe none (Q = 0)."""
        asked = [question for question in questions if question.video is not None]
        side = self.reader.size
        none = torch.zeros(0, NUM_CHOICES, self.reader.num_frames, 3, side, side, dtype=torch.uint8)
        return {
            "key": [question.key for question in asked],
            "video": torch.stack([question.video for question in asked]) if asked else none,  # (Q, 5, T, 3, H, W)
            "text": tokenize(tokenizer, [question.text for question in asked], max_tokens, "longest"),  # (Q, L)
            "answer": torch.tensor([question.answer for question in asked], dtype=torch.int64),
            "kind": torch.tensor([question.kind for question in asked], dtype=torch.int64),
            "failures": [failure for question in questions for failure in question.failures],
            "beyond_video": [question.row for question in asked if question.beyond_video],
        }


def _load(path: Path) -> dict[str, _Entry]:
    if not path.exists():
        raise ValueError(f"There is no file {path}: put EgoMCQ's egomcq.json there, or name another one.")
    content = read_json(path, Any)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} must hold an object of questions, {{\"0\": {{...}}, ...}}.")
    return check_entries(content, _Entry, f"{path}, question")


def _clips(where: str, choices: dict[str, Any]) -> list[tuple[str, float, float]]:
    """The five clips of a question: video, start and end."""
    if set(choices) != {str(choice) for choice in range(NUM_CHOICES)}:
        raise ValueError(f"{where}: choices must have the keys 0 to 4, not {shown(', '.join(choices))}.")
    clips = check_entries({key: choices[key] for key in sorted(choices)}, _Clip, f"{where}, choice")
    for key, clip in clips.items():
        if not max(clip.clip_start, 0.0) <= clip.clip_end:
            raise ValueError(f"{where}, choice {key!r}: clip_start {clip.clip_start} and clip_end {clip.clip_end} are "
                             "not a span of seconds.")
    return [(clip.video_uid, max(clip.clip_start, 0.0), clip.clip_end) for clip in clips.values()]


class EgoMCQDataModule(VideoDataModule):
    """EgoMCQ to validate and to test; give the files that the run needs.

    Args:
        root: The data set's folder; the other paths are relative to it.
        videos: The folder of `<video_uid>/<k>.mp4`.
        mcq_val: Questions to validate on, an `egomcq.json`.
        mcq_test: Questions to test on, an `egomcq.json`.
        chunk_seconds: Length of a video's files.
        **kwargs: Of every data module of videos, see `VideoDataModule`.
    """

    evaluated = "questions"

    def __init__(
        self,
        root: str,
        videos: str = "videos",
        mcq_val: str | None = None,
        mcq_test: str | None = None,
        chunk_seconds: float = 600.0,
        **kwargs: Any,
    ) -> None:
        self.chunk_seconds = chunk_seconds
        super().__init__(**kwargs)
        self.root, self.videos = Path(root), Path(root) / videos
        self.mcq_val, self.mcq_test = mcq_val, mcq_test

    @property
    def protocol(self) -> dict[str, Any]:
        """What a reader of the numbers must know of the data."""
        files = {"val": self.mcq_val, "test": self.mcq_test}
        return super().protocol | {k: str(self.root / v) for k, v in files.items() if v}

    @property
    def released_rule(self) -> FrameRule:
        return partial(egoclip, chunk_seconds=self.chunk_seconds)

    @property
    def has_test_data(self) -> bool:
        """Whether a fit should end with a test of the best checkpoint."""
        return self.mcq_test not in (None, self.mcq_val)

    def reader(self, num_frames: int) -> ChunkReader:
        """A reader of clips of `num_frames` frames.

        Raises:
            ValueError: The folder of the videos is missing.
        """
        if not self.videos.is_dir():
            raise ValueError(f"There is no folder {self.videos}: it must hold <video_uid>/<k>.mp4. Set data.init_args."
                             "root (conf/data/ takes it from EGO_TOY, EGO_OWN or EGO_ROOT), or data.init_args.videos.")
        return ChunkReader(self.videos, num_frames, self.size, self.chunk_seconds, **self.reading)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Batches of `mcq_val`; none when training goes without."""
        if self.mcq_val is None and self.trainer and self.trainer.state.fn == "fit":
            return []
        return self._questions("mcq_val", self.mcq_val)

    def test_dataloader(self) -> DataLoader:
        """Batches of `mcq_test`."""
        return self._questions("mcq_test", self.mcq_test)

    def predict_dataloader(self) -> DataLoader:
        """Batches of `mcq_test`, to write their scores."""
        return self.test_dataloader()

    def _questions(self, name: str, path: str | None) -> DataLoader:
        if path is None:
            raise ValueError(f"Set data.init_args.{name} to an egomcq.json in {self.root}: no questions to ask.")
        dataset = EgoMCQ(self.root / path, self.reader(self.eval_num_frames))
        return self.eval_loader(dataset, partial(dataset.collate, tokenizer=self.tokenizer,
                                                 max_tokens=self.eval_max_tokens))

"""EgoMCQ: which of five clips does a narration tell of? In the official `egomcq.json`."""

import json
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from egovlpv2.data_modules.base import Failure, VideoDataModule
from egovlpv2.data_modules.clips import ChunkReader
from egovlpv2.data_modules.loaders import FILLER
from egovlpv2.data_modules.tables import Strings
from egovlpv2.text import tokenize
from egovlpv2.video.decode import VideoError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_CHOICES = 5


class Question(NamedTuple):
    """A question as a worker reads it; one that can't be asked has no video."""

    key: str
    video: Tensor | None  # (5, T, 3, H, W) uint8
    text: str
    answer: int
    kind: int
    failures: list[Failure]


class EgoMCQ(Dataset[Question]):
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
        questions = [_parse(f"{path}, question {key!r}", entry) for key, entry in entries.items()]
        texts, self._answers, self._kinds, clips = map(list, zip(*questions, strict=True))
        self._texts = Strings.pack(texts)
        self._answers, self._kinds = torch.tensor(self._answers), torch.tensor(self._kinds)  # (Q,) int64
        self.videos = sorted({video for choices in clips for video, _, _ in choices})
        codes = {video: code for code, video in enumerate(self.videos)}
        self._video = torch.tensor([[codes[video] for video, _, _ in choices] for choices in clips])  # (Q, 5)
        self._times = torch.tensor([[times for _, *times in choices] for choices in clips], dtype=torch.float64)

    def __len__(self) -> int:
        return len(self._answers)

    def __getitem__(self, index: int) -> Question:
        if index == FILLER:
            return Question("", None, "", 0, 0, [])
        clips, failures = [], []
        for code, (start, end) in zip(self._video[index].tolist(), self._times[index].tolist(), strict=True):
            try:
                clips.append(self.reader.evaluate(self.videos[code], start, end))
            except VideoError as error:
                failures.append(Failure(index, self.videos[code], str(error)))
        video = None if failures else torch.stack(clips)  # (5, T, 3, H, W)
        answer, kind = int(self._answers[index]), int(self._kinds[index])
        return Question(self._keys[index], video, self._texts[index], answer, kind, failures)

    def collate(
        self, questions: list[Question], tokenizer: "PreTrainedTokenizerBase", max_words: int
    ) -> dict[str, Any]:
        """Make a `ChoiceBatch` with `failures` of those questions that can be asked, maybe none (Q = 0)."""
        asked = [question for question in questions if question.video is not None]
        side = self.reader.size
        none = torch.zeros(0, NUM_CHOICES, self.reader.num_frames, 3, side, side, dtype=torch.uint8)
        return {
            "key": [question.key for question in asked],
            "video": torch.stack([question.video for question in asked]) if asked else none,  # (Q, 5, T, 3, H, W)
            "text": tokenize(tokenizer, [question.text for question in asked], max_words),  # (Q, L)
            "answer": torch.tensor([question.answer for question in asked], dtype=torch.int64),
            "kind": torch.tensor([question.kind for question in asked], dtype=torch.int64),
            "failures": [failure for question in questions for failure in question.failures],
        }


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"There is no file {path}: put EgoMCQ's egomcq.json there, or name another one.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}.") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} must hold an object of questions, {{\"0\": {{...}}, ...}}.")
    return content


def _parse(where: str, entry: Any) -> tuple[str, int, int, list[tuple[str, float, float]]]:
    """Give a question's text, answer, type and five clips (video, start, end)."""
    choices = _field(where, entry, "choices", dict)
    if set(choices) != {str(choice) for choice in range(NUM_CHOICES)}:
        raise ValueError(f"{where}: choices must have the keys 0 to 4, not {', '.join(choices)}.")
    answer, kind = _field(where, entry, "answer", int), _field(where, entry, "types", int)
    if not 0 <= answer < NUM_CHOICES:
        raise ValueError(f"{where}: answer must be 0 to 4, not {answer}.")
    if kind not in (1, 2):
        raise ValueError(f"{where}: types must be 1 (inter-video) or 2 (intra-video), not {kind}.")
    text = _field(f"{where}, query", _field(where, entry, "query", dict), "clip_text", str)
    return text, answer, kind, [_clip(f"{where}, choice {c}", choices[str(c)]) for c in range(NUM_CHOICES)]


def _clip(where: str, row: Any) -> tuple[str, float, float]:
    start, end = (float(_field(where, row, key, (int, float))) for key in ("clip_start", "clip_end"))
    if not (math.isfinite(start) and math.isfinite(end) and max(start, 0.0) <= end):
        raise ValueError(f"{where}: clip_start {start} and clip_end {end} are no span of seconds.")
    return _field(where, row, "video_uid", str), max(start, 0.0), end


def _field(where: str, entry: Any, key: str, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise ValueError(f"{where}: the key {key!r} is missing.")
    if not isinstance(entry[key], kind) or isinstance(entry[key], bool):
        wanted = {dict: "an object", int: "a whole number", str: "a text"}.get(kind, "a number")
        raise ValueError(f"{where}: {key} must be {wanted}, not {entry[key]!r}.")
    return entry[key]


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
        super().__init__(**kwargs)
        self.root, self.videos = Path(root), Path(root) / videos
        self.mcq_val, self.mcq_test, self.chunk_seconds = mcq_val, mcq_test, chunk_seconds

    @property
    def protocol(self) -> dict[str, Any]:
        """What a reader of the numbers must know of the data."""
        files = {"val": self.mcq_val, "test": self.mcq_test}
        crop = "short side to size * 256 / 224, centre crop, frames at the centres of equal segments"
        return super().protocol | {k: str(self.root / v) for k, v in files.items() if v} | {"evaluation": crop}

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
        return ChunkReader(self.videos, num_frames, self.size, self.chunk_seconds)

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
        return self.eval_loader(dataset, partial(dataset.collate, tokenizer=self.tokenizer, max_words=self.max_words))

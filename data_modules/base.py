"""Base class of the data modules of videos: a reader of clips, and a count of unreadable ones."""

import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from egovlpv2.data_modules.clips import ClipReader, Failure
from egovlpv2.data_modules.loaders import (
    COUNTED_IN_TRAINING,
    SET_ROOT,
    SHORTEST_CHUNK,
    LoaderDataModule,
    require_at_least,
)
from egovlpv2.tokenization import load_tokenizer
from egovlpv2.types import FrameOrder, FrameRuleName
from egovlpv2.video.frame_rules import FrameRule, find_rule

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MIN_CLIPS = 1000  # minimum denominator of the failure rate, so that one bad clip can't fail a small data set
_LEAST_TOKENS = 3  # begin, a word and end
_FRAMES_OF = {"centre": "frames at the centres of equal segments",
              "released": "frames and colours as the released code's"}

_log = logging.getLogger(__name__)


class VideoDataModule(LoaderDataModule):
    """Base class of the data sets of videos: common arguments, a reader of clips, and counts of unreadable ones.

    A subclass sets `videos`, the folder of its videos. Its batches are dicts with one entry more than the task sees:
    `failures`, a list of `Failure`. In training those clips have been replaced by others, in evaluation their rows are
    left out. In evaluation another entry, `beyond_video`, has the rows with a clip that ends more than a second after
    its video.

    Args:
        batch_size: Rows of a training batch, on one device.
        eval_batch_size: Rows of a batch in validation and testing, on one device.
        num_workers: Worker processes that decode videos, for one device.
        tokenizer: The text tower's tokenizer: a folder, or a name on the Hugging Face hub.
        max_tokens: Length of a training text in tokens, special ones included; longer texts are truncated.
        eval_max_tokens: Maximum length of a text in validation and testing; texts are padded to the longest of a batch.
        num_frames: Frames of a training clip.
        eval_num_frames: Frames of a clip in validation and testing; `null`: as many as in training.
        size: Height and width of the frames, pixels.
        frame_rule: Choice of a clip's frames: `centre`, at the centres of equal segments in time, or `released`, by
            frame numbers as the released code counts them, and in its readers' colours.
        seed: Seed of the order of the rows and of all that is random in the training data.
        max_failed_share: The run fails when a larger share of the clips can't be read.
        frame_order: Order of a clip's frames in an evaluation, a probe of how much the answers depend on motion:
            `forward`, `backward`, `shuffled` (the same for a clip in each run of a seed) or `frozen` at the middle
            frame. A fit takes `forward` alone.
        drop_last: See `LoaderDataModule`.
    """

    flip: ClassVar[float] = 0.5  # probability of mirroring a training clip
    short_side: ClassVar[int | None] = 256  # to which the released code scales before it crops; None: `size`
    videos: Path
    chunk_seconds: float | None = None  # length of a video's files, where it is a folder of them

    def __init__(
        self,
        batch_size: int = 8,
        eval_batch_size: int = 8,
        num_workers: int = 4,
        tokenizer: str = "roberta-base",
        max_tokens: int = 30,
        eval_max_tokens: int = 77,
        num_frames: int = 4,
        eval_num_frames: int | None = None,
        size: int = 224,
        frame_rule: FrameRuleName = "centre",
        seed: int = 0,
        max_failed_share: float = 0.01,
        frame_order: FrameOrder = "forward",
        drop_last: bool = True,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, seed, drop_last)
        self.tokenizer_name, self.max_tokens, self.eval_max_tokens = tokenizer, max_tokens, eval_max_tokens
        self.num_frames = num_frames
        self.eval_num_frames = num_frames if eval_num_frames is None else eval_num_frames
        require_at_least(1, num_frames=num_frames, eval_num_frames=self.eval_num_frames, size=size)
        require_at_least(_LEAST_TOKENS, max_tokens=max_tokens, eval_max_tokens=eval_max_tokens)
        require_at_least(0, max_failed_share=max_failed_share)
        if self.chunk_seconds is not None:
            require_at_least(SHORTEST_CHUNK, chunk_seconds=self.chunk_seconds)
        self.size, self.frame_rule, self.max_failed_share = size, frame_rule, max_failed_share
        self.frame_order = frame_order
        find_rule(frame_rule, self.released_rule())  # raises where there is no such rule
        self._logged: dict[str, str] = {}  # the reason by video

    def released_rule(self) -> FrameRule | None:
        """The frame rule of the released code for this data set; None if it has none."""
        return None

    def reader(self, num_frames: int) -> ClipReader:
        """A reader of clips of `num_frames` frames.

        Raises:
            ValueError: The folder of the videos is missing.
        """
        if not self.videos.is_dir():
            layout = "" if self.chunk_seconds is None else ", which are folders <video_uid>/<k>.mp4"
            raise ValueError(f"There is no folder {self.videos} with the videos{layout}: {SET_ROOT}, or "
                             "data.init_args.videos.")
        rule = find_rule(self.frame_rule, self.released_rule())
        return ClipReader(self.videos, num_frames, self.size, self.chunk_seconds, rule=rule, flip=self.flip,
                          short_side=self.short_side or self.size, rgb_first=self.frame_rule == "released",
                          order=self.frame_order, seed=self.seed)

    def setup(self, stage: str) -> None:
        """Read the annotations that a fit validates and tests with before hours of training, not after.

        Raises:
            ValueError: A fit would show its clips in another order than that of time.
        """
        if stage != "fit":
            return
        if self.frame_order != "forward":
            raise ValueError(f"data.init_args.frame_order={self.frame_order} is for `egovlpv2 test` and `validate`: a "
                             "fit takes forward")
        counts = dict(self.counts)
        self.val_dataloader()
        if self.has_test_data:
            self.test_dataloader()
        self.counts = counts  # each evaluation counts its own

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings of the data, for `metrics.json`."""
        names = ("num_frames", "eval_num_frames", "size", "max_tokens", "eval_max_tokens", "frame_rule",
                 "frame_order")
        return {name: getattr(self, name) for name in names} | {"evaluation": "the largest centred square, "
                                                                + _FRAMES_OF[self.frame_rule],
                                                                "counts": self._counts_of_all()}

    def _counts_of_all(self) -> dict[str, int]:
        """`counts`, with those of each process's own share summed over the processes."""
        sums = {name: self._total(name) for name in (*COUNTED_IN_TRAINING, f"skipped_{self.evaluated}",
                                                      f"{self.evaluated}_beyond_the_video")}
        return self.counts | {name: number for name, number in sums.items() if name in self.counts}

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer, loaded at its first use."""
        return load_tokenizer(self.tokenizer_name)

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Remove the failures from a batch, count them, and log those of videos that are not yet logged.

        Raises:
            ValueError: More than `max_failed_share` of the clips (in evaluation: rows) could not be read.
        """
        if "failures" not in batch:  # texts
            return batch
        if "beyond_video" in batch:
            self._beyond.update(batch.pop("beyond_video"))
            self.counts[f"{self.evaluated}_beyond_the_video"] = len(self._beyond)
        failures = batch.pop("failures")
        for failure in failures:
            if failure.video not in self._logged:
                _log.warning("Not readable: %s", failure.reason)
            self._logged.setdefault(failure.video, failure.reason)
        assert self.trainer is not None
        count = self._count_replaced if self.trainer.training else self._count_skipped
        count(failures, len(batch["video"]))
        return batch

    def _count_replaced(self, failures: list[Failure], clips: int) -> None:
        read = self._count("train_clips", clips)
        replaced = self._count("replaced_clips", len(failures))
        assert self.trainer is not None
        epoch = self.trainer.num_training_batches * clips  # of a small data set, the denominator is at least an epoch
        self._check_failures("training clips", replaced, max(read, min(_MIN_CLIPS, epoch)))

    def _count_skipped(self, failures: list[Failure], _: int) -> None:
        self._skipped.update(failure.row for failure in failures)
        self.counts[f"skipped_{self.evaluated}"] = len(self._skipped)
        self._check_failures(self.evaluated, len(self._skipped), self._eval_rows)

    def _count(self, name: str, number: int) -> int:
        self.counts[name] = self.counts.get(name, 0) + number
        return self.counts[name]

    def _check_failures(self, name: str, failed: int, total: float) -> None:
        if failed > self.max_failed_share * total:
            some = "; ".join(list(self._logged.values())[:3])
            raise ValueError(
                f"{failed} of {total} {name} could not be read, more than max_failed_share={self.max_failed_share} "
                f"allows: {some}. Look for missing or damaged files, or raise data.init_args.max_failed_share."
            )

"""Base class of the data sets of long videos: clips as features of windows, cut out of files of `egovlpv2 extract`."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
from torch import Tensor

from egovlpv2.data_modules.extraction import ExtractionSource, FeatureRecipe
from egovlpv2.data_modules.loaders import (
    PAD_INDEX,
    SET_ROOT,
    SHORTEST_CHUNK,
    LoaderDataModule,
    Rows,
    require_at_least,
)
from egovlpv2.features import FeatureFolder, Features
from egovlpv2.features.clips import ClipSpan, read_clip_features
from egovlpv2.features.header import differing
from egovlpv2.io.schema import LONGEST
from egovlpv2.types import FeatureKind
from egovlpv2.video.collection import VideoSource, find_videos
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import EvalTransform

_PICTURE = 128  # side of a frame in a picture, pixels


class FeatureRows(Rows[Any]):
    """Rows with features; nothing is drawn at random, so the epoch of a training key `(epoch, row)` has no effect.

    Args:
        rows: The annotations of each row.
        read: Reads the features of a clip.
    """

    def __init__(self, rows: Sequence[Any], read: Callable[[ClipSpan], Features]) -> None:
        self.rows, self.read = rows, read

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> Any:
        row = key[1] if isinstance(key, tuple) else key
        return None if row == PAD_INDEX else self.sample(row)

    @abstractmethod
    def sample(self, row: int) -> Any:
        """The sample of a row."""


class FeatureDataModule(LoaderDataModule):
    """Base class of the data sets of long videos, as features.

    The features of a clip are in a file of its own name, or else in a part of its video's file. Clips without features
    are left out and counted.

    Args:
        root: The data set's folder.
        features: The folder of the features.
        train: Annotations to train on, relative to `root`.
        val: Annotations to validate on.
        test: Annotations to test on; null: none.
        shuffled: Permute each clip's features at random, always in the same way: a baseline of a head without
            temporal information.
        videos: The folder of the videos, to extract features from and for pictures; null: neither.
        chunk_seconds: Length of a video's files, if it is a folder of them.
        weights: Weights to extract missing features with; null: what is missing is left out.
        recipe: Recipe of the features; null: any.
        **kwargs: Arguments of every data module, see `LoaderDataModule`.
    """

    kinds: ClassVar[tuple[FeatureKind, ...]]  # of the features that it takes, the usual one first

    def __init__(self, root: str, features: str, train: str, val: str, test: str | None = None,
                 shuffled: bool = False, videos: str | None = None, chunk_seconds: float = 600.0,
                 weights: str | None = None, recipe: FeatureRecipe | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_at_least(SHORTEST_CHUNK, chunk_seconds=chunk_seconds)
        self.root, self.features = Path(root), features
        self.train, self.val, self.test, self.shuffled = train, val, test, shuffled
        self.videos, self.chunk_seconds = videos, chunk_seconds
        self.weights, self.recipe = weights, recipe
        if recipe is not None:
            self._check_kind(recipe.kind, "data.init_args.recipe")
        self._spans: dict[str, Sequence[ClipSpan]] = {}  # of each split, for pictures

    @cached_property
    def folder(self) -> FeatureFolder:
        """The features, opened at their first use.

        Raises:
            ValueError: They are of another recipe than expected, or of a kind that the data set can't use.
        """
        folder = FeatureFolder(self.features)
        if self.recipe is not None:
            self.recipe.check(folder)
        self._check_kind(folder.recipe.kind, self.features)
        return folder

    def _check_kind(self, kind: FeatureKind, source: str) -> None:
        if kind not in self.kinds:
            raise ValueError(f"{source}: features of kind {kind}, and {type(self).__name__} takes those of kind "
                             f"{', '.join(self.kinds)}: extract others with `egovlpv2 extract --kind {self.kinds[0]}`")

    def prepare_data(self) -> None:
        """Extract the features that are missing; Lightning calls it on one process of each node."""
        if self.videos is not None and self.weights is not None and self.recipe is not None:
            self._refuse_another_head(self.recipe)
            rows = [(span.clip, span.video) for split in ("train", "val", "test") if getattr(self, split) is not None
                    for span in self.annotated_spans(split)]
            source = ExtractionSource(self.videos, self.weights, self.chunk_seconds, num_workers=self.num_workers,
                                      **self.device_and_precision)
            source.extract(Path(self.features), self.recipe, rows, self.query_files)

    def _refuse_another_head(self, recipe: FeatureRecipe) -> None:
        """Refuse to extract features, which may take hours, for a head that was trained on others."""
        if self.trainer is None or self.trainer.state.fn == "fit":
            return
        before = getattr(self.trainer.lightning_module, "features_before", {})
        if different := differing(asdict(recipe), before):
            raise ValueError("the head was trained on other features than data.init_args.recipe says "
                             f"({'; '.join(different)}): set the recipe, or train a head on these")

    @abstractmethod
    def annotated_spans(self, split: str) -> Sequence[ClipSpan]:
        """The clips of a split's annotations, with features or without."""

    @property
    def query_files(self) -> list[str]:
        """Files of the queries that the features are extracted for."""
        return []

    @property
    def has_test_data(self) -> bool:
        """True if a fit should end with a test of the best checkpoint: not if the test annotations have no answers."""
        return self.test not in (None, self.val) and self.has_ground_truth("test")

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings of the data, for `metrics.json`."""
        recipe = self.folder.recipe
        files = {name: str(self.root / getattr(self, name)) for name in ("train", "val", "test") if getattr(self, name)}
        return feature_protocol(self.folder) | {"features_per_second": recipe.rate,
                                                "window_seconds": recipe.window / recipe.fps,
                                                "shuffled": self.shuffled, **files, "counts": self.counts}

    @property
    def clip_facts(self) -> dict[str, Any]:
        """The settings of clips that a trained head's checkpoint stores, so that it can be used on other videos."""
        return {"longest": self._longest_clip}

    @cached_property
    def _longest_clip(self) -> float:
        """Duration of the longest clip to train on, seconds; its file is read once, not for each checkpoint."""
        return max(span.duration for span in self.annotated_spans("train"))

    def setup(self, stage: str) -> None:
        """Read all annotations before hours of training, not after."""
        for split in ("train", "val", "test") if stage == "fit" else ():
            if getattr(self, split) is not None:
                self.has_ground_truth(split)

    def read(self, span: ClipSpan) -> Features:
        """The features of a clip."""
        features = read_clip_features(self.folder, span)
        if not self.shuffled:
            return features
        order = np.random.default_rng((self.seed, crc32(span.clip.encode()))).permutation(len(features.values))
        return features._replace(values=features.values[order])

    @cached_property
    def sources(self) -> dict[str, VideoSource]:
        """The videos by name."""
        return {source.name: source for source in find_videos([self.videos])} if self.videos else {}

    @abstractmethod
    def has_ground_truth(self, split: str) -> bool:
        """True if the annotations of a split have any answer."""

    def require_ground_truth(self, split: str) -> None:
        """Refuse to score a split without answers."""
        if not self.has_ground_truth(split):
            raise ValueError(f"{self.path(split)} has no answers to score by: use `egovlpv2 predict`")

    @abstractmethod
    def spans(self, split: str) -> Sequence[ClipSpan]:
        """The clip of each row of a split."""

    def preview_frames(self, split: str, row: int, num_frames: int) -> Tensor | None:
        """Frames (n, 3, H, W) uint8 at the centres of equal parts of a row's clip; None without its video."""
        if split not in self._spans:
            self._spans[split] = self.spans(split)
        span = self._spans[split][row]
        source = self.sources.get(span.clip) or self.sources.get(span.video)
        if source is None:
            return None
        start = 0.0 if source.name == span.clip else span.start
        times = uniform_times(start, start + span.duration, num_frames)
        return source.read(times, EvalTransform(_PICTURE), self.chunk_seconds).frames

    def has_features(self, span: ClipSpan) -> bool:
        """True if there are features of a clip."""
        return span.clip in self.folder.names or span.video in self.folder.names

    def path(self, split: str) -> Path:
        """The annotations of `train`, `val` or `test`.

        Raises:
            ValueError: There are none.
        """
        name = getattr(self, split)
        if name is None:
            raise ValueError(f"There are no annotations to {split} on: set data.init_args.{split} (to those of val, to "
                             "score the validation split).")
        return self.annotations(name)

    def annotations(self, name: str) -> Path:
        """A file of the data set's folder.

        Raises:
            ValueError: There is none.
        """
        path = self.root / name
        if not path.is_file():
            raise ValueError(f"There is no file {path}: {SET_ROOT}")
        return path


def feature_protocol(folder: FeatureFolder) -> dict[str, Any]:
    """The recipe of features, for `metrics.json`."""
    recipe = folder.recipe
    return {"features": str(folder.folder), "kind": recipe.kind, "frames": recipe.frames, "size": recipe.size,
            "crop": recipe.crop, "frame_rule": recipe.frame_rule, "features_checkpoint": recipe.checkpoint}


def clip_lag(folder: FeatureFolder, span: ClipSpan) -> float:
    """Seconds by which a clip starts after its first feature, which may be cut out of its video's; negative: before."""
    rate = folder.recipe.rate
    return 0.0 if span.clip in folder.names else span.start - round(span.start * rate) / rate


def check_span(clip: str, video: str, start: float, end: float, where: str) -> ClipSpan:
    """A clip of a video with checked times.

    Args:
        clip, video: Their names.
        start, end: Seconds of the video.
        where: The clip's place, for error messages.

    Raises:
        ValueError: The clip ends before it begins, or has no end.
    """
    if not start < end <= LONGEST:
        raise ValueError(f"{where} lasts from {start} to {end} s of its video: it should end after it begins")
    return ClipSpan(clip, video, start, end)

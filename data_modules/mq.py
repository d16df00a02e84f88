"""Ego4D moment queries, in the official files and in VSGN's `clip_annotations.json`."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from egovlpv2.batch import MomentBatch
from egovlpv2.data_modules.grounding import ClipSpan, FeatureDataModule, FeatureRows
from egovlpv2.data_modules.loaders import ResumableDataLoader, require_at_least
from egovlpv2.data_modules.moments import Moments, read_classes, read_moments
from egovlpv2.features import Features
from egovlpv2.io.schema import plain, shown

_MAX_INSTANCES = 50  # of a clip, in training


class MQSample(NamedTuple):
    """A clip with its features and moments."""

    row: int
    clip: str
    features: Tensor  # (C, T) float32
    num_frames: int
    segments: Tensor  # (G, 2) steps
    classes: Tensor  # (G,)
    duration: float


class MQClips(FeatureRows):
    """Clips with their features and instances.

    Args:
        clips: The clips with features.
        read: Reads the features of a clip.
        classes: Numbers of the labels.
        num_steps: Length to which clips are padded; longer ones are interpolated to it.
        training: Clamp a clip's instances to the clip, and keep the first 50. In evaluation they stay as they are
            annotated, as in the official score.
    """

    def __init__(self, clips: list[Moments], read: Callable[[ClipSpan], Features], classes: dict[str, int],
                 num_steps: int, training: bool = False) -> None:
        super().__init__(clips, read)
        self.classes, self.num_steps, self.training = classes, num_steps, training

    def sample(self, row: int) -> MQSample:
        clip: Moments = self.rows[row]
        features = self.read(clip.span)
        values = features.values.float().T  # (C, t)
        if values.shape[1] > self.num_steps:
            values = F.interpolate(values[None], self.num_steps, mode="linear", align_corners=False)[0]
        count, instances = values.shape[1], clip.instances[: _MAX_INSTANCES if self.training else None]
        times = torch.tensor([times for _, *times in instances], dtype=torch.float32).reshape(-1, 2) / features.duration
        segments = (times.clamp(0, 1) if self.training else times) * count
        classes = torch.tensor([self.classes[label] for label, *_ in instances], dtype=torch.int64)
        padded = F.pad(values, (0, self.num_steps - count))  # (C, T)
        return MQSample(row, clip.span.clip, padded, count, segments, classes, features.duration)


class MQDataModule(FeatureDataModule):
    """Ego4D moment queries: the activities of a clip and their times.

    Args:
        root: The folder of the annotations.
        features: The folder of the features.
        train: Annotations to train on: `moments_train.json`, or `clip_annotations.json`, of which a split takes its
            own `subset`.
        val: Annotations to validate on.
        test: Annotations to test on.
        classes: The labels' numbers, 0 being background.
        num_steps: Length to which clips are padded.
        **kwargs: Arguments of all data sets with features, see `FeatureDataModule`.
    """

    tasks = ("egovlpv2.tasks.mq.MQ",)
    evaluated = "clips"
    kinds = ("projected", "dual", "unit")

    def __init__(self, root: str, features: str, train: str = "moments_train.json", val: str = "moments_val.json",
                 test: str | None = None, classes: str = "moment_classes_idx.json", num_steps: int = 928,
                 **kwargs: Any) -> None:
        super().__init__(root, features, train, val, test, **kwargs)
        require_at_least(1, num_steps=num_steps)
        self.classes_file, self.num_steps = classes, num_steps

    @property
    def protocol(self) -> dict[str, Any]:
        return super().protocol | {"num_steps": self.num_steps}

    @cached_property
    def classes(self) -> dict[str, int]:
        """The number of each label, from 1.

        Raises:
            ValueError: The file is of another form.
        """
        return read_classes(self.annotations(self.classes_file))

    @property
    def labels(self) -> list[str]:
        """The labels by number."""
        return ["", *sorted(self.classes, key=self.classes.__getitem__)]

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled clips."""
        return self.train_loader(self._dataset("train", training=True), self._collate)

    def val_dataloader(self) -> DataLoader:
        """The clips of `val`."""
        return self.eval_loader(self._dataset("val"), self._collate)

    def test_dataloader(self) -> DataLoader:
        """The clips of `test`."""
        self.require_ground_truth("test")
        return self.eval_loader(self._dataset("test"), self._collate)

    def predict_dataloader(self) -> DataLoader:
        """The clips of `test`, or of `val` if there is none, to detect moments in."""
        split = "val" if self.test is None else "test"
        return self.eval_loader(self._dataset(split), self._collate)

    def clips(self, split: str) -> list[Moments]:
        """The clips of a split of which there are features; without instances, those of `train` and `val` drop out.

        Raises:
            ValueError: There are none, or a label is not in the list of classes.
        """
        path = self.path(split)
        annotated = [clip for clip in read_moments(path) if clip.split in (split, "")]
        labelled = [clip for clip in annotated if clip.instances or split == "test"]
        clips = [clip for clip in labelled if self.has_features(clip.span)]
        self.counts |= {f"{split}_without_moments": len(annotated) - len(labelled),
                        f"{split}_without_features": len(labelled) - len(clips),
                        f"{split}_moments_beyond_the_end": sum(end > clip.span.duration + 0.01 for clip in clips
                                                               for _, _, end in clip.instances)}
        for clip in clips:
            for label, *_ in clip.instances:
                if label not in self.classes:
                    raise ValueError(f"{path}: clip {plain(clip.span.clip)}: {shown(label)} is not one of the "
                                     f"{len(self.classes)} labels of {self.root / self.classes_file}")
        if not clips:
            raise ValueError(f"{self.features} has features of none of the {len(annotated)} {split} clips of {path}: "
                             f"extract them with `egovlpv2 extract VIDEOS --out {self.features}`")
        return clips

    def has_ground_truth(self, split: str) -> bool:
        return any(clip.instances for clip in read_moments(self.path(split)) if clip.split in (split, ""))

    def annotated_spans(self, split: str) -> list[ClipSpan]:
        return [clip.span for clip in read_moments(self.path(split)) if clip.split in (split, "")]

    def spans(self, split: str) -> list[ClipSpan]:
        return [clip.span for clip in self.clips(split)]

    def _dataset(self, split: str, training: bool = False) -> MQClips:
        return MQClips(self.clips(split), self.read, self.classes, self.num_steps, training)

    def _collate(self, samples: list[MQSample | None]) -> MomentBatch:
        real = [sample for sample in samples if sample is not None]
        longest = max((len(sample.classes) for sample in real), default=0)
        width = self.folder.recipe.width
        return MomentBatch(
            key=[s.clip for s in real], index=torch.tensor([s.row for s in real], dtype=torch.int64),
            features=torch.stack([s.features for s in real]) if real else torch.zeros(0, width, self.num_steps),
            num_frames=torch.tensor([s.num_frames for s in real], dtype=torch.int64),
            segments=_stacked([F.pad(s.segments, (0, 0, 0, longest - len(s.segments))) for s in real], (0, longest, 2)),
            classes=_stacked([F.pad(s.classes, (0, longest - len(s.classes))) for s in real], (0, longest)).long(),
            duration=torch.tensor([s.duration for s in real], dtype=torch.float32), labels=self.labels,
        )


def _stacked(tensors: list[Tensor], empty: tuple[int, ...]) -> Tensor:
    return torch.stack(tensors) if tensors else torch.zeros(empty)

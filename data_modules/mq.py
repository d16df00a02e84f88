"""Ego4D moment queries, in the official files and in VSGN's `clip_annotations.json`."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from egovlpv2.batch import MomentBatch
from egovlpv2.data_modules.cropped_moments import CroppedClips, MQSample
from egovlpv2.data_modules.grounding import FeatureDataModule, FeatureRows
from egovlpv2.data_modules.loaders import ResumableDataLoader, require_at_least
from egovlpv2.data_modules.moments import Moments, read_classes, read_moments
from egovlpv2.features import Features
from egovlpv2.features.clips import ClipSpan, resized
from egovlpv2.io.schema import plain, shown

_MAX_INSTANCES = 50  # of a clip, in training


class MQClips(FeatureRows):
    """Clips with their features and instances, at most `num_steps` long; times are shares of a clip's duration.

    Args:
        clips: The clips with features.
        read: Reads the features of a clip.
        classes: Numbers of the labels.
        num_steps: Longer clips are interpolated to this length.
        training: Clamp a clip's instances to the clip, and keep the first 50. In evaluation they stay as they are
            annotated, as in the official score.
    """

    def __init__(self, clips: list[Moments], read: Callable[[ClipSpan], Features], classes: dict[str, int],
                 num_steps: int, training: bool = False) -> None:
        super().__init__(clips, read)
        self.classes, self.num_steps, self.training = classes, num_steps, training

    def sample(self, row: int) -> MQSample:
        """A clip."""
        clip: Moments = self.rows[row]
        features = self.read(clip.span)
        values = resized(features.values.float().T, self.num_steps)  # (C, t)
        count, instances = values.shape[1], clip.instances[: _MAX_INSTANCES if self.training else None]
        times = torch.tensor([times for _, *times in instances], dtype=torch.float32).reshape(-1, 2) / features.duration
        segments = (times.clamp(0, 1) if self.training else times) * count
        classes = torch.tensor([self.classes[label] for label, *_ in instances], dtype=torch.int64)
        duration = features.duration
        return MQSample(row, clip.span.clip, values, segments, classes, duration / count, 0.0, duration)


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
        clips_as: Form of the clips. `resized`: longer ones are interpolated to `num_steps`, and times are shares of the
            duration, as for VSGN. `cropped`: training takes random windows of at most `num_steps`, evaluation whole
            clips, and times are those of the features' windows, as for ActionFormer.
        min_seconds: Moments that are shorter are left out of training, of clips that are `cropped`.
        **kwargs: Arguments of all data sets with features, see `FeatureDataModule`.
    """

    tasks = ("egovlpv2.tasks.mq.MQ", "egovlpv2.tasks.mq_actionformer.MQActionFormer")
    evaluated = "clips"
    kinds = ("projected", "dual", "unit")

    def __init__(self, root: str, features: str, train: str = "moments_train.json", val: str = "moments_val.json",
                 test: str | None = None, classes: str = "moment_classes_idx.json", num_steps: int = 928,
                 clips_as: Literal["resized", "cropped"] = "resized", min_seconds: float = 0.0, **kwargs: Any) -> None:
        super().__init__(root, features, train, val, test, **kwargs)
        require_at_least(1, num_steps=num_steps)
        require_at_least(0, min_seconds=min_seconds)
        self.classes_file, self.num_steps, self.clips_as, self.min_seconds = classes, num_steps, clips_as, min_seconds

    @property
    def protocol(self) -> dict[str, Any]:
        cropped = {"min_seconds": self.min_seconds} if self.clips_as == "cropped" else {}
        return super().protocol | {"num_steps": self.num_steps, "clips_as": self.clips_as} | cropped

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

    @property
    def clip_facts(self) -> dict[str, Any]:
        return super().clip_facts | {"labels": self.labels[1:]}

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

    def _dataset(self, split: str, training: bool = False) -> MQClips | CroppedClips:
        clips = self.clips(split)
        if self.clips_as == "resized":
            return MQClips(clips, self.read, self.classes, self.num_steps, training)
        if training:
            self.counts |= {"train_moments_too_short": sum(end - start < self.min_seconds for clip in clips
                                                           for _, start, end in clip.instances)}
        return CroppedClips(clips, self.read, self.folder, self.classes, self.num_steps if training else None,
                            self.min_seconds, self.seed)

    def _collate(self, samples: list[MQSample | None]) -> MomentBatch:
        real = [sample for sample in samples if sample is not None]
        most = max((len(sample.classes) for sample in real), default=0)
        length = max([self.num_steps, *(sample.features.shape[1] for sample in real)])  # T
        times = torch.tensor([(s.step_seconds, s.first_seconds, s.duration) for s in real]).reshape(-1, 3)
        step_seconds, first_seconds, duration = times.float().unbind(1)
        return MomentBatch(
            key=[s.clip for s in real], index=torch.tensor([s.row for s in real], dtype=torch.int64),
            features=_padded([s.features for s in real], (self.folder.recipe.width, length)),
            num_frames=torch.tensor([s.features.shape[1] for s in real], dtype=torch.int64),
            segments=_padded([s.segments for s in real], (most, 2)),
            classes=_padded([s.classes for s in real], (most,)).long(),
            step_seconds=step_seconds, first_seconds=first_seconds, duration=duration, labels=self.labels,
        )


def _padded(tensors: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Stack tensors that are zero-padded to a shape: -> (B, *shape)."""
    out = torch.zeros(len(tensors), *shape)
    for row, tensor in zip(out, tensors, strict=True):
        row[tuple(map(slice, tensor.shape))] = tensor
    return out

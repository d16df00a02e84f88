"""QFVS: query-focused summaries of long videos, as features of their shots.

Letters: `n` shots of a video, `P` prompts of a query, `D` width, `C` concepts of the dictionary. In a batch there are
`G` segments of at most `n` shots.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from egovlpv2.batch import SummaryBatch
from egovlpv2.data_modules.extraction import ExtractionSource, FeatureRecipe
from egovlpv2.data_modules.grounding import feature_protocol
from egovlpv2.data_modules.loaders import (
    PAD_INDEX,
    SHORTEST_CHUNK,
    LoaderDataModule,
    ResumableDataLoader,
    Rows,
    require_at_least,
)
from egovlpv2.data_modules.qfvs_files import (
    ShotFeatures,
    SummaryQuery,
    Template,
    check_templates,
    prompts,
    read_dictionary,
    read_oracles,
    read_tags,
    tags_path,
)
from egovlpv2.features import FeatureFolder
from egovlpv2.heads.summary import MAX_SEGMENT_SHOTS, MAX_SEGMENTS, SEGMENT_PENALTY, CutBy
from egovlpv2.video.collection import find_videos


class QFVSSample(NamedTuple):
    """A query with the features of its prompts."""

    query: SummaryQuery
    row: int
    features: Tensor  # (P, n, D) float16
    lengths: list[int]  # shots of each segment
    concepts: Tensor  # (2, n), 1 where a shot shows the concept
    summary: Tensor  # (n,), 1 where it is in the oracle summary
    tags: Tensor  # (n, C)


class QFVSQueries(Rows[QFVSSample | None]):
    """Queries with features of their prompts.

    Args:
        queries: All queries.
        read: Reads the sample of a query, by its row and the prompts.
        templates: Templates of the prompts.
        seed: In training, seed of the template that is drawn for each `(epoch, row)`; its prompts name the first
            concept, the second, and both. None in evaluation: the prompts name both concepts, one per template.
    """

    def __init__(self, queries: list[SummaryQuery], read: Callable[[SummaryQuery, int, list[str]], QFVSSample],
                 templates: list[Template], seed: int | None = None) -> None:
        self.queries, self.read, self.templates, self.seed = queries, read, templates, seed

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, key: int | tuple[int, int]) -> QFVSSample | None:
        if key == PAD_INDEX:
            return None
        row = key[1] if isinstance(key, tuple) else key
        query = self.queries[row]
        if self.seed is None:
            return self.read(query, row, [prompts(query.concepts, template)[2] for template in self.templates])
        assert isinstance(key, tuple)
        drawn = np.random.default_rng((self.seed, *key)).integers(len(self.templates))
        return self.read(query, row, list(prompts(query.concepts, self.templates[drawn])))


# Shots of 5 s, of which the model sees a frame each second.
SHOT_RECIPE = FeatureRecipe("trunk", fps=1.0, window=5, stride=5, frames=5)


class QFVSDataModule(LoaderDataModule):
    """Query-focused summaries: the shots of a long video that summarise two concepts.

    One video is tested, one validates and the others train. A video's shots are cut into segments where they change
    most.

    Args:
        root: The folder of the annotations.
        features: The folder of the features of shots with each prompt. Their trunks lie in a folder beside it, whose
            name ends in `-trunk`.
        test_video: The video to test on.
        videos: All videos.
        validate_on: `next`: the video after the test video (the first after the last), which doesn't train. `test`: the
            test video, as in the authors' code; all others train, and the checkpoint is picked on the test data.
        templates: Pairs of a prompt of one concept and one of two. Training draws one pair, evaluation uses all.
        max_segments: Maximum number of segments of a video.
        max_segment_shots: Maximum number of shots in a segment.
        vmax: Weight of the penalty on the number of segments.
        cut_by: Features by which a video is cut, see `ShotFeatures`.
        video_folder: The folder of the videos, to extract features from; null: what is missing is an error.
        chunk_seconds: Length of a video's files, if it is a folder of them.
        image_fps: Pictures a second, if a video is a folder of pictures.
        weights: Weights to extract missing features with.
        **kwargs: Arguments of every data module, see `LoaderDataModule`.
    """

    tasks = ("egovlpv2.tasks.qfvs.QFVS",)
    evaluated = "queries"

    def __init__(self, root: str, features: str, test_video: str = "P01",
                 videos: Sequence[str] = ("P01", "P02", "P03", "P04"), validate_on: Literal["next", "test"] = "next",
                 templates: Sequence[Template] = (("There is a {}", "There is a {} and a {}"),),
                 max_segments: int = MAX_SEGMENTS, max_segment_shots: int = MAX_SEGMENT_SHOTS,
                 vmax: float = SEGMENT_PENALTY,
                 cut_by: CutBy = "patches", video_folder: str | None = None, chunk_seconds: float = 600.0,
                 image_fps: float | None = None, weights: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root, self.features, self.validate_on = Path(root), features, validate_on
        self.video_folder, self.weights = video_folder, weights
        require_at_least(SHORTEST_CHUNK, chunk_seconds=chunk_seconds)
        self.chunk_seconds, self.image_fps = chunk_seconds, image_fps
        self.splits = split_videos(list(videos), test_video, validate_on)
        self.templates: list[Template] = [(single, double) for single, double in templates]
        check_templates(self.templates)
        self.shots = ShotFeatures(features, max_segments, max_segment_shots, vmax, cut_by)

    @property
    def folder(self) -> FeatureFolder:
        """The features."""
        return self.shots.folder

    @property
    def has_test_data(self) -> bool:
        """True if a fit should end with a test of the best checkpoint: not if it was picked on the test video."""
        return self.validate_on == "next"

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings of the data, for `metrics.json`."""
        on = "on another video" if self.validate_on == "next" else "on the test video (the authors' way)"
        return feature_protocol(self.folder) | {
            "root": str(self.root), **{f"{split}_videos": names for split, names in self.splits.items()},
            "selection": on, "templates": self.templates, "counts": self.counts, **self.shots.settings,
            "segments": {name: len(bounds) - 1 for name, bounds in self.shots.bounds.items()}}

    @cached_property
    def dictionary(self) -> list[str]:
        """The concepts."""
        return read_dictionary(self.root)

    @cached_property
    def tags(self) -> dict[str, Tensor]:
        """Tags of each video, (n, C), 1 where a shot shows a concept."""
        names = dict.fromkeys(name for names in self.splits.values() for name in names)
        return {name: torch.from_numpy(read_tags(self.root, name, self.dictionary)) for name in sorted(names)}

    @cached_property
    def queries(self) -> dict[str, list[SummaryQuery]]:
        """The queries of each video."""
        return {name: read_oracles(self.root, name, self.dictionary, len(tags)) for name, tags in self.tags.items()}

    def prompts(self) -> dict[str, list[str]]:
        """The prompts of each video's queries, each once."""
        return {name: list(dict.fromkeys(prompt for query in queries for template in self.templates
                                         for prompt in prompts(query.concepts, template)))
                for name, queries in self.queries.items()}

    def prepare_data(self) -> None:
        """Extract the features that are missing; Lightning calls it on one process of each node."""
        if self.video_folder is None or self.weights is None:
            return
        source = ExtractionSource(self.video_folder, self.weights, self.chunk_seconds, self.image_fps, self.num_workers,
                                  **self.device_and_precision)
        prompts, trunks = self.prompts(), Path(f"{self.features}-trunk")
        rows = [(name,) for name in prompts]
        if missing := source.missing(Path(self.features), rows, prompts):
            if unread := sorted(missing & source.missing(trunks, rows, {})):
                refuse_missing_videos(self.video_folder, self.image_fps, unread)
            source.extract(trunks, SHOT_RECIPE, rows)
            source.fuse(trunks, Path(self.features), prompts)

    def setup(self, stage: str) -> None:
        """Read all annotations and features before hours of training, not after."""
        for split in self.splits if stage == "fit" else ():
            self._dataset(split)

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled queries of the training videos."""
        return self.train_loader(self._dataset("train"), self._collate)

    def val_dataloader(self) -> DataLoader:
        """The queries of the validation video."""
        return self.eval_loader(self._dataset("val"), self._collate)

    def test_dataloader(self) -> DataLoader:
        """The queries of the test video."""
        return self.eval_loader(self._dataset("test"), self._collate)

    def predict_dataloader(self) -> DataLoader:
        """The queries of the test video, to write its summaries."""
        return self.test_dataloader()

    def _dataset(self, split: str) -> QFVSQueries:
        names = self.splits[split]
        for name in names:  # here, so that the workers don't cut the videos again
            self.cut(name)
        rows = [query for name in names for query in self.queries[name]]
        return QFVSQueries(rows, self.read, self.templates, self.seed if split == "train" else None)

    def cut(self, name: str) -> None:
        """Cut a video into segments, unless it is cut already."""
        if name not in self.shots.bounds:
            beyond = self.shots.cut(name, tags_path(self.root, name), len(self.tags[name]), self.prompts()[name])
            self.counts |= {f"{name}_windows_beyond_the_tags": beyond}

    def read(self, query: SummaryQuery, row: int, texts: Iterable[str]) -> QFVSSample:
        """A query with the features of some prompts."""
        tags = self.tags[query.video]
        summary = torch.zeros(len(tags))
        summary[torch.from_numpy(query.oracle)] = 1
        concepts = tags[:, [self.dictionary.index(concept) for concept in query.concepts]].T  # (2, n)
        features = torch.stack([self.shots.column(query.video, prompt, len(tags)) for prompt in texts])  # (P, n, D)
        lengths = np.diff(self.shots.bounds[query.video]).tolist()
        return QFVSSample(query, row, features, lengths, concepts, summary, tags)

    def _collate(self, samples: list[QFVSSample | None]) -> SummaryBatch:
        real = [sample for sample in samples if sample is not None]
        return collate(real, len(self.templates), self.folder.recipe.width)


def refuse_missing_videos(folder: str, image_fps: float | None, names: Sequence[str]) -> None:
    """Refuse a folder of videos that lacks one, before hours of extraction from the others.

    Raises:
        ValueError: A video is missing, or the folder is.
    """
    there = {source.name for source in find_videos([folder], image_fps)}
    if gone := [name for name in names if name not in there]:
        raise ValueError(f"{folder} has no video {' nor '.join(gone)}, without features so far: put it there (such as "
                         f"{Path(folder, gone[0])}.mp4), set data.init_args.video_folder to the folder that has it, or "
                         "leave it out of data.init_args.videos")


def split_videos(videos: list[str], test_video: str, validate_on: str) -> dict[str, list[str]]:
    """The videos that train, the one that validates and the one that tests.

    Raises:
        ValueError: There are too few videos, or one is named twice, or the test video is not among them.
    """
    minimum = {"next": 3, "test": 2}[validate_on]
    if len(set(videos)) < max(len(videos), minimum):
        raise ValueError(f"data.init_args.videos={videos}: give {minimum} videos or more, each once, to test on one "
                         f"and validate on {'another' if minimum == 3 else 'the same'}")
    if test_video not in videos:
        raise ValueError(f"data.init_args.test_video={test_video} is not one of data.init_args.videos: "
                         f"{', '.join(videos)}")
    val = videos[(videos.index(test_video) + 1) % len(videos)] if validate_on == "next" else test_video
    return {"train": [name for name in videos if name not in (val, test_video)], "val": [val], "test": [test_video]}


def collate(samples: list[QFVSSample], num_prompts: int, width: int) -> SummaryBatch:
    """Lay the shots of each video out by segments; without a sample, the leading dimension is 0."""
    count = len(samples)
    num_prompts = len(samples[0].features) if samples else num_prompts
    segments = max((len(sample.lengths) for sample in samples), default=1)
    longest = max((max(sample.lengths) for sample in samples), default=1)
    mask = torch.zeros(count, segments, longest, dtype=torch.bool)  # (B, G, n)
    features = torch.zeros(count, num_prompts, segments, longest, width)  # (B, P, G, n, D)
    concepts, summary = torch.zeros(count, 2, segments, longest), torch.zeros(count, segments, longest)
    for i, sample in enumerate(samples):
        mask[i, : len(sample.lengths)] = torch.arange(longest) < torch.tensor(sample.lengths)[:, None]
        features[i][:, mask[i]] = sample.features.float()  # the mask's places, row by row, are in the shots' order
        concepts[i][:, mask[i]] = sample.concepts
        summary[i][mask[i]] = sample.summary
    return SummaryBatch(
        key=[sample.query.key for sample in samples], tags=[sample.tags for sample in samples],
        index=torch.tensor([sample.row for sample in samples], dtype=torch.int64), features=features, mask=mask,
        concepts=concepts, summary=summary,
    )

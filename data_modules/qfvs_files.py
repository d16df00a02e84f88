"""The files of QFVS: concepts of the shots of a video, oracle summaries of its queries, and features of the shots.

Letters: `n` shots of a video, `C` concepts of the dictionary, `D` width.
"""

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egovlpv2.data_modules.loaders import SET_ROOT, require_at_least
from egovlpv2.data_modules.mat_file import read_variable
from egovlpv2.features import FeatureFolder
from egovlpv2.features.files import SUFFIX, read_plain
from egovlpv2.features.header import PER_QUERY
from egovlpv2.heads.kts import segments
from egovlpv2.heads.summary import SHOT_SECONDS, CutBy
from egovlpv2.io.schema import read_lines, shown

Template = tuple[str, str]  # a prompt of one concept, "There is a {}", and one of two, "There is a {} and a {}"

_TAGS = "Dense_per_shot_tags"
_ORACLES = ("Oracle_Summaries", "Oracle_summaries", "Query-Focused_Summaries/Oracle_Summaries",
            "Query-Focused_Summaries/Oracle_summaries")  # the data set is published in all these spellings
_SPELLED = {"Cupglass": "Glass", "Musicalinstrument": "Instrument", "Petsanimal": "Animal"}  # in prompts
# Features of one prompt each: 6 MB if a video has 4,000 shots and they are 768 wide, so 12 GB at most. One template
# makes some 80 prompts of a video, and ten templates make 450 of the validation video.
_CACHED_COLUMNS = 2048
_SHOT = re.compile(r"-?[0-9]{1,9}")
_ORACLE_NAME = re.compile(r"([^_]+)_([^_]+)_oracle\.txt")


class SummaryQuery(NamedTuple):
    """A query of two concepts, and the shots of its oracle summary."""

    video: str
    concepts: tuple[str, str]
    oracle: NDArray[np.int64]  # rows of the shots, counted from 0, ascending

    @property
    def key(self) -> str:
        return f"{self.video} {' '.join(self.concepts)}"


def prompts(concepts: tuple[str, str], template: Template) -> tuple[str, str, str]:
    """The prompts of a query: its first concept, its second, and both."""
    first, second = (_SPELLED.get(concept, concept) for concept in concepts)
    single, double = template
    return single.format(first), single.format(second), double.format(first, second)


def check_templates(templates: Sequence[Template]) -> None:
    """Refuse templates that aren't a prompt of one concept and one of two.

    Raises:
        ValueError: There are none, or one has other than one and two `{}`.
    """
    if not templates:
        raise ValueError('data.init_args.templates is empty: give pairs such as ["There is a {}", "There is a {} and a '
                         '{}"]')
    for template in templates:
        counts = [text.count("{}") if text == text.strip() else -1 for text in template]
        if counts != [1, 2] or any(brace in text.replace("{}", "") for text in template for brace in "{}"):
            raise ValueError(f"data.init_args.templates: {list(template)} should be a text with one {{}} and a text "
                             "with two, without other braces or spaces at their ends")


def read_dictionary(root: Path) -> list[str]:
    """The concepts, in the order of their columns.

    Raises:
        ValueError: The file is missing or empty, or names a concept twice.
    """
    path = root / _TAGS / "Dictionary.txt"
    concepts = [word for line in _lines(path) if (word := line.strip().strip("'"))]
    if not concepts or len(set(concepts)) < len(concepts):
        raise ValueError(f"{path} should name each concept once, one a line; it has {len(concepts)} lines and "
                         f"{len(set(concepts))} different concepts")
    return concepts


def tags_path(root: Path, video: str) -> Path:
    """The file with the tags of a video: its text file, or else the file of all videos."""
    text = root / _TAGS / video / f"{video}.txt"
    return text if text.is_file() or not (root / "Tags.mat").is_file() else root / "Tags.mat"


def read_tags(root: Path, video: str, dictionary: list[str]) -> NDArray[np.float32]:
    """The concepts that each shot shows: (n, C), 0 or 1.

    Raises:
        ValueError: The files are missing or of another form, or a shot shows a concept that the dictionary lacks.
    """
    path = tags_path(root, video)
    tags = _mat_tags(path, video) if path.suffix == ".mat" else _text_tags(path, dictionary)
    if not len(tags) or tags.shape[1] != len(dictionary):
        raise ValueError(f"{path} has {len(tags)} shots of {video}, of {tags.shape[1]} concepts: there should be one "
                         f"shot at least, and the {len(dictionary)} concepts of Dictionary.txt")
    return tags


def _text_tags(path: Path, dictionary: list[str]) -> NDArray[np.float32]:
    columns, lines = {concept: i for i, concept in enumerate(dictionary)}, _lines(path)
    tags = np.zeros((len(lines), len(dictionary)), dtype=np.float32)  # (n, C)
    for row, line in enumerate(lines):
        for concept in map(str.strip, line.split(",") if line.strip() else ()):
            if concept not in columns:
                raise ValueError(f"{path}, line {row + 1}: {shown(concept)} is not one of the {len(dictionary)} "
                                 "concepts of Dictionary.txt")
            tags[row, columns[concept]] = 1
    return tags


def _mat_tags(path: Path, video: str) -> NDArray[np.float32]:
    """Tags of the video `P0k`: the k-th struct of the file, whose cells are the shots."""
    number = re.fullmatch(r"P0*([1-9]\d*)", video)
    if number is None:
        raise ValueError(f"{path} holds videos named P01, P02 and so on, and {video!r} is not: give it a text file, "
                         f"{_TAGS}/{video}/{video}.txt")
    remedy = f"download it again, or give {_TAGS}/{video}/{video}.txt"
    try:
        videos = read_variable(path, "Tags")
    except ValueError as error:
        raise ValueError(f"{error}: {remedy}") from error
    place = int(number[1]) - 1
    entry = videos[place] if isinstance(videos, list) and place < len(videos) else None
    shots = entry.get("Bin_Vecs") if isinstance(entry, dict) else None
    if not isinstance(shots, list):
        raise ValueError(f"{path} has no tags of {video} in the form of the official file: {remedy}")
    rows = [shot.ravel() for shot in shots if isinstance(shot, np.ndarray) and np.isin(shot, (0, 1)).all()]
    if len(rows) < len(shots) or len({row.size for row in rows}) != 1:
        raise ValueError(f"{path}: the tags of {video} should be rows of 0 and 1")
    return np.stack(rows).astype(np.float32)


def read_oracles(root: Path, video: str, dictionary: list[str], num_shots: int) -> list[SummaryQuery]:
    """The queries of a video, by file name.

    Raises:
        ValueError: The folder is missing or empty, or a file has another name or form, or a shot outside the video.
    """
    folders = [root / name / video for name in _ORACLES if (root / name / video).is_dir()]
    if not folders:
        raise ValueError(f"{root} has no folder {_ORACLES[0]}/{video} (nor Oracle_summaries/{video}, nor either in "
                         f"Query-Focused_Summaries): set data.init_args.root, or data.init_args.videos")
    paths = sorted(path for path in folders[0].glob("*.txt") if not path.name.startswith("."))
    if not paths:
        raise ValueError(f"{folders[0]} holds no oracle summaries, files named like Car_Tree_oracle.txt")
    return [SummaryQuery(video, _concepts(path, dictionary), _shots(path, num_shots)) for path in paths]


def _concepts(path: Path, dictionary: list[str]) -> tuple[str, str]:
    named = _ORACLE_NAME.fullmatch(path.name)
    if named is None:
        raise ValueError(f"{path}: an oracle summary should be named like Car_Tree_oracle.txt; move other files away")
    for concept in named.groups():
        if concept not in dictionary:
            raise ValueError(f"{path}: {concept!r} is not one of the {len(dictionary)} concepts of Dictionary.txt")
    return named[1], named[2]


def _shots(path: Path, num_shots: int) -> NDArray[np.int64]:
    """Rows from 0 of the shots, which the file counts from 1."""
    lines: dict[int, int] = {}  # the line of each shot
    for line, text in enumerate(_lines(path), start=1):
        if not text.strip():
            continue
        shot = _number(text, f"{path}, line {line}")
        if not 1 <= shot <= num_shots:
            raise ValueError(f"{path}, line {line}: there is no shot {shot}; the tags are of shots 1 to {num_shots}")
        if shot in lines:
            raise ValueError(f"{path}, line {line}: shot {shot} is there twice, first in line {lines[shot]}")
        lines[shot] = line
    if not lines:
        raise ValueError(f"{path} names no shots: a summary has one at least")
    return np.array(sorted(lines), dtype=np.int64) - 1


def _number(text: str, where: str) -> int:
    if not _SHOT.fullmatch(text.strip()):
        raise ValueError(f"{where}: {shown(text.strip())} is not the number of a shot")
    return int(text)


def _lines(path: Path) -> list[str]:
    if not path.exists():
        raise ValueError(f"There is no file {path}: {SET_ROOT}")
    return read_lines(path)


class ShotFeatures:
    """Features of shots, one file per video, read and cut into segments once per process.

    Args:
        folder: The folder that `egovlpv2 fuse` wrote.
        max_segments: Maximum number of segments of a video.
        max_segment_shots: Maximum number of shots in a segment.
        vmax: Weight of the penalty on the number of segments.
        cut_by: Features by which a video is cut: `patches`, the directions of the mean of a shot's patches, or `cls`,
            its CLS state below the fused layers, compared by plain products (as the authors do).
    """

    def __init__(self, folder: str, max_segments: int, max_segment_shots: int, vmax: float,
                 cut_by: CutBy = "patches") -> None:
        require_at_least(1, max_segments=max_segments, max_segment_shots=max_segment_shots)
        require_at_least(0, vmax=vmax)
        self.path, self.limits, self.cut_by = folder, (max_segments, max_segment_shots, vmax), cut_by
        self.settings = {"cut_by": cut_by, "max_segments": max_segments, "max_segment_shots": max_segment_shots,
                         "vmax": vmax}
        self.bounds: dict[str, list[int]] = {}  # first shots of the segments, and the end, by video
        self.column = lru_cache(_CACHED_COLUMNS)(self._column)

    @cached_property
    def folder(self) -> FeatureFolder:
        """The files, opened at their first use.

        Raises:
            ValueError: They hold features without queries, or of windows other than shots.
        """
        folder = FeatureFolder(self.path)
        recipe = folder.recipe
        window, stride = recipe.window / recipe.fps, recipe.stride / recipe.fps
        if recipe.kind not in PER_QUERY or (window, stride) != (SHOT_SECONDS, SHOT_SECONDS):
            raise ValueError(f"{self.path} holds features of kind {recipe.kind}, of windows of {window:g} s every "
                             f"{stride:g} s, and a summary needs those of queries, of {SHOT_SECONDS} s every "
                             f"{SHOT_SECONDS} s. {self._remedy()}")
        return folder

    def _remedy(self) -> str:
        return (f"Give another data.init_args.features than {self.path}, with data.init_args.video_folder and weights: "
                "they are extracted there")

    def cut(self, video: str, tags: Path, num_shots: int, prompts: Sequence[str]) -> int:
        """Cut a video where its shots change most.

        Args:
            video: Its name.
            tags: The file with the tags of its shots.
            num_shots: Number of these shots.
            prompts: All prompts that the features should have.

        Returns:
            Number of windows beyond those shots; -1 if the last shot, cut short, has none.

        Raises:
            ValueError: The file is missing, lacks a prompt or a shot, or the limits don't hold the video.
        """
        path = Path(self.path) / f"{video}{SUFFIX}"
        if not path.is_file():
            raise ValueError(f"{path} with the features of {video} is missing: give a data.init_args."
                             f"video_folder that holds {video}, and data.init_args.weights, to have them extracted, or "
                             "leave it out of data.init_args.videos")
        folder = self.folder  # refuses features of other windows
        if missing := set(prompts).difference(read_plain(path)[1]):
            raise ValueError(f"{path} has no features of {len(missing)} of the {len(prompts)} prompts of its video, "
                             f"{min(missing)!r} for one: delete it. {self._remedy()}")
        features = folder.read(video, prompts[:1])
        unfused = {"patches": features.unfused, "cls": features.unfused_cls}[self.cut_by]  # (windows, D)
        if not unfused.shape[1]:
            lacks = {"patches": "features of its windows without a query",
                     "cls": "CLS states of its windows (data.init_args.cut_by=cls needs them)"}[self.cut_by]
            raise ValueError(f"{path} has no {lacks}: delete it. {self._remedy()}")
        if len(unfused) < max(num_shots - 1, 1):
            raise ValueError(f"{path} has {len(unfused)} windows of {SHOT_SECONDS} s and {tags} {num_shots} shots, a "
                             "video shorter than its tags: extract the whole video")
        max_segments, max_shots, vmax = self.limits
        self.bounds[video] = segments(_per_shot(unfused, num_shots).numpy(), max_segments, max_shots,
                                      f"{path}, data.init_args.max_segments and max_segment_shots: ", vmax,
                                      directions=self.cut_by == "patches")
        return len(unfused) - num_shots

    def _column(self, video: str, prompt: str, num_shots: int) -> Tensor:
        """Features of a prompt, (n, D) float16."""
        return _per_shot(self.folder.read(video, [prompt]).values[:, 0], num_shots).clone()


def _per_shot(windows: Tensor, num_shots: int) -> Tensor:
    """Features of the shots; a last shot of less than 5 s has tags but no window, and takes those of the one before."""
    return torch.cat([windows, windows[-1:]])[:num_shots]

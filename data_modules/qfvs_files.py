"""The files of QFVS: what the shots of a video show, the oracle summaries of its queries, and features of the shots.

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

from egovlpv2.data_modules.mat_file import read_variable
from egovlpv2.features import FeatureFolder
from egovlpv2.features.files import SUFFIX, read_plain
from egovlpv2.features.header import PER_QUERY
from egovlpv2.heads.kts import segments
from egovlpv2.heads.summary import CutBy
from egovlpv2.io.schema import read_lines, shown

Template = tuple[str, str]  # a prompt of one concept, "There is a {}", and one of two, "There is a {} and a {}"

SHOT_SECONDS = 5

_TAGS = "Dense_per_shot_tags"
_ORACLES = ("Oracle_Summaries", "Oracle_summaries", "Query-Focused_Summaries/Oracle_Summaries",
            "Query-Focused_Summaries/Oracle_summaries")  # the data set is published in all these spellings
_SPELLED = {"Cupglass": "Glass", "Musicalinstrument": "Instrument", "Petsanimal": "Animal"}  # in prompts
# Features of one prompt each: 6 MB where a video has 4,000 shots and they are 768 wide, so 12 GB at most. One template
# asks some 80 prompts of a video, and ten templates ask 450 of the video that validates.
_CACHED_COLUMNS = 2048
_SHOT = re.compile(r"-?[0-9]{1,9}")
_ORACLE_NAME = re.compile(r"([^_]+)_([^_]+)_oracle\.txt")


class SummaryQuery(NamedTuple):
    """Two concepts, and the shots that sum up what a video shows of them."""

    video: str
    concepts: tuple[str, str]
    oracle: NDArray[np.int64]  # rows of the shots, counted from 0, ascending

    @property
    def key(self) -> str:
        return f"{self.video} {' '.join(self.concepts)}"


def prompts(concepts: tuple[str, str], template: Template) -> tuple[str, str, str]:
    """What a model is asked of a query: its first concept, its second, and both."""
    first, second = (_SPELLED.get(concept, concept) for concept in concepts)
    single, double = template
    return single.format(first), single.format(second), double.format(first, second)


def check_templates(templates: Sequence[Template]) -> None:
    """Refuses templates that aren't a prompt of one concept and one of two.

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
    """Where the tags of a video are: its text file, or else the file of all videos."""
    text = root / _TAGS / video / f"{video}.txt"
    return text if text.is_file() or not (root / "Tags.mat").is_file() else root / "Tags.mat"


def read_tags(root: Path, video: str, dictionary: list[str]) -> NDArray[np.float32]:
    """(n, C) 0 or 1: which concepts each shot shows.

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
                raise ValueError(f"{path}, line {row + 1}: {shown(concept)} is none of the {len(dictionary)} concepts "
                                 "of Dictionary.txt")
            tags[row, columns[concept]] = 1
    return tags


def _mat_tags(path: Path, video: str) -> NDArray[np.float32]:
    """The k-th struct of the file is of the video `P0k`; its cells are the shots."""
    number = re.fullmatch(r"P0*([1-9]\d*)", video)
    if number is None:
        raise ValueError(f"{path} holds videos named P01, P02 and so on, and {video!r} is none: give it a text file, "
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
    if not all(isinstance(shot, np.ndarray) and np.isin(shot, (0, 1)).all() for shot in shots) or len(
            {shot.size for shot in shots}) != 1:
        raise ValueError(f"{path}: the tags of {video} should be rows of 0 and 1")
    return np.stack([shot.ravel() for shot in shots]).astype(np.float32)


def read_oracles(root: Path, video: str, dictionary: list[str], num_shots: int) -> list[SummaryQuery]:
    """The queries of a video, by file name.

    Raises:
        ValueError: The folder is missing or empty, or a file has another name or form, or a shot outside the video.
    """
    found = [root / name / video for name in _ORACLES if (root / name / video).is_dir()]
    if not found:
        raise ValueError(f"{root} has no folder {_ORACLES[0]}/{video} (nor Oracle_summaries/{video}, nor either in "
                         f"Query-Focused_Summaries): set data.init_args.root, or data.init_args.videos")
    paths = sorted(path for path in found[0].glob("*.txt") if not path.name.startswith("."))
    if not paths:
        raise ValueError(f"{found[0]} holds no oracle summaries, files named like Car_Tree_oracle.txt")
    return [SummaryQuery(video, _concepts(path, dictionary), _shots(path, num_shots)) for path in paths]


def _concepts(path: Path, dictionary: list[str]) -> tuple[str, str]:
    named = _ORACLE_NAME.fullmatch(path.name)
    if named is None:
        raise ValueError(f"{path}: an oracle summary should be named like Car_Tree_oracle.txt; move other files away")
    for concept in named.groups():
        if concept not in dictionary:
            raise ValueError(f"{path}: {concept!r} is none of the {len(dictionary)} concepts of Dictionary.txt")
    return named[1], named[2]


def _shots(path: Path, num_shots: int) -> NDArray[np.int64]:
    """Rows from 0 of the shots, which the file counts from 1."""
    places: dict[int, int] = {}  # the line of each shot
    for line, text in enumerate(_lines(path), start=1):
        if not text.strip():
            continue
        shot = _number(text, f"{path}, line {line}")
        if not 1 <= shot <= num_shots:
            raise ValueError(f"{path}, line {line}: there is no shot {shot}; the tags are of shots 1 to {num_shots}")
        if shot in places:
            raise ValueError(f"{path}, line {line}: shot {shot} is there twice, first in line {places[shot]}")
        places[shot] = line
    if not places:
        raise ValueError(f"{path} names no shots: a summary has one at least")
    return np.array(sorted(places), dtype=np.int64) - 1


def _number(text: str, where: str) -> int:
    if not _SHOT.fullmatch(text.strip()):
        raise ValueError(f"{where}: {shown(text.strip())} is not the number of a shot")
    return int(text)


def _lines(path: Path) -> list[str]:
    if not path.exists():
        raise ValueError(f"There is no file {path}: set data.init_args.root (or the environment's variable that the "
                         "config takes it from)")
    return read_lines(path)


class ShotFeatures:
    """Features of shots, one file a video; they are read, and the videos cut, once in a process.

    Args:
        folder: Where `egovlpv2 fuse` wrote them.
        max_segments: Into how many segments a video is cut at most.
        max_segment_shots: Shots of the longest one.
        vmax: Weight of the penalty on their number.
        cut_by: What tells where a video changes: `patches`, the directions of the mean of a shot's patches, or `cls`,
            its CLS state below the fused layers, similar by plain products (the authors' way).
    """

    def __init__(self, folder: str, max_segments: int, max_segment_shots: int, vmax: float,
                 cut_by: CutBy = "patches") -> None:
        if max_segments < 1 or max_segment_shots < 1:
            raise ValueError(f"data.init_args.max_segments={max_segments} and max_segment_shots={max_segment_shots}: "
                             "give 1 or more")
        self.path, self.limits, self.cut_by = folder, (max_segments, max_segment_shots, vmax), cut_by
        self.bounds: dict[str, list[int]] = {}  # of the videos that are cut, the first shots and the end
        self.column = lru_cache(_CACHED_COLUMNS)(self._column)

    @cached_property
    def folder(self) -> FeatureFolder:
        """The files, opened when they are first used.

        Raises:
            ValueError: They know nothing of queries, or are not of shots.
        """
        folder = FeatureFolder(self.path)
        recipe = folder.recipe
        window, stride = recipe.window / recipe.fps, recipe.stride / recipe.fps
        if recipe.kind not in PER_QUERY or (window, stride) != (SHOT_SECONDS, SHOT_SECONDS):
            raise ValueError(f"{self.path} holds features of kind {recipe.kind}, of windows of {window:g} s every "
                             f"{stride:g} s, and a summary needs those of queries, of 5 s every 5 s. {self._remedy()}")
        return folder

    def _remedy(self) -> str:
        return ("Run `egovlpv2 extract VIDEOS --kind trunk --fps 1 --window 5 --stride 5 --frames 5 --out TRUNKS`, "
                "`egovlpv2 prompts-qfvs --config CONFIG --out prompts.json` and "
                f"`egovlpv2 fuse TRUNKS --queries prompts.json --out {self.path}`")

    def cut(self, video: str, tags: Path, num_shots: int, asked: Sequence[str]) -> int:
        """Cuts a video where its shots change most.

        Args:
            video: Its name.
            tags: The file that tells its shots.
            num_shots: How many they are.
            asked: All prompts that the features should know.

        Returns:
            How many windows there are beyond those shots; -1 if the last shot, cut short, has none.

        Raises:
            ValueError: The file is missing, lacks a prompt or a shot, or the limits don't hold the video.
        """
        path = self.folder.folder / f"{video}{SUFFIX}"
        if missing := set(asked).difference(read_plain(path)[1] if path.is_file() else ()):
            raise ValueError(f"{path} has no features of {len(missing)} of the {len(asked)} prompts of its video, "
                             f"{min(missing)!r} for one: delete it, if it is there. {self._remedy()}")
        features = self.folder.read(video, asked[:1])
        unfused = {"patches": features.unfused, "cls": features.unfused_cls}[self.cut_by]  # (windows, D)
        if not unfused.shape[1]:
            lacks = {"patches": "what its windows look like, whatever is asked",
                     "cls": "the CLS states of its windows (data.init_args.cut_by=cls needs them)"}[self.cut_by]
            raise ValueError(f"{path} doesn't tell {lacks}: delete it. {self._remedy()}")
        if len(unfused) < max(num_shots - 1, 1):
            raise ValueError(f"{path} has {len(unfused)} windows of 5 s and {tags} {num_shots} shots, a video shorter "
                             "than its tags: extract the whole video")
        most, longest, vmax = self.limits
        self.bounds[video] = segments(_per_shot(unfused, num_shots).numpy(), most, longest,
                                      f"{path}, data.init_args.max_segments and max_segment_shots: ", vmax,
                                      directions=self.cut_by == "patches")
        return len(unfused) - num_shots

    def _column(self, video: str, prompt: str, num_shots: int) -> Tensor:
        """(n, D) float16: the features of a prompt."""
        return _per_shot(self.folder.read(video, [prompt]).values[:, 0], num_shots).clone()


def _per_shot(windows: Tensor, num_shots: int) -> Tensor:
    """Features of the shots: a last one of less than 5 s has tags but no window, and looks like the one before it."""
    return torch.cat([windows, windows[-1:]])[:num_shots]

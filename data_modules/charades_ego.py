"""CharadesEgo: 157 actions in first-person videos, in its official files."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from egovlpv2.batch import multi_hot
from egovlpv2.data_modules.csv_files import is_validation, read_csv, refuse, refuse_blanks, refuse_repeats
from egovlpv2.data_modules.retrieval import RetrievalDataModule, RetrievalSet
from egovlpv2.io.files import require_file
from egovlpv2.io.schema import LONGEST, read_lines, shown
from egovlpv2.metrics.relevancy import Relevancy
from egovlpv2.video.frame_rules import FrameRule, charades

_ACTION = re.compile(r"(c[0-9]+) ([0-9]+(?:\.[0-9]+)?) ([0-9]+(?:\.[0-9]+)?)")
_CLASS = re.compile(r"(c[0-9]+)\s+(\S.*)")

Action = tuple[int, float, float]  # class, start and end in seconds


class CharadesEgoDataModule(RetrievalDataModule):
    """CharadesEgo; videos are `<id>.mp4`, and only those of ids that end in `EGO` are first-person.

    A training row is an action with the name of its class as text. In validation and testing a row is a whole video,
    with all its actions.

    Args:
        root: The data set's folder; the other paths are relative to it.
        videos: The folder of the videos.
        classes: The names of the classes, `Charades_v1_classes.txt`.
        train: Videos to train on, `CharadesEgo_v1_train_only1st.csv`.
        val: Videos to validate on; null: `is_validation` of the training videos.
        test: Videos to test on, `CharadesEgo_v1_test_only1st.csv`.
        **kwargs: Arguments of every retrieval data set, see `RetrievalDataModule`.

    Raises:
        ValueError: A file is missing or malformed; the message names line and column.
    """

    tasks = ("egovlpv2.tasks.charades_ego.CharadesEgo",)
    evaluated = "videos"

    def __init__(self, root: str, videos: str = "CharadesEgo_v1_480", classes: str = "Charades_v1_classes.txt",
                 train: str = "CharadesEgo_v1_train_only1st.csv", val: str | None = None,
                 test: str = "CharadesEgo_v1_test_only1st.csv", **kwargs: Any) -> None:
        super().__init__(root, videos, train, val, test, **kwargs)
        self.classes = classes

    def released_rule(self) -> FrameRule:
        return charades

    def load(self, split: str) -> RetrievalSet:
        names = read_classes(self.root / self.classes)
        path = self.root / (getattr(self, split) or self.train)
        rows, actions = read_actions(path, names)
        chosen = rows["id"].str.endswith("EGO").to_numpy()
        self.counts[f"{split}_third_person_rows"] = int((~chosen).sum())
        if self.val is None and split != "test":
            chosen = chosen & (is_validation(rows["id"].tolist(), self.val_fraction) == (split == "val"))
        if not chosen.any():
            raise ValueError(f"{path} has no first-person video (whose id ends in EGO) to {split}.")
        videos = {rows["id"].iloc[i]: actions[i] for i in np.flatnonzero(chosen)}
        if split != "train":
            return _whole_videos(videos, list(names.values()))
        lengths = dict(zip(rows["id"], rows["length"].astype(float), strict=True))
        instances = [(name, (label, start, min(end, lengths[name]))) for name, actions in videos.items()
                     for label, start, end in actions if start < lengths[name]]
        self.counts["train_actions_after_the_end"] = sum(map(len, videos.values())) - len(instances)
        if not instances:
            raise ValueError(f"{path} has no action in a first-person video to train on.")
        return _instances(instances, list(names.values()))


def read_classes(path: Path) -> dict[str, str]:
    """Names of the classes by their ids (`c000`), which must count up from 0."""
    require_file(path, "Charades' Charades_v1_classes.txt")
    names: dict[str, str] = {}
    for number, line in enumerate(read_lines(path)):
        match = _CLASS.fullmatch(line.strip())
        if match is None or match[1] != f"c{number:03d}":
            raise ValueError(f"{path}, line {number + 1}: {shown(line)} is not `c{number:03d} name of the class`.")
        if match[2] in names.values():
            raise ValueError(f"{path}, line {number + 1}: the class {shown(match[2])} is there twice.")
        names[match[1]] = match[2]
    if not names:
        raise ValueError(f"{path} names no class.")
    return names


def read_actions(path: Path, names: dict[str, str]) -> tuple[pd.DataFrame, list[list[Action]]]:
    """The rows of a CharadesEgo CSV, and the actions of each."""
    rows = read_csv(path, ("id", "actions", "length"), "CharadesEgo's annotations")
    lengths = pd.to_numeric(rows["length"], errors="coerce").to_numpy()
    refuse(path, rows, "length", ~((lengths > 0) & (lengths <= LONGEST)), "is not a number of seconds above 0")
    refuse_blanks(path, rows, ("id",))
    refuse_repeats(path, rows, "id")
    places = {name: place for place, name in enumerate(names)}
    actions: list[list[Action]] = []
    for line, text in rows["actions"].items():
        try:
            actions.append([_parse_action(part, places) for part in text.split(";") if part.strip()])
        except ValueError as error:
            raise ValueError(f"{path}, line {line}, column actions: {error}.") from error
    return rows, actions


def _parse_action(text: str, places: dict[str, int]) -> Action:
    match = _ACTION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{shown(text)} is not `c000 start end`")
    name, start, end = match[1], float(match[2]), float(match[3])
    if name not in places:
        raise ValueError(f"{shown(text)} has a class that is not one of the {len(places)}")
    if not start <= end <= LONGEST:
        raise ValueError(f"{shown(text)} ends before it starts, or never")
    return places[name], start, end


def _instances(rows: list[tuple[str, Action]], classes: list[str]) -> RetrievalSet:
    """A row for each action of a video; only the name of its class fits it."""
    span = torch.tensor([action[1:] for _, action in rows], dtype=torch.float64).view(-1, 2)
    fits = Relevancy(torch.eye(len(classes)), torch.tensor([action[0] for _, action in rows], dtype=torch.int64),
                     torch.arange(len(classes)))
    return RetrievalSet([name for name, _ in rows], [f"{name}.mp4" for name, _ in rows], span, classes, fits)


def _whole_videos(videos: dict[str, list[Action]], classes: list[str]) -> RetrievalSet:
    """A row for each video; the names of all its actions' classes fit it."""
    relevancy = multi_hot([[action[0] for action in actions] for actions in videos.values()], len(classes))
    span = torch.tensor([[0.0, torch.inf]], dtype=torch.float64).expand(len(videos), 2)
    names = list(videos)
    return RetrievalSet(names, [f"{name}.mp4" for name in names], span, classes, Relevancy.of_matrix(relevancy))

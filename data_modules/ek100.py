"""EPIC-Kitchens-100 multi-instance retrieval, in its official files."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from egovlpv2.data_modules.csv_files import is_validation, read_csv, refuse, refuse_blanks, refuse_repeats, require
from egovlpv2.data_modules.packed import IdListParser
from egovlpv2.data_modules.relevancy import cached_relevancy
from egovlpv2.data_modules.retrieval import RetrievalDataModule, RetrievalSet
from egovlpv2.metrics.relevancy import Relevancy
from egovlpv2.video.frame_rules import FrameRule, ek100

NUM_VERBS, NUM_NOUNS = 97, 300
_ROW = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp", "narration", "verb_class",
        "all_noun_classes")
_TIMESTAMP = r"[0-9]{1,2}:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
_CLASS = r"[0-9]{1,9}"


class Labelled(NamedTuple):
    """Checked rows of a file, each with a verb class and a list of noun classes."""

    rows: pd.DataFrame
    verbs: list[int]
    nouns: list[list[int]]

    def where(self, chosen: np.ndarray) -> "Labelled":
        """The rows of a (n,) bool mask."""
        places = np.flatnonzero(chosen)
        return Labelled(self.rows.iloc[places], [self.verbs[i] for i in places], [self.nouns[i] for i in places])


class EK100DataModule(RetrievalDataModule):
    """EPIC-Kitchens-100 MIR; videos are `<participant_id>/<video_id>.MP4`.

    Args:
        root: The data set's folder; the other paths are relative to it.
        videos: The folder of the videos.
        train: Rows to train on, `EPIC_100_retrieval_train.csv`.
        val: Rows to validate on; null: those of `is_validation` of the training videos. Its texts are its own wordings.
        test: Rows to test on, `EPIC_100_retrieval_test.csv`.
        train_sentences: Texts of `train`; null: one of each wording in it.
        test_sentences: Texts of `test`; null: one of each wording in it.
        train_relevancy: A `.safetensors` file to cache the relevancy in; written if it is missing; null: no cache.
        test_relevancy: The same for the test data.
        **kwargs: Arguments of every retrieval data set, see `RetrievalDataModule`.

    Raises:
        ValueError: A file is missing or malformed; the message names line and column.
    """

    tasks = ("egovlpv2.tasks.ek100.EK100",)
    flip = 0.0  # left and right differ in its narrations; the released code doesn't mirror either
    short_side = None

    def __init__(self, root: str, videos: str = "videos", train: str = "EPIC_100_retrieval_train.csv",
                 val: str | None = None, test: str = "EPIC_100_retrieval_test.csv",
                 train_sentences: str | None = "EPIC_100_retrieval_train_sentence.csv",
                 test_sentences: str | None = "EPIC_100_retrieval_test_sentence.csv",
                 train_relevancy: str | None = None, test_relevancy: str | None = None, **kwargs: Any) -> None:
        super().__init__(root, videos, train, val, test, **kwargs)
        self.sentences = {"train": train_sentences, "val": None, "test": test_sentences}
        self.relevancy = {"train": train_relevancy, "val": None, "test": test_relevancy}
        if val == test:
            self.sentences["val"], self.relevancy["val"] = test_sentences, test_relevancy

    def released_rule(self) -> FrameRule:
        return ek100

    def load(self, split: str) -> RetrievalSet:
        clips = self._rows(getattr(self, split) or self.train)
        chosen = np.ones(len(clips.rows), dtype=bool)
        if self.val is None and split != "test":
            chosen = is_validation(clips.rows["video_id"].tolist(), self.val_fraction) == (split == "val")
            if not chosen.any():
                raise ValueError(f"{self.root / self.train}: val_fraction={self.val_fraction} leaves no video "
                                 f"to {split}: set data.init_args.val, or another data.init_args.val_fraction.")
        if split == "val":  # its texts are those of its own rows
            clips, chosen = clips.where(chosen), chosen[chosen]
        sentences = self._sentences(self.sentences[split], clips)
        relevancy = self._relevancy(self.relevancy[split], clips, sentences)
        return _pack(clips.where(chosen), sentences, relevancy.of_clips(torch.from_numpy(np.flatnonzero(chosen))))

    def _rows(self, name: str) -> Labelled:
        path = self.root / name
        rows = read_csv(path, _ROW, "EPIC-Kitchens-100's retrieval annotations")
        refuse_blanks(path, rows, ("narration_id", "participant_id", "video_id", "narration"))
        refuse_repeats(path, rows, "narration_id")
        for name, column in (("start", "start_timestamp"), ("stop", "stop_timestamp")):
            refuse(path, rows, column, ~rows[column].str.fullmatch(_TIMESTAMP).to_numpy(), "is not a time hh:mm:ss.ss")
            rows[name] = pd.to_timedelta(rows[column]).dt.total_seconds()
        refuse(path, rows, "stop_timestamp", (rows["stop"] < rows["start"]).to_numpy(), "is before the clip starts")
        return _labelled(path, rows, "all_noun_classes")

    def _sentences(self, name: str | None, clips: Labelled) -> Labelled:
        if name is None:
            return clips.where(~clips.rows["narration"].duplicated().to_numpy())
        path = self.root / name
        rows = read_csv(path, ("narration_id", "narration"), "EPIC-Kitchens-100's sentences")
        refuse_blanks(path, rows, ("narration_id", "narration"))
        refuse_repeats(path, rows, "narration_id")
        if "verb_class" in rows:
            require(path, rows, ("noun_classes",))
            return _labelled(path, rows, "noun_classes")
        places = {narration: place for place, narration in enumerate(clips.rows["narration_id"])}
        refuse(path, rows, "narration_id", ~rows["narration_id"].isin(places).to_numpy(),
               "has no row among the clips, so the sentence has no class")
        clip_rows = [places[narration] for narration in rows["narration_id"]]
        return Labelled(rows, [clips.verbs[i] for i in clip_rows], [clips.nouns[i] for i in clip_rows])

    def _relevancy(self, name: str | None, clips: Labelled, sentences: Labelled) -> Relevancy:
        labels = (clips.verbs, clips.nouns, sentences.verbs, sentences.nouns)
        return Relevancy.of_labels(*labels) if name is None else cached_relevancy(self.root / name, *labels)


def _labelled(path: Path, rows: pd.DataFrame, noun_column: str) -> Labelled:
    verbs = np.array([int(text) if re.fullmatch(_CLASS, text) else NUM_VERBS for text in rows["verb_class"]])
    refuse(path, rows, "verb_class", verbs >= NUM_VERBS, f"is not a verb class below {NUM_VERBS}")
    parser = IdListParser(NUM_NOUNS)
    codes = np.array([parser.code(literal) for literal in rows[noun_column]])
    refuse(path, rows, noun_column, codes < 0, f"is not a list of noun classes below {NUM_NOUNS}")
    nouns = [parser.lists[code] for code in codes]
    refuse(path, rows, noun_column, np.array([not ids for ids in nouns]), "has no noun class")
    return Labelled(rows, verbs.tolist(), nouns)


def _pack(clips: Labelled, sentences: Labelled, relevancy: Relevancy) -> RetrievalSet:
    rows = clips.rows
    files = (rows["participant_id"] + "/" + rows["video_id"] + ".MP4").tolist()
    span = torch.from_numpy(rows[["start", "stop"]].to_numpy(np.float64))
    texts = sentences.rows["narration"].tolist()
    return RetrievalSet(rows["narration_id"].tolist(), files, span, texts, relevancy)

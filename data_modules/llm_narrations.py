"""LaViLa's public narrations by language models, converted to a table: `egovlpv2 llm-narrations`."""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from tqdm import tqdm

from egovlpv2.data_modules.narration_table import NarratedClip, write_table
from egovlpv2.io.pickled_rows import read_rows
from egovlpv2.io.schema import LONGEST, SURROGATE, shown
from egovlpv2.types import NarrationSource

MAX_BAD = 0.01
"""A file with a larger share of bad rows is refused."""

_EXAMPLES = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NarrationReport:
    """Numbers of a converted file.

    Args:
        out: The table.
        rows: Clips.
        texts: Their texts.
        bad: Rows that were left out, by reason.
    """

    out: Path
    rows: int
    texts: int
    bad: dict[str, int]

    def __str__(self) -> str:
        faults = [f"{number:>12,} rows left out: {reason}" for reason, number in self.bad.items()]
        return "\n".join([f"{self.rows:>12,} clips", f"{self.texts:>12,} texts", *faults, f"written: {self.out}"])


def convert_narrations(source: str | Path, out: str | Path, *, written_by: NarrationSource = "pseudo"
                       ) -> NarrationReport:
    """Convert a pickled list of narrated clips to a table that processes share.

    No code of the file runs, and its rows are read one by one. Starts before 0 are set to 0.

    Args:
        source: a list of tuples (video_uid, start, end, text or texts) or (..., texts, log-likelihoods), as in LaViLa's
            ego4d_train.narrator_63690737.return_10.pkl and ego4d_train.rephraser.no_punkt_top3.pkl
        out: the folder to write
        written_by: who wrote the texts: human, rephrasings included, or pseudo, a language model

    Raises:
        ValueError: The file is missing, cut short, of other content than such rows, or more than 1 % of its rows are
            bad; the folder holds a table.
    """
    counts = _BadRows(Path(source))
    with write_table(out, written_by) as writer:
        for clip in counts.good(tqdm(read_rows(source), unit="row", unit_scale=True, desc="converting")):
            writer.append(clip)
        counts.check()
        if not writer.rows:
            raise ValueError(f"{source} is an empty list: it has no rows to convert")
    return NarrationReport(Path(out), writer.rows, writer.texts, dict(counts.reasons))


class _BadRows:
    """A filter of rows that counts the bad ones by reason."""

    def __init__(self, source: Path) -> None:
        self.source, self.rows = source, 0
        self.reasons: Counter[str] = Counter()
        self.examples: list[str] = []

    def good(self, rows: Iterator[Any]) -> Iterator[NarratedClip]:
        """Yield the good rows."""
        for row in rows:
            self.rows += 1
            clip = check_row(row)
            if isinstance(clip, NarratedClip):
                yield clip
                continue
            self.reasons[clip] += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(f"row {self.rows}: {clip} ({_shown(row)})")

    def check(self) -> None:
        """Refuse a file of which too many rows are bad, and log the first ones."""
        bad, some = self.reasons.total(), "; ".join(self.examples)
        if bad > MAX_BAD * self.rows:
            raise ValueError(f"{self.source}: {bad:,} of {self.rows:,} rows are bad, more than {MAX_BAD:.0%}. The first"
                             f": {some}")
        if bad:
            _log.warning("%s: %d of %d rows are bad and left out. The first: %s", self.source, bad, self.rows, some)


def check_row(row: Any) -> NarratedClip | str:
    """Check a row of the file; a bad one gives the reason."""
    if not isinstance(row, tuple | list) or len(row) not in (4, 5):
        return "not a tuple of 4 or 5 values"
    video, start, end, texts = row[:4]
    if not isinstance(video, str) or not video.strip() or SURROGATE.search(video):
        return "no name of a video"
    if not all(isinstance(time, float | int) and isfinite(time) for time in (start, end)):
        return "a time is not a finite number"
    if not max(start, 0) < end <= LONGEST:
        return "the clip doesn't end after it starts, or lasts for days"
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list | tuple) or not texts or not all(
            isinstance(text, str) and text.strip() and not SURROGATE.search(text) for text in texts):
        return "no text, or a blank one"
    nlls = row[4] if len(row) == 5 else None
    if isinstance(nlls, float | int):
        nlls = [nlls]
    if nlls is not None and not (isinstance(nlls, list | tuple) and len(nlls) == len(texts)
                                 and all(isinstance(nll, float | int) for nll in nlls)):
        return "not as many log-likelihoods as texts"
    return NarratedClip(video, max(float(start), 0.0), float(end), list(texts), None if nlls is None else list(nlls))


def _shown(row: Any) -> str:
    """A row for an error message: its plain values, and the types of others."""
    values = row[:3] if isinstance(row, tuple | list) else [row]
    return shown([value if isinstance(value, str | float | int) else type(value).__name__ for value in values])

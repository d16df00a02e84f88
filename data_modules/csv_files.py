"""Small annotation files: CSVs of strings, whose mistakes are named by file, line and column."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd


def read_csv(path: Path, columns: Sequence[str], what: str) -> pd.DataFrame:
    """Read a comma-separated file with a header, every field as a string.

    Args:
        path: The file.
        columns: Those that it must have.
        what: What the file is, for the error where there is none.

    Raises:
        ValueError: The file isn't there or isn't a CSV, or lacks a column or rows.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {path}: put {what} there, or name another one.")
    try:
        frame = pd.read_csv(path, dtype=str, na_filter=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV file: {error}.") from error
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes what is too much for the names of the rows
        raise ValueError(f"{path} has rows of more fields than its header: look for commas outside quotes.")
    require(path, frame, columns)
    if frame.empty:
        raise ValueError(f"{path} has no rows.")
    return frame


def require(path: Path, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise a `ValueError` that names the columns which a file lacks."""
    if missing := [name for name in columns if name not in frame.columns]:
        raise ValueError(f"{path} has no column {', '.join(missing)}. Its columns: {', '.join(frame.columns)}.")


def refuse(path: Path, frame: pd.DataFrame, column: str, bad: np.ndarray, reason: str) -> None:
    """Raise a `ValueError` for the first bad row, if there is one.

    Args:
        path: The file that `frame` was read from, with its rows as they were.
        column: Where the mistake is.
        bad: (n,) bool.
        reason: Follows the value: "is no ...".
    """
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        more = f" (and {int(bad.sum()) - 1} more rows)" if bad.sum() > 1 else ""
        raise ValueError(f"{path}, line {row + 2}, column {column}: {frame[column].iloc[row]!r} {reason}{more}.")


def held_out(names: Sequence[str], share: float) -> np.ndarray:
    """Which rows to validate on where a data set has no validation split: all of some videos, whatever their order.

    Args:
        names: The row's video, (n,).
        share: Of the videos, about.

    Returns:
        (n,) bool.
    """
    return np.array([zlib.crc32(name.encode()) % 10_000 < share * 10_000 for name in names])

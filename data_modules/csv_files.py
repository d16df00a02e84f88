"""Small CSV files of annotations, with errors that name file, line and column."""

import csv
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from egovlpv2.io.files import require_file
from egovlpv2.io.schema import read_text, shown


def read_csv(path: Path, columns: Sequence[str], kind: str) -> pd.DataFrame:
    """Read a comma-separated file with a header, every field as a string.

    Args:
        path: The file.
        columns: Required columns.
        kind: Description of the file, for the error if it is missing.

    Returns:
        The rows; the index is the line at which each ends.

    Raises:
        ValueError: The file can't be read, isn't UTF-8 or a CSV, lacks a column or rows, names a column twice, or a row
            has more or fewer fields than the header.
    """
    require_file(path, kind)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        rows = [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not a row of a CSV file ({error}).") from error
    header = rows[0][1] if rows else []
    if twice := [name for i, name in enumerate(header) if name in header[:i]]:
        raise ValueError(f"{path} names the column {shown(twice[0])} twice: keep one of them.")
    for line, fields in rows:
        if len(fields) != len(header):
            raise ValueError(f"{path}, line {line} has {len(fields)} fields and the header {len(header)}: look for "
                             "commas outside quotes.")
    frame = pd.DataFrame([fields for _, fields in rows[1:]], [line for line, _ in rows[1:]], header, dtype=object)
    require(path, frame, columns)
    if frame.empty:
        raise ValueError(f"{path} has no rows.")
    return frame


def require(path: Path, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise a `ValueError` that names the missing columns of a file."""
    if missing := [name for name in columns if name not in frame.columns]:
        raise ValueError(f"{path} has no column {', '.join(missing)}. Its columns: {shown(list(frame.columns))}.")


def refuse(path: Path, frame: pd.DataFrame, column: str, bad: np.ndarray, reason: str) -> None:
    """Raise a `ValueError` for the first bad row, if there is one.

    Args:
        path: The file.
        frame: The rows that `read_csv` has read.
        column: The column with the error.
        bad: Mask of the bad rows, (n,) bool.
        reason: The error, to follow the value: "is not a ...".
    """
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        more = f" (and {int(bad.sum()) - 1} more rows)" if bad.sum() > 1 else ""
        raise ValueError(f"{path}, line {frame.index[row]}, column {column}: {shown(frame[column].iloc[row])} {reason}"
                         f"{more}.")


def refuse_blanks(path: Path, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise a `ValueError` for the first blank field in one of some columns, if there is one."""
    for column in columns:
        refuse(path, frame, column, ~frame[column].str.strip().astype(bool).to_numpy(), "is blank")


def refuse_repeats(path: Path, frame: pd.DataFrame, column: str) -> None:
    """Raise a `ValueError` for the first repeated value of a column, if there is one."""
    refuse(path, frame, column, frame[column].duplicated().to_numpy(), "is there twice: remove one of the rows")


def is_validation(names: Sequence[str], share: float) -> np.ndarray:
    """Choose the rows to validate on if a data set has no validation split: all rows of some videos.

    The choice depends on the videos' names alone, not on their order.

    Args:
        names: The video of each row, (n,).
        share: Approximate share of the videos.

    Returns:
        Mask of the validation rows, (n,) bool.
    """
    return np.array([zlib.crc32(name.encode()) % 10_000 < share * 10_000 for name in names])

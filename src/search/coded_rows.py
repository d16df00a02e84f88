"""The rows of an index that its codes lead to, read from the files of its embeddings."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from egovlpv2.features.files import features_begin
from egovlpv2.search.codes import Codes
from egovlpv2.search.records import CodesRecord, FileRecord, is_current

FEW_ROWS = 50_000  # so many rows are scanned in tens of milliseconds without codes


class CodedRows:
    """Candidates of a search by codes.

    Their rows are read from the files, not through a map: pages of mapped files, with those beside them, would stay in
    the process's memory.

    Args:
        folder: Of the index.
        record: Of the codes.
        embeddings: Of the index, by video.
        numbers: Numbers of the videos in the store whose embeddings are the recorded ones.
        paths: Of all embeddings in the store, by number.

    Raises:
        ValueError: As `Codes`.
    """

    def __init__(self, folder: Path, record: CodesRecord, embeddings: Mapping[str, FileRecord],
                 numbers: Mapping[str, int], paths: Sequence[Path]) -> None:
        self.codes, self.paths = Codes(folder, record), paths
        # Of each video of the codes its number in the store; -1 if it has changed since, or is gone.
        self._numbers = np.array([
            numbers[video.name] if video.name in numbers and is_current(video, embeddings) else -1
            for video in record.videos])
        self.videos = set(self._numbers.tolist()) - {-1}
        self._begin = {number: features_begin(paths[number]) for number in self.videos}
        self._times = {number: paths[number].stat().st_mtime_ns for number in self.videos}

    def candidates(self, query: Tensor, some: set[int], count: int) -> Iterator[tuple[int, list[int], Tensor]]:
        """Find the rows of some videos that may fit a query best.

        Args:
            query: (D,).
            some: Numbers of the videos.
            count: Windows of all videos to look at.

        Yields:
            Number of a video, its windows in ascending order, and their embeddings (n, D) float32.
        """
        places, windows = self.codes.search(query, count)
        numbers = self._numbers[places]
        for number in np.unique(numbers).tolist():
            if number in some:
                found = windows[numbers == number].tolist()
                if (values := self._read(number, found, len(query))) is not None:
                    yield number, found, values

    def _read(self, number: int, windows: Sequence[int], width: int) -> Tensor | None:
        """Read embeddings, (n, D) float32; None if the file is gone or has changed since it was opened."""
        path, size = self.paths[number], 2 * width  # bytes of a row
        try:
            with path.open("rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_mtime_ns != self._times[number]:
                    return None
                rows = [os.pread(file.fileno(), size, self._begin[number] + size * window) for window in windows]
        except FileNotFoundError:
            return None
        return torch.from_numpy(np.frombuffer(b"".join(rows), np.float16).reshape(-1, width).astype(np.float32))

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
MOST_ROWS = 20_000  # rows whose cosines are computed
_CANDIDATES = 1000


class CodedRows:
    """Candidates of a search by codes.

    Their rows are read from the files, not through a map: pages of mapped files, with those beside them, would stay in
    the process's memory.

    Args:
        folder: Of the index.
        record: Of the codes.
        embeddings: Of the index, by video.
        numbers: Numbers of the videos in the store.
        paths: Of their embeddings, by number.

    Raises:
        ValueError: As `Codes`.
    """

    def __init__(self, folder: Path, record: CodesRecord, embeddings: Mapping[str, FileRecord],
                 numbers: Mapping[str, int], paths: Sequence[Path]) -> None:
        self.codes, self.paths = Codes(folder, record), paths
        # Of each video of the codes its number in the store; -1 if it has changed since, or is gone.
        self._numbers = np.array([
            numbers[video.name] if video.name in numbers and is_current(video, embeddings)
            and embeddings[video.name].unchanged(paths[numbers[video.name]]) else -1 for video in record.videos])
        self.videos = set(self._numbers.tolist()) - {-1}
        self._records = {number: embeddings[paths[number].stem] for number in self.videos}
        self._begin = {number: features_begin(paths[number]) for number in self.videos}

    def candidates(self, query: Tensor, some: set[int], rows: int, most: int
                   ) -> Iterator[tuple[int, list[int], Tensor]]:
        """Find the rows of some videos that may fit a query best.

        Args:
            query: (D,).
            some: Numbers of the videos.
            rows: Windows that they have together.
            most: Windows that are wanted.

        Yields:
            Number of a video, its windows in ascending order, and their embeddings (n, D) float32.
        """
        # Windows of other videos are found too: as many more are asked for as those are more.
        wanted = max(_CANDIDATES, 10 * most) * len(self.codes) // rows
        places, windows = self.codes.search(query, min(wanted, MOST_ROWS))
        numbers = self._numbers[places]
        for number in np.unique(numbers).tolist():
            if number in some:
                found = windows[numbers == number].tolist()
                if (values := self._read(number, found, len(query))) is not None:
                    yield number, found, values

    def _read(self, number: int, windows: Sequence[int], width: int) -> Tensor | None:
        """Read embeddings, (n, D) float32; None if the file has changed since the index was opened."""
        path, size = self.paths[number], 2 * width  # bytes of a row
        if not self._records[number].unchanged(path):
            return None
        with path.open("rb", buffering=0) as file:
            rows = [os.pread(file.fileno(), size, self._begin[number] + size * window) for window in windows]
        return torch.from_numpy(np.frombuffer(b"".join(rows), np.float16).reshape(-1, width).astype(np.float32))

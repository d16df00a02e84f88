"""Four long videos in the format of QFVS, the query-focused summaries.

A long video consists of chunks of videos that are not in pre-training, by symbolic links. A concept is a noun that the
wearer of the camera uses; a query's summary is the shots with the most use of its two concepts.
"""

import io
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.io import savemat

from egovlpv2.data_modules.toy_world.retrieval_formats import link
from egovlpv2.data_modules.toy_world.script import Video
from egovlpv2.data_modules.toy_world.vocabulary import NOUNS
from egovlpv2.io.files import atomic_write

WriteText = Callable[[Path, str], None]

NAMES: tuple[str, ...] = ("P01", "P02", "P03", "P04")
"""The long videos."""

SHOT_SECONDS = 5
"""Length of a shot."""

CONCEPTS: tuple[str, ...] = tuple(sorted(NOUNS))
"""The dictionary."""

_MIN_USE = 0.5  # seconds of use in a shot for a tag
_QUERIES = 15  # of a long video
_TOGETHER = 5  # of them, with concepts that share a shot
_SHARE = 0.05  # of the shots in a summary
_MAT_HEADER = b"MATLAB 5.0 MAT-file, Platform: toy world"


class LongVideo(NamedTuple):
    """A long video with the seconds of use of each concept."""

    name: str
    chunks: list[tuple[str, int]]  # the video and the number of its file
    use: list[defaultdict[str, float]]  # by concept, for each shot

    def tags(self) -> list[list[str]]:
        """The concepts of each shot, sorted."""
        return [sorted(concept for concept, seconds in shot.items() if seconds >= _MIN_USE) for shot in self.use]


def long_videos(videos: Sequence[Video], chunk_seconds: int) -> list[LongVideo]:
    """Distribute the val and test videos over the long ones, room by room, so that each shows all rooms."""
    parts = [video for video in videos if video.split != "train" and video.duration >= chunk_seconds]
    parts.sort(key=lambda video: (video.scene, video.uid))
    found = []
    for i, name in enumerate(NAMES):
        chunks = [(video, k) for video in parts[i :: len(NAMES)] for k in range(int(video.duration // chunk_seconds))]
        use = _use(chunks, chunk_seconds)
        found.append(LongVideo(name, [(video.uid, k) for video, k in chunks], use))
    return found


def _use(chunks: list[tuple[Video, int]], chunk_seconds: int) -> list[defaultdict[str, float]]:
    """Seconds of use of each concept in each shot; a shot may begin in one chunk and end in the next."""
    use = [defaultdict[str, float](float) for _ in range(len(chunks) * chunk_seconds // SHOT_SECONDS)]
    for place, (video, k) in enumerate(chunks):
        first, offset = k * chunk_seconds, (place - k) * chunk_seconds  # seconds in the video and in the long one
        for event in video.events:
            start, end = max(event.start, first), min(event.end, first + chunk_seconds)
            if event.wearer == "C" and start < end:
                _add(use, event.noun, start + offset, end + offset)
    return use


def _add(use: list[defaultdict[str, float]], concept: str, start: float, end: float) -> None:
    for shot in range(int(start // SHOT_SECONDS), min(int(end // SHOT_SECONDS) + 1, len(use))):
        seconds = min(end, (shot + 1) * SHOT_SECONDS) - max(start, shot * SHOT_SECONDS)
        if seconds > 0:
            use[shot][concept] = round(use[shot][concept] + seconds, 2)


def queries(video: LongVideo) -> list[tuple[str, str]]:
    """Pairs of concepts in at least two shots each, or in one if no pair has; a third of them share a shot."""
    tags, draw = video.tags(), random.Random(f"qfvs-{video.name}")
    count = Counter(concept for shot in tags for concept in shot)
    found: list[tuple[str, str]] = []
    for least in (2, 1):
        found = found or list(combinations(sorted(concept for concept in count if count[concept] >= least), 2))
    draw.shuffle(found)
    meet = {pair for shot in tags for pair in combinations(shot, 2)}
    together, apart = ([pair for pair in found if (pair in meet) == met] for met in (True, False))
    rest = apart + together[_TOGETHER:]
    return sorted(together[:_TOGETHER] + rest[: _QUERIES - len(together[:_TOGETHER])])


def summary(video: LongVideo, query: tuple[str, str]) -> list[int]:
    """Numbers, from 1, of the shots with the most use of a query's concepts; of equal shots the earlier ones."""
    tags, keep = video.tags(), max(1, round(_SHARE * len(video.use)))
    shots = [i for i, shot in enumerate(tags) if set(shot) & set(query)]
    shots.sort(key=lambda i: (-round(sum(video.use[i][concept] for concept in query), 2), i))
    return sorted(i + 1 for i in shots[:keep])


def write_qfvs(videos: Sequence[Video], root: Path, chunk_seconds: int, write: WriteText) -> None:
    """Write `qfvs/videos`, `Dense_per_shot_tags`, `Tags.mat` and `Oracle_Summaries`.

    Args:
        videos: Videos of all splits.
        root: The toy world's folder.
        chunk_seconds: Length of a video's files.
        write: Writes a text into a file.
    """
    folder, found = root / "qfvs", long_videos(videos, chunk_seconds)
    for pattern in ("videos/P*/*.mp4", "Oracle_Summaries/P*/*.txt"):  # of an earlier world
        for old in folder.glob(pattern):
            old.unlink()
    for video in found:
        for i, (uid, k) in enumerate(video.chunks):
            link(root / "videos" / uid / f"{k}.mp4", folder / "videos" / video.name / f"{i}.mp4")
        dense = folder / "Dense_per_shot_tags" / video.name / f"{video.name}.txt"
        write(dense, "".join(",".join(shot) + "\n" for shot in video.tags()))
        for query in queries(video):
            oracle = folder / "Oracle_Summaries" / video.name / f"{'_'.join(query)}_oracle.txt"
            write(oracle, "".join(f"{shot}\n" for shot in summary(video, query)))
    write(folder / "Dense_per_shot_tags" / "Dictionary.txt", "\n".join(f"'{concept}'" for concept in CONCEPTS))
    with atomic_write(folder / "Tags.mat") as draft:
        draft.write_bytes(_tags_mat(found))


def _tags_mat(found: list[LongVideo]) -> bytes:
    """`Tags.mat`: a struct for each video, whose cells are rows of 0 and 1 over the dictionary, one per shot."""
    structs = np.zeros((1, len(found)), dtype=[("Bin_Vecs", object)])
    for i, video in enumerate(found):
        cells = np.empty((len(video.use), 1), dtype=object)
        for shot, tags in enumerate(video.tags()):
            cells[shot, 0] = np.array([[concept in tags for concept in CONCEPTS]], dtype=np.uint8)
        structs["Bin_Vecs"][0, i] = cells
    file = io.BytesIO()
    savemat(file, {"Tags": structs})
    # The header's 116 bytes of text would contain the time of writing.
    return _MAT_HEADER.ljust(116) + file.getvalue()[116:]

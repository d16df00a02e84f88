"""Search by example: the embedding of a moment of the index, of a clip or of a picture."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from egovlpv2.features.header import Recipe
from egovlpv2.search.store import EmbeddingStore
from egovlpv2.video.collection import find_videos
from egovlpv2.video.find import VIDEO_SUFFIXES
from egovlpv2.video.images import IMAGE_SUFFIXES, read_images
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import EvalTransform


class Example(NamedTuple):
    """An example to search by.

    Args:
        embedding: (D,) of length one.
        video: Of the index, if it is a moment of that; else empty.
        seconds: The moment.
    """

    embedding: Tensor
    video: str = ""
    seconds: float = 0.0


def read_example(like: str, store: EmbeddingStore, embed: Callable[[Tensor], Tensor], chunk_seconds: float = 600.0
                 ) -> Example:
    """Embed an example.

    Args:
        like: `VIDEO@SECONDS`, a moment of a video of the index; or the file of a clip or of a picture.
        store: The embeddings of the index.
        embed: Embeds frames (T, 3, H, W) uint8 of a clip: -> (D,) of length one.
        chunk_seconds: Length of the files of a clip that is a folder of chunks.

    Raises:
        ValueError: There is no such video in the index, or no such moment in it; or the file can't be read.
    """
    name, at, time = like.rpartition("@")
    if at and name in store.numbers:
        return _of_moment(name, time, store)
    path = Path(like)
    if at and not path.exists():
        raise ValueError(f"--like {like}: {name!r} is not a video of the index, such as {store.names[0]!r}")
    if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
        return Example(embed(_read_picture(path, store.recipe)))
    if path.is_file() and path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(f"--like {like}: give VIDEO@SECONDS, a clip or a picture")
    (source, *others) = find_videos([path])
    if others:
        raise ValueError(f"--like {like} holds {1 + len(others)} videos: give one clip")
    times = uniform_times(0.0, source.duration(chunk_seconds), store.recipe.frames)
    return Example(embed(source.read(times, EvalTransform(store.recipe.size), chunk_seconds).frames))


def _of_moment(name: str, time: str, store: EmbeddingStore) -> Example:
    """The window whose middle is nearest to a moment."""
    place = store.numbers[name]
    duration = store.durations[place]
    try:
        seconds = sum(float(part) * 60**place for place, part in enumerate(reversed(time.split(":"))))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= duration:
        raise ValueError(f"--like {name}@{time}: give a moment in seconds, or as 0:12; {name} lasts {duration:.1f} s")
    middles = np.array([sum(store.span(place, window)) / 2 for window in range(len(store.values[place]))])
    row = store.values[place][int(np.abs(middles - seconds).argmin())]
    return Example(normalize(row.float(), dim=0), name, seconds)


def _read_picture(path: Path, recipe: Recipe) -> Tensor:
    return read_images([path], 1.0, [0.0] * recipe.frames, EvalTransform(recipe.size)).frames

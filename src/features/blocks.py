"""Blocks of windows, which a loader's workers read, and checks of videos before that."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
from torch import Tensor
from torch.utils.data import Dataset

from egovlpv2.command.errors import describe, one_line
from egovlpv2.video.collection import VideoSource
from egovlpv2.video.container import NO_HANDLES, VideoError
from egovlpv2.video.windows import Windows


@dataclass(frozen=True)
class Block:
    """Consecutive windows of a video."""

    source: VideoSource
    duration: float  # seconds
    first: int
    count: int
    of: int  # windows of the whole video


class Read(NamedTuple):
    """Frames of a block, or the reason why there are none."""

    block: Block
    frames: Tensor | None  # (n, T, 3, H, W) uint8
    reason: str


class Blocks(Dataset[Read]):
    """A data set that is indexed by a block and reads its frames."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def __getitem__(self, block: Block) -> Read:
        try:
            return Read(block, self.windows.read(block.source, block.duration, block.first, block.count), "")
        except (VideoError, OSError, av.FFmpegError) as error:
            if getattr(error, "errno", None) in NO_HANDLES:
                raise
            return Read(block, None, str(error))


def find_problem(source: VideoSource, path: Path) -> str:
    """Return the reason why a video can't be read or its features not be written, by its names alone; else empty."""
    if source.problem:
        return source.problem
    first = source.files[0]
    try:
        str(first).encode()
        source.num_bytes  # noqa: B018 (an error if a file is not there any more)
        with suppress(FileNotFoundError):
            path.with_name(f"{path.name}.partial").stat()
    except UnicodeEncodeError:
        return one_line(f"{first}: the name is not UTF-8: rename it")
    except OSError as error:
        return named(error, str(first), str(first))
    return ""


def named(error: Exception, name: str, path: str) -> str:
    """Describe an error in one line, with the path in front unless the name is in it."""
    reason = str(describe(error))
    return reason if one_line(name) in reason else f"{one_line(path)}: {reason}"

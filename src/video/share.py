"""The share of the videos that this process takes: one that is given, or its own under `srun` and `torchrun`."""

import heapq
import logging
import os
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
ALL = "0/1"
"""The share that is all videos, also where several processes were started."""
log = logging.getLogger(__name__)
# The number of a process and of all, by what only its starter sets. In a batch script without `srun`, SLURM_NTASKS is
# set too, though there is one process: Lightning's `SLURMEnvironment` would take it for one of several.
_STARTERS = {"TORCHELASTIC_RUN_ID": ("RANK", "WORLD_SIZE"),
             "SLURM_STEP_NUM_TASKS": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")}


def own_share(videos: Sequence[T], num_bytes: Callable[[T], int], share: str | None = None) -> list[T]:
    """The videos of this process, in their order; all without other processes.

    Every process gets about as many bytes: each video, the largest first, goes to the process with the fewest. All
    processes must be given the same videos in the same order.

    Args:
        videos: All videos.
        num_bytes: The size of one.
        share: As for `place_among_processes`.

    Raises:
        ValueError: As `place_among_processes`.
    """
    rank, size = place_among_processes(share)
    if size == 1:
        return list(videos)
    loads = [(0, process) for process in range(size)]
    own = []
    sizes = [num_bytes(video) for video in videos]
    for place in sorted(range(len(videos)), key=lambda place: (-sizes[place], place)):
        load, process = heapq.heappop(loads)
        heapq.heappush(loads, (load + max(sizes[place], 1), process))
        if process == rank:
            own.append(place)
    log.warning("process %d of %d takes %d of %d videos", rank + 1, size, len(own), len(videos))
    return [videos[place] for place in sorted(own)]


def place_among_processes(share: str | None = None) -> tuple[int, int]:
    """The number of this process, from 0, and how many there are.

    Args:
        share: Both, as `0/16`, whatever started the process; None: as `srun` or `torchrun` says.

    Raises:
        ValueError: The share can't be read, or a variable that SLURM or torchrun sets is damaged.
    """
    if share is not None:
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", share)
        if found is None or not int(found[1]) < int(found[2]):
            raise ValueError(f"--share {share}: give the number of the part and of all, such as 0/16 to 15/16")
        return int(found[1]), int(found[2])
    for starter, names in _STARTERS.items():  # torchrun may itself run under srun
        if starter in os.environ:
            rank, size = _whole_numbers(names)
            if rank >= size:
                raise ValueError(f"{names[0]} is {rank} and {names[1]} {size}: processes are counted from 0")
            return rank, size
    return 0, 1


def _whole_numbers(names: Sequence[str]) -> list[int]:
    """Read environment variables.

    Raises:
        ValueError: One is missing, or not a whole number from 0.
    """
    for name in names:
        if not (value := os.environ.get(name, "")).isdecimal():
            raise ValueError(f"the environment variable {name} is {value!r}, and should be a whole number")
    return [int(os.environ[name]) for name in names]

"""The share of the videos that this process takes, of several that `srun`, `torchrun` or a SLURM array has started."""

import heapq
import logging
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)

# The number of a process and of all, by what only its starter sets. In a batch script without `srun`, SLURM_NTASKS is
# set too, though there is one process: Lightning's `SLURMEnvironment` would take it for one of several.
_STARTERS = {"TORCHELASTIC_RUN_ID": ("RANK", "WORLD_SIZE"),
             "SLURM_STEP_NUM_TASKS": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")}


def own_share(videos: Sequence[T], num_bytes: Callable[[T], int]) -> list[T]:
    """The videos of this process, in their order; all without other processes.

    Every process gets about as many bytes: each video, the largest first, goes to the process with the fewest. All
    processes must be given the same videos in the same order.

    Args:
        videos: All videos.
        num_bytes: The size of one.

    Raises:
        ValueError: As `place_among_processes`.
    """
    rank, size = place_among_processes()
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


def place_among_processes() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are: of all tasks of a job, in all jobs of an array.

    Raises:
        ValueError: A variable that SLURM or torchrun sets is damaged, or the numbers of an array's jobs have gaps.
    """
    rank, size = 0, 1
    for starter, names in _STARTERS.items():  # torchrun may itself run under srun
        if starter in os.environ:
            rank, size = _whole_numbers(names)
            break
    job, jobs = _place_in_array()
    return job * size + rank, jobs * size


def _place_in_array() -> tuple[int, int]:
    """The number of this job of a SLURM array, from 0, and how many jobs it has."""
    if "SLURM_ARRAY_TASK_ID" not in os.environ:
        return 0, 1
    task, first, step, count = _whole_numbers([f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "STEP", "COUNT")])
    number, rest = divmod(task - first, max(step, 1))
    if rest or not 0 <= number < count:
        raise ValueError("an array of jobs whose numbers have gaps can't share the videos: give it as --array=0-7, "
                         "without a list and without a step that leaves jobs out")
    return number, count


def _whole_numbers(names: Sequence[str]) -> list[int]:
    """Read environment variables.

    Raises:
        ValueError: One is missing, or not a whole number from 0.
    """
    for name in names:
        if not (value := os.environ.get(name, "")).isdecimal():
            raise ValueError(f"the environment variable {name} is {value!r}, and should be a whole number")
    return [int(os.environ[name]) for name in names]

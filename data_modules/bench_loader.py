"""Cost of a training clip from a file to the training process: `egovlpv2 bench loader`.

The files are as prepared ones of EgoClip: 256 px high, a keyframe a second. A core's share of the loader's time is set
against the bare seek and decode of as many clips (see `egovlpv2.bench.reader`), and the parts of a clip's way are timed
each on its own.
"""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from tqdm import tqdm

from egovlpv2.bench.made_up import made_up_tokenizer
from egovlpv2.bench.measure import BenchOptions, Figure
from egovlpv2.bench.reader import bare_loop, write_video
from egovlpv2.command.cores import usable_cores
from egovlpv2.data_modules.clip_groups import ClipGroup
from egovlpv2.data_modules.egoclip import EgoClip, EgoClipDataModule
from egovlpv2.data_modules.loaders import Rows
from egovlpv2.video.sampling import jittered_times

_VIDEOS, _SECONDS, _CLIP_SECONDS, _KEYFRAMES = 2, 60, 2.0, 30
_HEADER = ("video_uid", "video_dur", "narration_source", "narration_ind", "narration_time", "clip_start", "clip_end",
           "clip_text", "tag_verb", "tag_noun")


class _Ready(Rows[ClipGroup]):
    """Rows that need no reading: the same pair each time."""

    def __init__(self, pair: ClipGroup, count: int) -> None:
        self.pair, self.count = pair, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: tuple[int, int]) -> ClipGroup:
        return self.pair


def write_data(root: Path, rows: int) -> None:
    """Write two videos and an `egoclip.csv` of random clips of 2 s."""
    rng, lines = np.random.default_rng(0), ["\t".join(_HEADER)]
    for video in range(_VIDEOS):
        (root / "videos" / f"v{video}").mkdir(parents=True)
        write_video(root / "videos" / f"v{video}" / "0.mp4", _KEYFRAMES)
    for i in range(rows):
        start = rng.uniform(0, _SECONDS - _CLIP_SECONDS)
        text = " ".join(f"w{word}" for word in rng.integers(0, 500, 8))
        fields = (f"v{i % _VIDEOS}", _SECONDS, "narration_pass_1", i, start + 1, start, start + _CLIP_SECONDS, text,
                  [int(rng.integers(118))], [int(rng.integers(582))])
        lines.append("\t".join(map(str, fields)))
    (root / "egoclip.csv").write_text("\n".join(lines) + "\n")


def _seconds(batches: Iterator[Any], skip: int, count: int) -> float:
    """Mean seconds of a batch, after some to fill the queues."""
    for _ in islice(batches, skip):
        pass
    begin = time.perf_counter()
    done = sum(1 for _ in tqdm(islice(batches, count), "batches", count, leave=False))
    assert done == count, "the rows are enough for all batches"
    return (time.perf_counter() - begin) / count


def _mean(call: Callable[[int], object], count: int) -> float:
    """Mean seconds of a call; the first isn't timed."""
    call(0)
    begin = time.perf_counter()
    for i in range(1, count + 1):
        call(i)
    return (time.perf_counter() - begin) / count


def _bare(root: Path, count: int) -> float:
    """Mean seconds of the bare seek and decode of a clip."""
    rng = np.random.default_rng(1)
    loops = [bare_loop(root / "videos" / f"v{video}" / "0.mp4", _KEYFRAMES) for video in range(_VIDEOS)]

    def decode(i: int) -> None:
        start = rng.uniform(0, _SECONDS - _CLIP_SECONDS)
        loops[i % _VIDEOS](jittered_times(start, start + _CLIP_SECONDS, 4, rng))

    return _mean(decode, count)


def measure(options: BenchOptions, rows: int = 8, batches: int = 30) -> list[Figure]:
    """Time the training loader of EgoClip and its parts.

    Args:
        options: Nothing of them is used.
        rows: Of a batch; each brings two clips.
        batches: To time.
    """
    workers = usable_cores()
    warm_up, clips = 3 * workers, 2 * rows
    with TemporaryDirectory() as name:
        root = Path(name)
        write_data(root, (warm_up + batches) * rows)
        data = EgoClipDataModule(str(root), batch_size=rows, num_workers=workers, seed=0,
                                 tokenizer=made_up_tokenizer(root / "tokenizer", 600))
        loader = data.train_dataloader()
        bare = _bare(root, batches * rows)
        whole = _seconds(iter(loader), warm_up, batches) * workers / clips
        dataset = loader.dataset
        assert isinstance(dataset, EgoClip)
        reading = _mean(lambda i: dataset[0, i], batches * rows // 4) / 2
        ready = DataLoader(_Ready(dataset[0, 0], len(dataset)), rows, num_workers=1, collate_fn=loader.collate_fn)
        handing_over = _seconds(iter(ready), 3, batches) / clips
        size = dataset[0, 0].video[0].nbytes
    return [
        Figure("loader", f"a training clip of 4 frames, {workers} workers, one core's time", whole * 1e3, "ms",
               f"decode: bare seek and decode {bare * 1e3:.2f} ms", whole / bare),
        Figure("loader", "training clips, a core", 1 / whole, "clips/s"),
        Figure("loader", "... of which reading it", reading * 1e3, "ms", f"decode: {bare * 1e3:.2f} ms",
               reading / bare),
        Figure("loader", "... batching it and handing it to the training process", handing_over * 1e3, "ms",
               f"memory: {size / 1e3:.0f} kB"),
    ]

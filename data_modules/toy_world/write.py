"""Write the toy world: videos, annotations, a tokenizer and a contact sheet: `egovlpv2 toy-data`."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from egovlpv2.arguments import check_call
from egovlpv2.command.context import interrupts_held
from egovlpv2.command.cores import usable_cores
from egovlpv2.data_modules.toy_world.contact_sheet import contact_sheet
from egovlpv2.data_modules.toy_world.formats import egoclip_csv, egomcq_json
from egovlpv2.data_modules.toy_world.grounding_formats import write_grounding, write_queries
from egovlpv2.data_modules.toy_world.hard_negative_formats import HOI_FILES, write_egohoi
from egovlpv2.data_modules.toy_world.naq_formats import NAQ_FILES, write_narrations
from egovlpv2.data_modules.toy_world.question_formats import write_taskqa
from egovlpv2.data_modules.toy_world.render import encode, film
from egovlpv2.data_modules.toy_world.retrieval_formats import write_charades_ego, write_ek100
from egovlpv2.data_modules.toy_world.script import Split, Video, write_script
from egovlpv2.data_modules.toy_world.summary_formats import write_qfvs
from egovlpv2.data_modules.toy_world.synonyms import TASKQA_FILES, write_taskqa_synonyms
from egovlpv2.data_modules.toy_world.takes import takes
from egovlpv2.data_modules.toy_world.tokenizer import write_tokenizer
from egovlpv2.io.files import atomic_write
from egovlpv2.io.schema import read_json, read_text
from egovlpv2.types import Count, FiveOrMore, LongSeconds, NonNegativeInt

VERSION = 6
"""Raise it when the same parameters no longer give the same world."""


@dataclass(frozen=True)
class World:
    """The parameters of a world.

    Args:
        train_videos: Videos to train on.
        val_videos: Videos of rooms and event pairs that are not trained on.
        test_videos: The same, of other rooms.
        val_questions: EgoMCQ questions of each type.
        test_questions: EgoMCQ questions of each type.
        shortest_video: Seconds.
        longest_video: Seconds.
        chunk_seconds: Length of a video file; a longer video continues in the next file.
        fps: Frames a second.
        seed: Seed of the world.
    """

    train_videos: int = 260
    val_videos: int = 20
    test_videos: int = 32
    val_questions: int = 120
    test_questions: int = 240
    shortest_video: float = 32.0
    longest_video: float = 44.0
    chunk_seconds: int = 20
    fps: int = 10
    seed: int = 0

    def script(self) -> list[Video]:
        """All videos of this world, with their events."""
        counts: dict[Split, int] = {"train": self.train_videos, "val": self.val_videos, "test": self.test_videos}
        return write_script(counts, self.seed, (self.shortest_video, self.longest_video))

    def label(self) -> str:
        """The content of `world.json`."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_video(video: Video, root: Path, chunk_seconds: int, fps: int) -> None:
    """Render a video and write its chunks to `<root>/videos/<uid>/<k>.mp4`."""
    frames, step = list(film(video, fps)), chunk_seconds * fps
    for k, first in enumerate(range(0, len(frames), step)):
        with atomic_write(root / "videos" / video.uid / f"{k}.mp4") as draft:
            encode(frames[first : first + step], draft, fps)


def _write_videos(videos: list[Video], root: Path, world: World, workers: int) -> None:
    """Render all videos, several at a time, with a progress bar."""
    job = partial(write_video, root=root, chunk_seconds=world.chunk_seconds, fps=world.fps)
    progress = partial(tqdm, total=len(videos), desc="rendering the toy world", unit="video")
    if workers == 1:
        for video in progress(videos):
            job(video)
        return
    # Fresh processes: a fork of one that already runs threads, as torch does, may hang.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        with interrupts_held():
            jobs = [pool.submit(job, video) for video in videos]
        for done in progress(as_completed(jobs)):
            done.result()
    finally:  # not `with`, whose own shutdown would not cancel the futures
        pool.shutdown(cancel_futures=True)


def _write_annotations(videos: list[Video], root: Path, world: World) -> None:
    """Write the annotations, the tokenizer and the contact sheet."""
    train, val, test = ([video for video in videos if video.split == split] for split in ("train", "val", "test"))
    write_text(root / "script.json", json.dumps([video.to_dict() for video in videos], indent=1))
    write_text(root / "egoclip.csv", egoclip_csv(train))
    write_text(root / "egomcq_val.json", egomcq_json(val, "val", world.val_questions, world.seed))
    write_text(root / "egomcq_test.json", egomcq_json(test, "test", world.test_questions, world.seed))
    write_tokenizer([event.text for video in train for event in video.events], root / "tokenizer", write_text)
    with atomic_write(root / "contact_sheet.png") as draft:
        contact_sheet(videos).save(draft, format="png")


def is_written(root: Path, world: World) -> bool:
    """True if a folder already holds this world, complete."""
    label = root / "world.json"
    return label.is_file() and read_text(label) == world.label()


def _refuse_another(root: Path, world: World) -> None:
    """Refuse to overwrite a world of other parameters; an older version of the same world is replaced."""
    label = root / "world.json"
    if label.is_file():
        there = read_json(label, dict[str, Any])
        others = [f"{name}: {there.get(name)} there, {value} asked for"
                  for name, value in asdict(world).items() if there.get(name) != value]
        if others:
            raise ValueError(f"{root} holds another toy world ({'; '.join(others)}): write to another with --out,"
                             " keep that world by its own parameters, or delete the folder")


@dataclass(frozen=True)
class ToyWorld:
    """A toy world that lies in a folder.

    Args:
        root: The folder.
    """

    root: Path

    def __str__(self) -> str:
        return f"The toy world is in {self.root}; see {self.root / 'contact_sheet.png'}"


def write_toy_world(out: str | Path = "data/toy", *, num_workers: Count | None = None, train_videos: Count = 260,
                    val_videos: FiveOrMore = 20, test_videos: FiveOrMore = 32, val_questions: Count = 120,
                    test_questions: Count = 240, shortest_video: LongSeconds = 32.0, longest_video: LongSeconds = 44.0,
                    chunk_seconds: Count = 20, fps: Count = 10, seed: NonNegativeInt = 0) -> ToyWorld:
    """Render the embedded toy world: videos and annotations.

    Args:
        out: the folder to write to
        num_workers: processes; as many as there are cores if not given
        train_videos: videos to train on
        val_videos: videos of rooms and event pairs that are not trained on
        test_videos: the same, of yet other rooms
        val_questions: EgoMCQ questions of each type
        test_questions: EgoMCQ questions of each type
        shortest_video: seconds
        longest_video: seconds
        chunk_seconds: length of a video file; a longer video goes on in the next file
        fps: frames a second
        seed: of all that is drawn

    Raises:
        ValueError: An argument doesn't allow it, or the folder holds another toy world.
    """
    arguments = dict(locals())
    check_call(write_toy_world, arguments)
    if shortest_video > longest_video:
        raise ValueError(f"--shortest-video {shortest_video:g} is more than --longest-video {longest_video:g}: swap "
                         "them")
    return generate(arguments.pop("out"), **arguments)


def generate(root: str | Path, *, num_workers: int | None = None, **parameters: float) -> ToyWorld:
    """Write a world into a folder, unless the same one lies there already.

    Args:
        root: The folder.
        num_workers: Processes; as many as there are cores if not given.
        **parameters: Those of `World`.
    """
    root, world = Path(root), World(**parameters)  # type: ignore[arg-type]  # mypy doesn't match names of a dict
    if not is_written(root, world):
        _refuse_another(root, world)
        (root / "world.json").unlink(missing_ok=True)
        # Chunks of an earlier world, or of a killed run, must not mix with those of this one.
        for old in (root / "videos").glob("toy-*/*.mp4*"):
            old.unlink()
        for old in root.glob("ek100/*.npz"):  # caches of earlier labels
            old.unlink()
        videos = world.script()
        _write_annotations(videos, root, world)
        _write_videos(videos, root, world, min(num_workers or usable_cores(), len(videos)))
        write_ek100(videos, root / "ek100", root, world.chunk_seconds, write_text)  # these link to the videos
        write_charades_ego(videos, root / "charades_ego", root, world.chunk_seconds, write_text)
        write_grounding(videos, root, world.chunk_seconds, write_text)
        write_qfvs(videos, root, world.chunk_seconds, write_text)
        write_taskqa(videos, root, world.chunk_seconds, write_text)
        write_egohoi(videos, root, world.seed, write_text)
        write_narrations(videos, root, world.chunk_seconds, write_text)
        # The label comes last: a folder with a label is complete.
        write_text(root / "world.json", world.label())
    else:
        _add_newer_files(root, world)
    return ToyWorld(root)


def _add_newer_files(root: Path, world: World) -> None:
    """Add the files that an earlier release didn't write to its world, which is otherwise the same."""
    if not (root / "taskqa" / "qa" / "direct" / TASKQA_FILES[-1]).is_file():
        write_queries(takes(world.script(), world.chunk_seconds), root, write_text)
        write_taskqa_synonyms(root, write_text)
    if not (root / HOI_FILES[-1]).is_file():
        write_egohoi(world.script(), root, world.seed, write_text)
    if not (root / NAQ_FILES[-1]).is_file():  # of a release without NaQ
        write_narrations(world.script(), root, world.chunk_seconds, write_text)

"""Questions about a script, in the format of EgoTaskQA.

An interval is two actions of the wearer of the camera, one right after the other. No answer is that of more than about
half of the questions of a template, or of a wording, so that it can't be guessed without the video.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import av

from egovlpv2.data_modules.toy_world.question_templates import KINDS, Interval, intervals, questions
from egovlpv2.data_modules.toy_world.script import Split, Video
from egovlpv2.data_modules.toy_world.synonyms import write_taskqa_synonyms
from egovlpv2.io.files import atomic_write

WriteText = Callable[[Path, str], None]
Row = dict[str, Any]
Pools = dict[Split, list[list[Row]]]  # the questions of a split, by interval

SHARES: dict[Split, int] = {"train": 3, "val": 1, "test": 1}
"""Proportions of the questions of the splits."""

INDIRECT = 0.35
"""Share of the indirect questions of the direct split, which mixes both."""

UNKNOWN = "<UNK1>"
"""The first line of the answers, for answers that don't occur in training."""

_MAX_QUESTIONS = 2000  # of one share


def rows_of(part: Interval) -> list[Row]:
    """The questions about an interval in the official columns, without those that depend on the training questions."""
    rows = []
    for question in questions(part):
        kind, category, semantic = KINDS[question.kind]
        row: Row = {"interval": part.name, "question": question.text, "answer": question.answer, "type": [kind],
                    "category": [category], "semantic": semantic, "reference": question.reference,
                    "structural": "verify" if question.answer in ("yes", "no") else "query",
                    "video_id": part.video.uid, "template": f"{question.kind}-{question.reference}"}
        row["reasoning_type"] = "$".join(reasoning_types(row))
        rows.append(row)
    return rows


def reasoning_types(row: Row) -> list[str]:
    """The parts of a question's `reasoning_type`."""
    return [*row["type"], *row["category"], row["semantic"], row["structural"], row["reference"]]


def question_pools(videos: Sequence[Video], chunk_seconds: int) -> Pools:
    """All questions by split and interval, numbered throughout."""
    pools: Pools = {split: [rows_of(part) for video in videos if video.split == split
                            for part in intervals(video, chunk_seconds)] for split in SHARES}
    for number, row in enumerate(row for own in pools.values() for pool in own for row in pool):
        row["question_id"] = number
    return pools


def draw_questions(pools: Iterable[list[Row]], limit: int, seed: str) -> list[Row]:
    """Draw questions evenly over intervals and templates; each prefix of the result is balanced too.

    Args:
        pools: The questions about each interval.
        limit: Maximum number of questions.
        seed: Seed of the draw.
    """
    draw = random.Random(seed)
    left = [draw.sample(pool, len(pool)) for pool in pools]
    draw.shuffle(left)
    count: Counter[tuple[str, ...]] = Counter()
    drawn: list[Row] = []
    before = -1
    while before < len(drawn) < limit:  # until a round adds nothing
        before = len(drawn)
        for pool in left:
            fair = [row for row in pool if _is_fair(row, count)]
            if fair and len(drawn) < limit:
                chosen = min(fair, key=lambda row: (count[row["template"],], count[row["question"],]))
                pool.remove(chosen)
                drawn.append(chosen)
                for group in (chosen["template"], chosen["question"]):
                    count.update([(group,), (group, chosen["answer"])])
    return drawn


def _is_fair(row: Row, count: Counter[tuple[str, ...]]) -> bool:
    """True if the answer is not yet that of more than half of its template and of its wording."""
    return all(2 * count[group, row["answer"]] <= count[group,] + 1 for group in (row["template"], row["question"]))


def _drawn(pools: Pools, split: Split, reference: str) -> list[Row]:
    own = [[row for row in pool if row["reference"] == reference] for pool in pools[split]]
    return draw_questions(own, SHARES[split] * _MAX_QUESTIONS, f"{split}-{reference}")


def mixed(pools: Pools) -> dict[Split, list[Row]]:
    """The direct split: questions of both kinds of reference, as many as the splits' shares allow."""
    parts = {"direct": 1 - INDIRECT, "indirect": INDIRECT}
    drawn = {(split, reference): _drawn(pools, split, reference) for split in SHARES for reference in parts}
    share = min(_MAX_QUESTIONS, *(int(len(rows) / SHARES[split] / parts[reference])
                         for (split, reference), rows in drawn.items()))
    found: dict[Split, list[Row]] = {}
    for split in SHARES:
        whole_size = SHARES[split] * share
        indirect = round(INDIRECT * whole_size)
        both = drawn[split, "direct"][: whole_size - indirect] + drawn[split, "indirect"][:indirect]
        found[split] = random.Random(f"mixed-{split}").sample(both, len(both))
    return found


def unmixed(pools: Pools) -> dict[Split, list[Row]]:
    """The indirect split: direct questions to train on, indirect ones to validate and test."""
    return {split: _drawn(pools, split, "direct" if split == "train" else "indirect") for split in SHARES}


def write_split(rows: dict[Split, list[Row]], folder: Path, write: WriteText) -> None:
    """Write the questions, and the lists of the answers and the reasoning types.

    Args:
        rows: The questions of each split; answers and words are numbered by those of training.
        folder: The folder to write to.
        write: Writes a text into a file.
    """
    answers = [UNKNOWN, *sorted({row["answer"] for row in rows["train"]})]
    known = sorted({word for row in rows["train"] for word in _words(row["question"])})
    numbers = {word: number for number, word in enumerate(known, 1)}  # 0 is an unknown word
    for split, own in rows.items():
        encoded = [row | {"answer_encode": answers.index(row["answer"]) if row["answer"] in answers else 0,
                          "question_encode": [numbers.get(word, 0) for word in _words(row["question"])]} for row in own]
        write(folder / f"formatted_{split}_qas_encode.json", json.dumps(encoded))
    types = sorted({part for own in rows.values() for row in own for part in reasoning_types(row)})
    write(folder / "answer_set.txt", "".join(f"{answer}\n" for answer in answers))
    write(folder / "all_reasoning_types.txt", "".join(f"{part}\n" for part in types))


def _words(question: str) -> list[str]:
    return re.findall(r"\w+", question)


def write_taskqa(videos: Sequence[Video], root: Path, chunk_seconds: int, write: WriteText) -> None:
    """Write `taskqa/qa_videos`, `taskqa/qa/<split>` of the direct and the indirect split, and tests with synonyms.

    Args:
        videos: Videos of all splits.
        root: The toy world's folder.
        chunk_seconds: Length of a video's files.
        write: Writes a text into a file.
    """
    films = root / "taskqa" / "qa_videos"
    for old in films.glob("*.mp4*"):  # of an earlier world
        old.unlink()
    for part in (part for video in videos for part in intervals(video, chunk_seconds)):
        _cut(part, root, films / f"{part.name}.mp4", chunk_seconds)
    pools = question_pools(videos, chunk_seconds)
    write_split(mixed(pools), root / "taskqa" / "qa" / "direct", write)
    write_split(unmixed(pools), root / "taskqa" / "qa" / "indirect", write)
    write_taskqa_synonyms(root, write)


def _cut(part: Interval, root: Path, path: Path, chunk_seconds: int) -> None:
    """Copy the packets of an interval, from the keyframe before it, into a new file."""
    (one, two), k = part.events, int(part.events[0].start // chunk_seconds)
    start, end = (round(seconds - k * chunk_seconds, 2) for seconds in (one.start, two.end))
    source = root / "videos" / part.video.uid / f"{k}.mp4"
    with av.open(str(source)) as chunk, atomic_write(path) as draft, av.open(str(draft), "w", format="mp4") as film:
        own = film.add_stream_from_template(chunk.streams.video[0])
        packets = [packet for packet in chunk.demux(video=0) if packet.pts is not None]
        first = max(packet.pts for packet in packets if packet.is_keyframe and _seconds(packet) <= start)
        for packet in packets:
            if packet.pts >= first and _seconds(packet) < end:
                packet.pts, packet.dts, packet.stream = packet.pts - first, packet.dts - first, own
                film.mux(packet)


def _seconds(packet: av.Packet) -> float:
    assert packet.pts is not None
    return round(float(packet.pts * packet.time_base), 3)

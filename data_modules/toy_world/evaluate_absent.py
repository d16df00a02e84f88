"""Share of searches that find nothing to fit, for narrations of what is in toy videos and of what is not.

egovlpv2 index data/toy/videos/toy-val-* --chunk-seconds 20 --max-tokens 16 --weights W --out toy-val-index
python -m egovlpv2.data_modules.toy_world.evaluate_absent --index toy-val-index
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from egovlpv2.data_modules.toy_world.evaluate_search import read_videos
from egovlpv2.data_modules.toy_world.script import Video
from egovlpv2.search import Index
from egovlpv2.search.chance import LEAST_DEVIATION


class Question(NamedTuple):
    """A narration, and videos to search in."""

    text: str
    absent: list[str]  # videos in which no object of the narration is used
    present: list[str]  # as many, among them the narration's own


def draw_questions(videos: dict[str, Video], count: int, seed: int) -> list[Question]:
    """Draw narrations whose objects some of the videos lack.

    Raises:
        ValueError: There are none.
    """
    rng = random.Random(seed)
    uses = {name: {event.noun for event in video.events} for name, video in videos.items()}
    nouns = set().union(*uses.values())
    found = []
    for name, video in videos.items():
        for event in video.events:
            named = nouns.intersection(event.text.split())
            if absent := [other for other in videos if not named & uses[other]]:
                others = [other for other in videos if other != name]
                found.append(Question(event.text, absent, [name, *rng.sample(others, len(absent) - 1)]))
    if not found:
        raise ValueError("every object is used in every video: index more of them")
    return rng.sample(found, min(count, len(found)))


def deviations(index: Index, questions: Sequence[Question]) -> tuple[list[float], list[float]]:
    """Compute the deviation from chance for each question: where its objects are absent, and present."""
    found: tuple[list[float], list[float]] = ([], [])
    for question in tqdm(questions, desc="searching", unit="query"):
        for videos, values in zip((question.absent, question.present), found, strict=True):
            deviation = index.find(question.text, top=1, videos=videos).deviation
            assert deviation is not None, "an index of this version has what chance reaches"
            values.append(deviation)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Print the share of searches of which nothing fits."""
    parser = argparse.ArgumentParser(prog="evaluate_absent", formatter_class=argparse.ArgumentDefaultsHelpFormatter,
                                     description="How often a search on toy videos says that nothing fits.")
    parser.add_argument("--toy", type=Path, default=Path("data/toy"), help="the toy world")
    parser.add_argument("--index", type=Path, default=Path("index"), help="of videos of one of its splits")
    parser.add_argument("--queries", type=int, default=400, help="narrations to search for")
    parser.add_argument("--seed", type=int, default=0, help="seed of their selection")
    parser.add_argument("--false-refusals", type=float, default=0.08, help="share to choose a threshold for")
    args = parser.parse_args(argv)
    index = Index(args.index)
    videos = read_videos(args.toy, index.store.names)
    questions = draw_questions(videos, args.queries, args.seed)
    absent, present = map(np.array, deviations(index, questions))
    splits = ", ".join(sorted({video.split for video in videos.values()}))
    print(f"{len(questions)} narrations of {len(videos)} videos ({splits}), weights {index.store.recipe.checkpoint}")
    chosen = float(np.quantile(present, args.false_refusals))
    for threshold, how in ((LEAST_DEVIATION, "the program's"), (chosen, f"for {args.false_refusals:.0%}")):
        print(f"threshold {threshold:5.2f} ({how}): nothing fits {100 * (absent < threshold).mean():.1f} % of what is "
              f"absent, {100 * (present < threshold).mean():.1f} % of what is present")


if __name__ == "__main__":
    main()

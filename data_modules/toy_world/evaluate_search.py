"""Accuracy of a search for narrations, on an index of toy videos.

egovlpv2 index data/toy/videos/toy-test-* --chunk-seconds 20 --max-tokens 16 --weights W --out toy-index
python -m egovlpv2.data_modules.toy_world.evaluate_search --index toy-index
python -m egovlpv2.data_modules.toy_world.evaluate_search --index toy-index --synonyms
"""

import argparse
import json
import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from egovlpv2.data_modules.toy_world.script import Event, Video, video_from_dict
from egovlpv2.data_modules.toy_world.synonyms import rename
from egovlpv2.search import Index, Moment

_TOP = 5


class SearchAccuracy(NamedTuple):
    """Shares in %."""

    top1: float  # of queries whose best moment is right
    top5: float  # of queries with a right moment among the five best
    chance: float  # of right windows, mean of the queries


def is_right(event: Event, video: Video, start: float, end: float) -> bool:
    """True if the middle of a window lies within an event of the same verb and noun."""
    middle = (start + end) / 2
    return any(other.start <= middle < other.end and (other.verb, other.noun) == (event.verb, event.noun)
               for other in video.events)


def measure(index: Index, videos: dict[str, Video], events: Sequence[Event], rerank: int = 0, synonyms: bool = False
            ) -> SearchAccuracy:
    """Search for the narrations of events.

    Args:
        index: The index of the videos.
        videos: The videos by name.
        events: The events to search for.
        rerank: Number of moments to rerank with the gate open.
        synonyms: True to replace the objects' names by their synonyms.
    """
    spans = index.store.spans()

    def right(event: Event, moment: Moment) -> bool:
        return is_right(event, videos[moment.video], moment.start, moment.end)

    hits, shares = [], []
    for event in tqdm(events, desc="searching", unit="query"):
        text = rename(event.text, event.noun) if synonyms else event.text
        assert text is not None, "only events whose objects have synonyms are searched for by them"
        hits.append([right(event, moment) for moment in index.search(text, top=_TOP, rerank=rerank)])
        shares.append(sum(is_right(event, videos[name], *span) for name, *span in spans) / len(spans))
    count = len(events) / 100
    return SearchAccuracy(sum(row[0] for row in hits) / count, sum(map(any, hits)) / count, sum(shares) / count)


def draw_events(videos: dict[str, Video], count: int, seed: int, synonyms: bool = False) -> list[Event]:
    """Draw `count` different events of the videos; with `synonyms`, of those whose object has one."""
    events = [event for video in videos.values() for event in video.events
              if not synonyms or rename(event.text, event.noun) is not None]
    if not 1 <= count <= len(events):
        raise ValueError(f"--queries {count}: these videos have 1 to {len(events)} narrations")
    return random.Random(seed).sample(events, count)


def read_videos(toy: Path, names: Sequence[str]) -> dict[str, Video]:
    """The script of some videos.

    Raises:
        ValueError: There is no script, or it lacks one of the videos.
    """
    path = toy / "script.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: `make toy-data` writes it")
    script = {row["uid"]: video_from_dict(row) for row in json.loads(path.read_text(encoding="utf-8"))}
    if unknown := sorted(set(names) - script.keys()):
        raise ValueError(f"the index has {len(unknown)} videos that {path} lacks, such as {unknown[0]!r}: "
                         f"index {toy}/videos/toy-test-* alone")
    return {name: script[name] for name in sorted(names)}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the accuracy of a search."""
    parser = argparse.ArgumentParser(prog="evaluate_search", description="Accuracy of a search on toy videos.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--toy", type=Path, default=Path("data/toy"), help="the toy world")
    parser.add_argument("--index", type=Path, default=Path("index"), help="of videos of one of its splits")
    parser.add_argument("--queries", type=int, default=100, help="narrations to search for")
    parser.add_argument("--seed", type=int, default=0, help="seed of their selection")
    parser.add_argument("--rerank", type=int, nargs="+", default=[0], help="moments to rerank with the gate open")
    parser.add_argument("--synonyms", action="store_true",
                        help="search for events whose object has a synonym, by its name and by the synonym")
    args = parser.parse_args(argv)
    index = Index(args.index)
    videos = read_videos(args.toy, index.store.names)
    events = draw_events(videos, args.queries, args.seed, args.synonyms)
    splits = ", ".join(sorted({video.split for video in videos.values()}))
    recipe = index.store.recipe
    print(f"{len(events)} narrations of {len(videos)} videos ({splits}), {len(index.store)} windows of "
          f"{index.store.seconds:g} s each {recipe.stride / recipe.fps:g} s, {recipe.frames} frames, "
          f"weights {recipe.checkpoint}")
    print("right: the window's middle lies within an event of the narration's verb and noun")
    for rerank, synonyms in product(args.rerank, (False, True)[: 1 + args.synonyms]):
        accuracy = measure(index, videos, events, rerank, synonyms)
        how = f"{f'rerank {rerank}' if rerank else 'dual'}{', synonyms' if synonyms else ''}"
        print(f"{how:<{21 if args.synonyms else 11}}best moment {accuracy.top1:5.1f} %   one of five "
              f"{accuracy.top5:5.1f} %   chance {accuracy.chance:.1f} %")


if __name__ == "__main__":
    main()

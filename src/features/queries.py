"""The queries of an extraction: which questions are asked of which video."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from egovlpv2.io.nlq_files import AskedClip, is_official, official_clips, vslnet_clips
from egovlpv2.io.schema import Words, check_entries, read_json


def read_queries(paths: Sequence[str]) -> dict[str, list[str]]:
    """Queries by video, each once.

    Args:
        paths: JSON files: `{"video": ["query", ...]}`, or official Ego4D `nlq_*.json`, whose queries are asked of
            their clip and of its video; or VSLNet's `train.json`. Empty queries of the last two are counted and left
            out.

    Raises:
        ValueError: A file is missing, not JSON, or of another form; a query is not a text, or is empty.
    """
    found: dict[str, dict[str, None]] = {}
    for path in map(Path, paths):
        for video, queries in _by_video(path, read_json(path, Any)):
            found.setdefault(video, {}).update(dict.fromkeys(query.strip() for query in queries))
    return {video: list(queries) for video, queries in found.items()}


def _by_video(path: Path, content: Any) -> list[tuple[str, list[str]]]:
    if is_official(content):
        return list(_asked(path, official_clips(content, str(path))))
    if not isinstance(content, dict):
        raise ValueError(f'{path}: the queries should be {{"video": ["query", ...]}}, or an official nlq_*.json')
    if content and all(isinstance(queries, dict) for queries in content.values()):
        return list(_asked(path, vslnet_clips(content, str(path))))
    return list(check_entries(content, list[Words], f"{path}: the queries should be a list of texts for each video; "
                                                    "those of").items())


def _asked(path: Path, clips: list[AskedClip]) -> Iterator[tuple[str, list[str]]]:
    """Queries by clip and by video; the files hold some without words, which are counted."""
    empty = 0
    for clip in clips:
        asked = [query.text for query in clip.queries if query.text]
        empty += len(clip.queries) - len(asked)
        yield from ((name, asked) for name in dict.fromkeys((clip.clip, clip.video)))
    if empty:
        print(f"{path}: {empty} empty queries skipped", file=sys.stderr)

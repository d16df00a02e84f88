"""Reading of the queries for feature extraction, by video."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from egovlpv2.io.nlq_files import AskedClip, is_official, official_clips, vslnet_clips
from egovlpv2.io.schema import Words, check_entries, read_json


def read_queries(paths: Sequence[str]) -> dict[str, list[str]]:
    """Read queries by video, each once.

    Args:
        paths: JSON files: `{"video": ["query", ...]}`, official Ego4D `nlq_*.json`, whose queries belong to
            their clip and to its video; or VSLNet's `train.json`. Empty queries of the last two are counted and left
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
        return list(_from_clips(path, official_clips(content, str(path))))
    if not isinstance(content, dict):
        raise ValueError(f'{path}: the queries should be {{"video": ["query", ...]}}, or an official nlq_*.json')
    if content and all(isinstance(queries, dict) for queries in content.values()):
        return list(_from_clips(path, vslnet_clips(content, str(path))))
    return list(check_entries(content, list[Words], f"{path}: the queries should be a list of texts for each video; "
                                                    "those of").items())


def _from_clips(path: Path, clips: list[AskedClip]) -> Iterator[tuple[str, list[str]]]:
    """Yield queries by clip and by video; count and skip those without text."""
    empty = 0
    for clip in clips:
        texts = [query.text for query in clip.queries if query.text]
        empty += len(clip.queries) - len(texts)
        yield from ((name, texts) for name in dict.fromkeys((clip.clip, clip.video)))
    if empty:
        print(f"{path}: {empty} empty queries skipped", file=sys.stderr)

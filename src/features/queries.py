"""The queries of an extraction: which questions are asked of which video."""

import json
import sys
from pathlib import Path
from typing import Any


def read_queries(paths: list[str]) -> dict[str, list[str]]:
    """Queries by video, each once.

    Args:
        paths: JSON files: `{"video": ["query", ...]}`, or official Ego4D `nlq_*.json`, whose queries are asked of
            their clip and of its video; empty ones of these are counted and left out; or VSLNet's `train.json`.

    Raises:
        ValueError: A file is missing, no JSON, or of another form; a query is no text or empty.
    """
    found: dict[str, dict[str, None]] = {}
    for path in map(Path, paths):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # no JSON, no UTF-8
            raise ValueError(f"{path}: the queries can't be read ({error})") from error
        for video, queries in _by_video(path, content):
            found.setdefault(video, {}).update(dict.fromkeys(query.strip() for query in queries))
    return {video: list(queries) for video, queries in found.items()}


def _by_video(path: Path, content: Any) -> list[tuple[str, list[str]]]:
    if isinstance(content, dict) and isinstance(content.get("videos"), list):
        try:
            return _official(path, content["videos"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not of the form of an official nlq_*.json ({error!r})") from error
    if not isinstance(content, dict):
        raise ValueError(f'{path}: the queries should be {{"video": ["query", ...]}}, or an official nlq_*.json')
    found = []
    for video, queries in content.items():
        if isinstance(queries, dict) and "sentences" in queries:  # VSLNet's
            queries = queries["sentences"]
        found.append((video, queries))
        if not isinstance(queries, list) or not all(isinstance(query, str) and query.strip() for query in queries):
            raise ValueError(f"{path}: the queries of {video!r} should be a list of texts, none of them empty")
    return found


def _official(path: Path, videos: list[Any]) -> list[tuple[str, list[str]]]:
    """Queries by clip and by video; the files hold some without words."""
    found, empty = [], 0
    for video in videos:
        for clip in video["clips"]:
            texts = [query.get("query") or "" for annotation in clip.get("annotations", [])
                     for query in annotation["language_queries"]]
            asked = [text for text in texts if text.strip()]
            empty += len(texts) - len(asked)
            found += [(clip["clip_uid"], asked), (video["video_uid"], asked)]
    if empty:
        print(f"{path}: {empty} empty queries skipped", file=sys.stderr)
    return found

"""A self-contained HTML page of moments: pictures, style and script are inside."""

import base64
import json
from collections.abc import Sequence
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from egovlpv2.io.files import atomic_write
from egovlpv2.search.moments import Moment
from egovlpv2.video.clock import clock

_PLACE = "{{DATA}}"  # in page.html


class Card(NamedTuple):
    """A moment to show."""

    moment: Moment
    pictures: list[bytes]  # JPEG files
    problem: str  # the reason why there are no pictures


def jpegs(frames: Tensor) -> list[bytes]:
    """Frames (n, 3, H, W) uint8 as JPEG files."""
    made = []
    for picture in frames.permute(0, 2, 3, 1).numpy():
        file = BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=80)
        made.append(file.getvalue())
    return made


def page(query: str, cards: Sequence[Card], summary: str) -> str:
    """Fill in the page.

    Args:
        query: The text that was searched for.
        cards: Its moments, the best first.
        summary: A line about the search.
    """
    data = {"query": query, "summary": summary, "moments": [_plain(rank, card) for rank, card in enumerate(cards, 1)]}
    text = json.dumps(data).replace("<", "\\u003c")  # a name can't end the script
    return files("egovlpv2.search").joinpath("page.html").read_text(encoding="utf-8").replace(_PLACE, text)


def _plain(rank: int, card: Card) -> dict[str, Any]:
    moment = card.moment
    pictures = ["data:image/jpeg;base64," + base64.b64encode(picture).decode() for picture in card.pictures]
    return {"rank": rank, "video": moment.video, "start": moment.start, "score": moment.score, "cosine": moment.cosine,
            "match": moment.match, "time": f"{clock(moment.start)} – {clock(moment.end)}", "pictures": pictures,
            "problem": card.problem}


def write_page(path: Path, query: str, cards: Sequence[Card], summary: str) -> None:
    """Write the page whole or not at all."""
    with atomic_write(path) as draft:
        draft.write_text(page(query, cards, summary), encoding="utf-8")

"""Moments of videos, and their temporal non-maximum suppression."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from egovlpv2.video.clock import clock


@dataclass(frozen=True)
class Moment:
    """A window of a video, and how well it fits a text.

    Args:
        video: Name of the video.
        start: Seconds.
        end: Seconds.
        cosine: Cosine of the embeddings of window and text, gate closed.
        match: Probability that the text fits, with the gate open; None if it was not computed.
        window_index: Number of the window in its video.
    """

    video: str
    start: float
    end: float
    cosine: float
    match: float | None = None
    window_index: int = 0

    @property
    def score(self) -> float:
        """The score to rank by: the cosine, plus the match where there is one, as for EgoMCQ."""
        return self.cosine + (self.match or 0.0)

    def __str__(self) -> str:
        match = "" if self.match is None else f"  match {self.match:.3f}"
        return f"{self.video}  {clock(self.start)} - {clock(self.end)}  cosine {self.cosine:.3f}{match}"


def temporal_nms(moments: Iterable[Moment], seconds: float, count: int) -> list[Moment]:
    """Keep the first `count` moments that begin at least `seconds` apart from all kept ones of their video."""
    kept: dict[str, list[float]] = defaultdict(list)
    found: list[Moment] = []
    for moment in moments:
        if all(abs(moment.start - start) > seconds - 1e-6 for start in kept[moment.video]):
            kept[moment.video].append(moment.start)
            found.append(moment)
        if len(found) == count:
            break
    return found

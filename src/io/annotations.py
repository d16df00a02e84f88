"""Checks shared by the readers of annotations: ids that must not repeat, and spans of time."""

from egovlpv2.io.schema import shown

_SLACK = 1.0  # seconds after their clip's end at which official times may still begin


class Once:
    """A set of ids that refuses repeated ones.

    Args:
        source: Name of the file in error messages.
        what: Name of an id in error messages, such as `clip_uid`.
    """

    def __init__(self, source: str, what: str) -> None:
        self.source, self.what = source, what
        self.places: dict[str, str] = {}

    def add(self, name: str, place: str) -> None:
        """Add an id.

        Args:
            name: The id.
            place: Its place in the file, for error messages.

        Raises:
            ValueError: It has been added before.
        """
        if name in self.places:
            raise ValueError(f"{self.source}, {place}: {self.what} {shown(name)} is there twice, first in "
                             f"{self.places[name]}: remove one, or give it an id of its own")
        self.places[name] = place


def check_times(what: str, start: float, end: float, duration: float) -> None:
    """Refuse times that can't be those of a clip; they may end beyond it.

    Args:
        what: Name of the annotation in error messages.
        start, end: Seconds of the clip.
        duration: Of the clip, seconds.

    Raises:
        ValueError: They end before they begin, or lie outside the clip.
    """
    if not start <= end:
        raise ValueError(f"{what}: {start}-{end} s ends before it begins: swap its times")
    if end < 0 or start > duration + _SLACK:
        raise ValueError(f"{what}: {start}-{end} s lies outside its clip of {duration:.1f} s")

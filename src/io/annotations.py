"""What the readers of annotations share: ids that must not repeat, and spans of time."""

from egovlpv2.io.schema import shown

_SLACK = 1.0  # official times begin up to so many seconds after their clip's end


class Once:
    """Refuses an id that is there twice.

    Args:
        source: What error messages call the file.
        what: What they call an id, such as `clip_uid`.
    """

    def __init__(self, source: str, what: str) -> None:
        self.source, self.what = source, what
        self.places: dict[str, str] = {}

    def add(self, name: str, place: str) -> None:
        """Take note of an id.

        Args:
            name: The id.
            place: Where it is, for error messages.

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
        what: Whose times they are, for error messages.
        start, end: Seconds of the clip.
        duration: Of the clip, seconds.

    Raises:
        ValueError: They end before they begin, or lie outside the clip.
    """
    if not start <= end:
        raise ValueError(f"{what}: {start}-{end} s ends before it begins: swap its times")
    if end < 0 or start > duration + _SLACK:
        raise ValueError(f"{what}: {start}-{end} s lies outside its clip of {duration:.1f} s")

"""Results of `locate` and `detect` as a JSON file, with a picture beside it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from egovlpv2.io.files import atomic_write, make_folder_of, require_suffix, write_json
from egovlpv2.tools.video_parts import read_strip
from egovlpv2.video.collection import VideoSource
from egovlpv2.video.export import check_targets
from egovlpv2.viz.figures import png
from egovlpv2.viz.timeline import Drawing, draw

R = TypeVar("R")


class Results(list[R]):
    """A list of results, which prints one a line.

    Args:
        found: The results.
        out: The JSON file that was written, with a picture beside it; None if there is none.
        exported: Other files that were written.
        nothing: Text for an empty list.
    """

    def __init__(self, found: Iterable[R], out: str | Path | None, exported: Sequence[Path] = (),
                 nothing: str = "nothing was found") -> None:
        super().__init__(found)
        self.out, self.exported, self.nothing = out, list(exported), nothing

    def __str__(self) -> str:
        lines = [str(one) for one in self] or [self.nothing]
        written = [] if self.out is None else [f"written: {self.out} and {Path(self.out).with_suffix('.png')}"]
        return "\n".join([*lines, *written, *(f"written: {path}" for path in self.exported)])


def check_outputs(out: str | Path | None, export: Sequence[str] | None, source: VideoSource) -> None:
    """Refuse names that can't be written to, before hours of work.

    Args:
        out: The JSON file; None for none.
        export: Other targets, see `check_targets`.
        source: The video.

    Raises:
        ValueError: `out` isn't a .json, or a name can't be written to or lies among the files of the video.
    """
    check_targets(export or [], [source], [out])
    if out is None:
        return
    path = Path(out)
    require_suffix(path, ".json", "the list of what is found")
    if source.image_fps is not None and path.parent.resolve() == source.files[0].resolve():
        raise ValueError(f"--out {out} lies among the pictures of the video: give another folder")
    make_folder_of(path)


def write_results(out: Path, content: dict[str, Any], drawings: Sequence[Drawing], source: VideoSource,
                  chunk_seconds: float) -> None:
    """Write a JSON file and its picture: both, or neither.

    Args:
        out: The JSON file.
        content: Its content.
        drawings: Of the picture, one below the other.
        source: The video, for a strip of frames above them.
        chunk_seconds: Length of its files, if it is a folder of them.
    """
    frames = read_strip(source, drawings[0].duration, chunk_seconds)
    with atomic_write(out.with_suffix(".png")) as draft:
        draft.write_bytes(png(draw(drawings, frames)))  # first: it gets its name when the list is whole
        write_json(out, content)

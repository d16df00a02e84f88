"""Export of what was found: clips cut out of their videos, and lists for players and editors."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from egovlpv2.io.files import atomic_write, make_folder, make_folder_of
from egovlpv2.video.collection import VideoSource
from egovlpv2.video.container import VideoError
from egovlpv2.video.excerpt import write_excerpt
from egovlpv2.video.moment_lists import LISTS, OF_ONE_VIDEO, FoundMoment

_SHORT_SIDE = 1080  # pixels of a clip, at most
_RATES = (1.0, 120.0)  # frames a second of a clip


def check_targets(targets: Sequence[str | Path], sources: Sequence[VideoSource] = (),
                  others: Sequence[str | Path | None] = ()) -> None:
    """Refuse what can't be written to, before hours of work.

    Args:
        targets: Files of a format of `LISTS`, and folders for clips, which have no suffix.
        sources: Videos that must not be written over.
        others: Other files that the command reads or writes, which must not be written over.

    Raises:
        ValueError: A target has a suffix of no format, can't be written to, is there twice, is one of the others, or
            lies among the files of a video.
    """
    theirs = {path.resolve() for source in sources for file in source.files for path in (file, file.parent)}
    taken = {Path(other).resolve() for other in others if other is not None}
    for target in map(Path, targets):
        if target.resolve() in taken:
            raise ValueError(f"--export {target}: that file is read, or written to already: give another one")
        taken.add(target.resolve())
        if not target.suffix or target.is_dir():
            if target.resolve() in theirs:
                raise ValueError(f"--export {target} is the folder of a video: give another one")
            make_folder(target)
        elif target.suffix.lower() in LISTS:
            make_folder_of(target)
        else:
            raise ValueError(f"--export {target}: give a folder for clips, or a file named {' '.join(LISTS)}")


def write_moments(targets: Sequence[str | Path], moments: Sequence[FoundMoment], sound: bool = False) -> list[Path]:
    """Write moments as clips and as lists; each file is whole or absent.

    Args:
        targets: As `check_targets` allows. Subtitles of several videos become a file for each, `NAME.VIDEO.srt`.
        moments: The best first.
        sound: Clips keep the sound of their videos.

    Returns:
        The files.

    Raises:
        VideoError: A video can't be read there.
    """
    written: list[Path] = []
    for target in map(Path, targets):
        if target.is_dir():
            written += _write_clips(target, moments, sound)
        else:
            written += _write_list(target, moments)
    return written


def _write_list(target: Path, moments: Sequence[FoundMoment]) -> list[Path]:
    suffix = target.suffix.lower()
    parts = {target: list(moments)}
    names = dict.fromkeys(moment.source.name for moment in moments)
    if suffix in OF_ONE_VIDEO and len(names) > 1:
        parts = {target.with_name(f"{target.stem}.{name}{target.suffix}"):
                 [moment for moment in moments if moment.source.name == name] for name in names}
    for path, some in parts.items():
        with atomic_write(path) as draft:
            draft.write_text(LISTS[suffix](some), encoding="utf-8", errors="backslashreplace")
    return list(parts)


def _write_clips(folder: Path, moments: Sequence[FoundMoment], sound: bool) -> list[Path]:
    """Write a clip of each moment, with the frames of its video one by one.

    Raises:
        VideoError: Some can't be cut; the others are written.
    """
    written: list[Path] = []
    problems: dict[str, None] = {}
    for rank, moment in enumerate(tqdm(moments, desc="cutting", unit="clip", disable=len(moments) < 2), 1):
        path = folder / f"{rank:03}-{moment.source.name[:150]}-{moment.start:.1f}-{moment.end:.1f}.mp4"
        try:
            rate = min(max(moment.source.rate, _RATES[0]), _RATES[1])
            write_excerpt(moment.source, moment.chunk_seconds, [(moment.start, moment.end)], path, rate, _SHORT_SIDE,
                          sound=sound)
            written.append(path)
        except VideoError as error:
            problems[str(error)] = None
    if problems:
        raise VideoError(f"{len(moments) - len(written)} of {len(moments)} clips can't be cut: {'; '.join(problems)}")
    return written

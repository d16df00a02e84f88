"""`egovlpv2 prepare`: re-encode raw videos as small pictures with frequent keyframes, which training reads fast.

The layout is that of EgoClip: `<out>/<video_uid>/<k>.mp4` holds the k-th `chunk_seconds` of a video, with times that
begin at 0. All times are counted as the reader counts them, in seconds from the stream's first frame. A chunk that
begins between two frames repeats the one shown at that moment, so `read_chunks` shows at any time the picture that
`read_frames` shows of the original.

A run may be killed at any time and started again. Several runs at once share the work: each leaves a video that
another is preparing to its end, and then waits for it.
"""

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import av
from tqdm import tqdm

from egovlpv2.arguments import check_call
from egovlpv2.command.cores import usable_cores
from egovlpv2.command.errors import one_line
from egovlpv2.io.files import write_json
from egovlpv2.types import ChunkLength, Count, Crf, MaximumRate, Seconds, ShortSide
from egovlpv2.video.container import VideoError, open_container
from egovlpv2.video.encode import Settings
from egovlpv2.video.find import VIDEO_SUFFIXES, Listing, kind_of, refuse_first_seconds, search_folder
from egovlpv2.video.pool import as_reason, prepare_all
from egovlpv2.video.prepared import (
    as_text,
    differences,
    find_prepared,
    make_label,
    prepare_video,
    read_label,
    remove_left,
)
from egovlpv2.video.share import own_share, place_among_processes

__all__ = ["Settings", "find_raw_videos", "prepare", "prepare_all", "prepare_video"]

_REPORTED = ("status", "reason", "seconds", "chunks", "frames", "bytes")


class RawVideos(NamedTuple):
    """Videos among files and folders, and the folders that can't be searched."""

    videos: list[Path]  # each once
    unread: dict[Path, str]  # the reason by folder


def find_raw_videos(inputs: Sequence[Path]) -> RawVideos:
    """Find the videos among files and folders, except those that this command has written.

    Raises:
        ValueError: An input is missing, can't be read or has chunks named by their first second; or there is no video.
    """
    found: dict[Path, Path] = {}
    unread: dict[Path, str] = {}
    for entry in inputs:
        if kind_of(entry) == "file":
            found.setdefault(entry.resolve(), entry)
            continue
        for listing in search_folder(entry):
            try:
                is_ours = read_label(listing.folder) is not None
            except ValueError as error:
                listing = Listing(listing.folder, [], str(error))
            if listing.reason:
                unread[listing.folder] = listing.reason
            elif not is_ours:
                refuse_first_seconds(listing)
                for path in listing.videos:
                    found.setdefault(Path(os.path.realpath(path)), path)
    if not found and not unread:
        raise ValueError(f"no video in {', '.join(map(str, inputs))}: looked for {' '.join(sorted(VIDEO_SUFFIXES))}")
    return RawVideos(list(found.values()), unread)


def _check_names(videos: Sequence[Path], out: Path) -> None:
    """Refuse videos that would be written to the same folder."""
    by_name: dict[str, Path] = {}
    for path in videos:
        if (other := by_name.setdefault(path.stem, path)) is not path:
            what = "give whole videos, not chunks of them" if path.stem.isdecimal() else "rename one"
            raise ValueError(f"{other} and {path} would both be written to {out / path.stem}: {what}")


def _length(path: Path) -> int:
    """Read the length of a video in whole seconds from its header, for the progress bar; 0 if unknown."""
    try:
        with open_container(path) as container:
            return (container.duration or 0) // av.time_base
    except (VideoError, av.FFmpegError):  # preparing it reports the error
        return 0


def _work(videos: Sequence[Path], out: Path, settings: Settings, workers: int) -> dict[Path, dict[str, Any]]:
    """Prepare videos, with a progress bar that counts their seconds."""
    outcomes: dict[Path, dict[str, Any]] = {}
    seen = dict.fromkeys(videos, 0)
    lengths = {path: _length(path) for path in videos}  # whole seconds
    with (tqdm(total=sum(lengths.values()), desc="preparing", unit=" s of video", disable=not videos) as bar,
          closing(prepare_all(videos, out, settings, workers)) as messages):
        for path, message in messages:
            if isinstance(message, dict):
                outcomes[path], message = message, lengths[path]
                bar.set_postfix_str(f"{len(outcomes)} of {len(videos)} videos")
            done = min(int(message), lengths[path])
            bar.update(done - seen[path])
            seen[path] = done
    return outcomes


def _known(path: Path, folder: Path, settings: Settings) -> dict[str, Any]:
    """Return the outcome of a video that is prepared already or can't be; empty for others."""
    try:
        label = make_label(path, settings)
        if done := find_prepared(folder, label):
            remove_left(folder)
            return {"status": "skipped", **done.facts}
        if (old := read_label(folder)) and (changed := differences(old, label)):
            print(f"{path.name} is done again: {' and '.join(changed)} changed")
    except (ValueError, OSError) as error:
        return {"status": "failed", "reason": as_reason(error, path)}
    return {}


@dataclass(frozen=True)
class PrepareReport:
    """Outcomes of prepared videos, as `report.json` in the output folder has them.

    Args:
        out: The output folder.
        settings: Of the prepared files.
        videos: A row for each video: its `status` (`done`, `skipped` or `failed`), and its facts or the `reason`.
        name: Of the report's file; processes that share the videos write one each.
    """

    out: Path
    settings: Settings
    videos: list[dict[str, Any]]
    name: str = "report.json"

    @property
    def failures(self) -> dict[str, str]:
        """The reasons of failures by video."""
        return {row["video"]: f"{row['video']}: {row['reason']}" for row in self.videos if row["status"] == "failed"}

    @property
    def failed(self) -> str:
        """Description of the videos that have failed; empty if none has."""
        count, path = len(self.failures), self.out / self.name
        return f"{count} of {len(self.videos)} videos failed, see {path}" if count else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `report.json` holds them."""
        return {"settings": asdict(self.settings), "videos": self.videos}

    def __str__(self) -> str:
        return _table(self.videos)


def prepare_videos(inputs: Sequence[str], out: str | Path, *, num_workers: Count | None = None,
                   chunk_seconds: ChunkLength = 600.0, short_side: ShortSide = 256,
                   keyframe_seconds: Seconds = 0.5, fps: MaximumRate = 0.0, crf: Crf = 23,
                   share: str | None = None) -> PrepareReport:
    """Re-encode raw videos into files that are fast to train on: OUT/<video_uid>/<k>.mp4.

    It may be stopped at any time; the same call continues. Under `srun` and `torchrun` each process takes its share of
    the videos.

    Args:
        inputs: videos, and folders to search for them
        out: the folder to write to
        num_workers: processes; as many as there are cores if not given
        chunk_seconds: length of a file; training needs the same value
        short_side: short side of the pictures, pixels, even; smaller pictures are not enlarged
        keyframe_seconds: time between keyframes; shorter makes random access faster and files larger
        fps: maximum frame rate, by dropping frames; 0 keeps all
        crf: constant rate factor of x264, from 0 (lossless) to 51
        share: the part of the videos to take, as 3/16, or 0/1 for all; if not given, each process of `srun` or
            `torchrun` takes its own

    Raises:
        ValueError: An argument is out of range, an input can't be read, there is no video, or two have one name.
            Videos that can't be prepared are in the report's `failures`.
        OSError: `out` can't be made.
    """
    check_call(prepare_videos, locals())
    settings = Settings(float(chunk_seconds), int(short_side), float(keyframe_seconds), float(fps), int(crf))
    report = prepare([Path(path) for path in inputs], Path(out), settings, num_workers, share)
    write_json(report.out / report.name, report.to_dict())
    return report


def prepare(inputs: Sequence[Path], out: Path, settings: Settings, num_workers: int | None = None,
            share: str | None = None) -> PrepareReport:
    """Prepare the videos among files and folders that aren't prepared yet.

    Args:
        inputs: Files and folders.
        out: The folder to write to.
        settings: Of the prepared files.
        num_workers: Number of processes; as many as there are cores if not given.
        share: As for `prepare_videos`.

    Raises:
        ValueError: An input can't be read, there is no video, or two have one name.
        OSError: `out` can't be made.
    """
    videos, unread = find_raw_videos(inputs)
    _check_names(videos, out)
    rank, processes = place_among_processes(share)
    videos = own_share(videos, _size, share)
    out.mkdir(parents=True, exist_ok=True)
    outcomes = {path: known for path in videos if (known := _known(path, out / path.stem, settings))}
    outcomes |= _work([path for path in videos if path not in outcomes], out, settings, num_workers or usable_cores())
    rows = [{"video": as_text(path.stem), "file": as_text(path.name), "file_bytes": _size(path),
             **{name: outcomes[path][name] for name in _REPORTED if name in outcomes[path]}} for path in videos]
    rows += [{"video": as_text(folder.name), "file": as_text(folder.name), "file_bytes": 0, "status": "failed",
              "reason": reason} for folder, reason in unread.items()]
    name = "report.json" if processes == 1 else f"report-{rank + 1}-of-{processes}.json"
    return PrepareReport(out, settings, rows, name)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Format a line for each video, and one for the total size."""
    lines = []
    for row in rows:
        facts = row.get("reason") or (f"{row['seconds']:.1f} s in {row['chunks']} files, {row['bytes'] / 1e6:.2f} MB "
                                      f"of {row['file_bytes'] / 1e6:.2f}")
        lines.append(f"  {row['status']:<8} {one_line(row['video'])}  {facts}")
    there = [row for row in rows if "bytes" in row]
    size, before = (sum(row[name] for row in there) / 1e6 for name in ("bytes", "file_bytes"))
    share = f", {size / before:.1%} of the originals' {before:.2f} MB" if before else ""
    return "\n".join([*lines, f"{len(there)} of {len(rows)} videos are prepared: {size:.2f} MB{share}"])

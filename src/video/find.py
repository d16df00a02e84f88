"""Search for videos in folders: each real folder is listed once, and those that can't be listed are reported."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

VIDEO_SUFFIXES = frozenset(f".{name}" for name in (
    "mp4 m4v mov mkv webm avi mpg mpeg mts m2ts ts wmv flv 3gp ogv".split()))
_SHORTEST = 3  # seconds of a chunk; numbers without a common factor of at least this are not first seconds


class Listing(NamedTuple):
    """The videos directly in one folder."""

    folder: Path
    videos: list[Path]  # sorted; everything with a video's suffix but folders, so dangling links and pipes too
    reason: str = ""  # the reason why the folder can't be listed; empty if it can


def search_folder(root: Path) -> list[Listing]:
    """List a folder and all folders in it, parents before children, those behind symbolic links last.

    Links to folders are followed, but no folder is listed twice: links may form a circle.

    Args:
        root: Where to search.

    Raises:
        ValueError: `root` itself can't be listed.
    """
    listings: list[Listing] = []
    seen: set[tuple[int, int]] = set()
    waiting, behind_links = [root], list[Path]()
    while waiting or behind_links:
        folder = waiting.pop() if waiting else behind_links.pop(0)
        try:
            state = folder.stat()
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            listings.append(Listing(folder, [], f"{folder} can't be searched ({error.strerror}): change its "
                                                "permissions, or leave it out"))
            continue
        folders = {entry.name: entry for entry in found if _is_folder(entry)}
        waiting += [folder / name for name in reversed(folders) if not folders[name].is_symlink()]
        behind_links += [folder / name for name in folders if folders[name].is_symlink()]
        listings.append(Listing(folder, [folder / entry.name for entry in found
                                         if has_video_name(entry.name) and entry.name not in folders]))
    if listings[0].reason:
        raise ValueError(listings[0].reason)
    return listings


def has_video_name(name: str) -> bool:
    """Tell if a file name is that of a video: by its suffix, and hidden files are not."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES and not name.startswith(".")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: opening it reports that
        return False


def kind_of(path: Path) -> str:
    """Classify a path that a user has given as "file" or "folder".

    Raises:
        ValueError: It is missing, can't be reached, or is a pipe, a device or the like.
    """
    try:
        path.stat()
    except FileNotFoundError as error:
        target = f": it links to {os.readlink(path)}, which is" if path.is_symlink() else " is"
        raise ValueError(f"{path}{target} missing: give files or folders of videos") from error
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror}): give files or folders of videos") from error
    if path.is_dir():
        return "folder"
    if path.is_file():
        return "file"
    raise ValueError(f"{path} is neither a file nor a folder: give files or folders of videos")


def refuse_first_seconds(listing: Listing) -> None:
    """Refuse a folder of chunks that are named by their first second, as LaViLa's: `<uid>.mp4/0.mp4`, `15.mp4`, ...

    Raises:
        ValueError: They are; the message gives the right names.
    """
    numbers = numbers_of(listing.videos)
    length = math.gcd(*numbers)
    is_named_as_video = has_video_name(listing.folder.name)
    if len(numbers) < 2 or length < _SHORTEST or not (numbers[0] == 0 or is_named_as_video):
        return
    name = video_name(listing.folder)
    there = ", ".join(f"{number}.mp4" for number in numbers[:3])
    wanted = ", ".join(f"{name}/{number // length}.mp4" for number in numbers[:3])
    raise ValueError(f"{listing.folder} holds chunks of a video that are named by their first second ({there}, ...): "
                     f"name them by their number, in a folder of the video's name ({wanted}, ...), and set the length "
                     f"of chunks to {length} s (--chunk-seconds or data.init_args.chunk_seconds)")


def numbers_of(videos: Sequence[Path]) -> list[int]:
    """Return the numbers in the names of chunks, ascending; none if any of the files has another name."""
    if not all(path.suffix == ".mp4" and path.stem.isdecimal() and path.stem.isascii()
               and path.stem == str(int(path.stem)) for path in videos):
        return []
    return sorted(int(path.stem) for path in videos)


def video_name(folder: Path) -> str:
    """Return the name of the video whose chunks are in a folder; a video's suffix of the folder is left out."""
    return folder.stem if has_video_name(folder.name) else folder.name

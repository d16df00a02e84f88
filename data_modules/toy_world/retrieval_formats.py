"""The events of a script in the formats of EPIC-Kitchens-100 MIR and CharadesEgo.

Both need one file per video: a chunk of a toy video, by a symbolic link. Events across its end and those of another
person are left out.
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from egovlpv2.data_modules.toy_world.script import Event, Split, Video
from egovlpv2.data_modules.toy_world.vocabulary import AFFORDANCES, NOUN_IDS, NOUNS, VERBS

WriteText = Callable[[Path, str], None]
Row = dict[str, Any]

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_EK_COLUMNS = (
    "narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp", "stop_timestamp",
    "start_frame", "stop_frame", "narration", "verb", "verb_class", "noun", "noun_class", "all_nouns",
    "all_noun_classes",
)
_CHARADES_COLUMNS = (
    "id", "subject", "scene", "quality", "relevance", "verified", "script", "objects", "descriptions", "actions",
    "length", "egocentric", "charades_video",
)
_EK_FRAMES = 60  # per second, in the frame columns of EPIC-Kitchens, which are not read

ACTIONS = [(verb, noun) for verb in VERBS for noun in NOUNS if verb in AFFORDANCES[noun]][:157]
"""The classes, as many as CharadesEgo has; squeezing is left out."""

_GERUNDS = {
    "pick up": "Picking up", "put down": "Putting down", "push": "Pushing", "pull": "Pulling", "open": "Opening",
    "close": "Closing", "rotate": "Rotating", "shake": "Shaking", "pour": "Pouring from", "cut": "Cutting",
    "wipe": "Wiping",
}


class Piece(NamedTuple):
    """A chunk of a video as a video of its own: times count from its start."""

    file: str  # in the toy world's folder
    scene: int
    seconds: float
    events: list[Event]


def pieces(videos: Iterable[Video], chunk_seconds: int) -> list[Piece]:
    """The chunks with a complete action of the wearer of the camera."""
    found = []
    for video in videos:
        for k in range(int(video.duration // chunk_seconds) + 1):
            first, last = k * chunk_seconds, min((k + 1) * chunk_seconds, video.duration)
            events = [replace(event, start=event.start - first, end=event.end - first) for event in video.events
                      if first <= event.start and event.end <= last and event.wearer == "C"]
            if events:
                found.append(Piece(f"videos/{video.uid}/{k}.mp4", video.scene, round(last - first, 2), events))
    return found


def write_ek100(videos: list[Video], folder: Path, world: Path, chunk_seconds: int, write: WriteText) -> None:
    """Write `EPIC_100_retrieval_<split>.csv`, their sentences and `videos/<participant_id>/<video_id>.MP4`.

    Args:
        videos: Videos of all splits; a room is a participant.
        folder: The folder to write to.
        world: The toy world's folder, with the videos.
        chunk_seconds: Length of a video's files.
        write: Writes a text into a file.
    """
    count: Counter[int] = Counter()
    for split in _SPLITS:
        rows: list[Row] = []
        for piece in pieces((video for video in videos if video.split == split), chunk_seconds):
            count[piece.scene] += 1
            participant = f"P{piece.scene + 1:02d}"
            name = f"{participant}_{count[piece.scene]:02d}"
            rows += [_ek_row(participant, name, i, event) for i, event in enumerate(piece.events)]
            link(world / piece.file, folder / "videos" / participant / f"{name}.MP4")
        first: dict[str, Row] = {}  # row of each wording
        for row in rows:
            first.setdefault(row["narration"], row)
        sentences = _sentences(list(first.values()), with_classes=split == "train")
        write(folder / f"EPIC_100_retrieval_{split}.csv", _csv(_EK_COLUMNS, rows))
        write(folder / f"EPIC_100_retrieval_{split}_sentence.csv", sentences)


def _ek_row(participant: str, video: str, place: int, event: Event) -> Row:
    names = {number: noun for noun, number in NOUN_IDS.items()}
    nouns = [names[number] for number in event.noun_ids]
    times = [_timestamp((event.start + event.end) / 2, 3), _timestamp(event.start, 2), _timestamp(event.end, 2)]
    frames = [max(1, int(time * _EK_FRAMES)) for time in (event.start, event.end)]
    labels = (_narration(event.text), event.verb.replace(" ", "-"), event.verb_ids[0], nouns[0], event.noun_ids[0],
              str(nouns), str(event.noun_ids))
    values = (f"{video}_{place}", participant, video, *times, *frames, *labels)
    return dict(zip(_EK_COLUMNS, values, strict=True))


def _timestamp(seconds: float, digits: int) -> str:
    return f"00:{int(seconds // 60):02d}:{seconds % 60:0{3 + digits}.{digits}f}"


def _narration(text: str) -> str:
    """A narration in EPIC-Kitchens' style: "#C C picks up the red cup" is "pick up red cup"."""
    first, *others = text.removeprefix("#C C ").split()
    verb = first[:-2] if first.endswith(("shes", "sses")) else first[:-1]
    return " ".join([verb, *(word for word in others if word not in ("the", "a"))])


def _sentences(rows: list[Row], with_classes: bool) -> str:
    """The CSV of the sentences; those of the test have no classes and are joined with the rows by `narration_id`."""
    names = {"narration_id": "narration_id", "narration": "narration"}
    if with_classes:
        names |= {"verb_class": "verb_class", "noun_classes": "all_noun_classes", "verb": "verb", "nouns": "all_nouns"}
    return _csv(tuple(names), [{column: row[source] for column, source in names.items()} for row in rows])


def write_charades_ego(videos: list[Video], folder: Path, world: Path, chunk_seconds: int, write: WriteText) -> None:
    """Write `Charades_v1_classes.txt`, `CharadesEgo_v1_<split>_only1st.csv` and `CharadesEgo_v1_480/<id>.mp4`.

    Args:
        videos: Videos of all splits.
        folder: The folder to write to.
        world: The toy world's folder, with the videos.
        chunk_seconds: Length of a video's files.
        write: Writes a text into a file.
    """
    classes = [f"c{i:03d} {_GERUNDS[verb]} the {noun}" for i, (verb, noun) in enumerate(ACTIONS)]
    write(folder / "Charades_v1_classes.txt", "\n".join(classes) + "\n")
    count = 0
    for split in _SPLITS:
        rows: list[Row] = []
        for piece in pieces((video for video in videos if video.split == split), chunk_seconds):
            name = f"T{count:04d}EGO"
            count += 1
            rows.append(_charades_row(name, piece))
            link(world / piece.file, folder / "CharadesEgo_v1_480" / f"{name}.mp4")
        write(folder / f"CharadesEgo_v1_{split}_only1st.csv", _csv(_CHARADES_COLUMNS, rows))


def _charades_row(name: str, piece: Piece) -> Row:
    known = [event for event in piece.events if (event.verb, event.noun) in ACTIONS]
    actions = ";".join(f"c{ACTIONS.index((e.verb, e.noun)):03d} {e.start:.2f} {e.end:.2f}" for e in known)
    filled = {"id": name, "scene": f"Room {piece.scene}", "verified": "Yes", "actions": actions,
              "objects": ";".join(sorted({event.noun for event in known})), "length": piece.seconds,
              "script": ". ".join(event.text.removeprefix("#C C ") for event in piece.events),
              "egocentric": "Yes", "charades_video": name.removesuffix("EGO")}
    return dict.fromkeys(_CHARADES_COLUMNS, "") | filled


def _csv(columns: tuple[str, ...], rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def link(target: Path, path: Path) -> None:
    """Make `path` a relative symbolic link to `target`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))

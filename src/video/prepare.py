"""`egovlpv2 prepare`: raw videos become what training reads, small pictures with frequent keyframes.

The files lie as EgoClip's: `<out>/<video_uid>/<k>.mp4` holds the k-th `chunk_seconds` of a video, and its own times
begin at 0 there. All times are counted as the reader counts them, in seconds from the stream's first frame. A chunk
that begins between two frames repeats the one that is shown then, so `read_chunks` shows at any time the picture that
`read_frames` shows of the original.

A run may be killed at any time and started again; two at once must not write to the same folder.
"""

import argparse
import json
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import av
from egovlpv2.cores import usable_cores
from egovlpv2.files import whole
from egovlpv2.video.encode import Settings, encode_video
from egovlpv2.video.open_files import VIDEO_SUFFIXES, is_video
from tqdm import tqdm

VERSION = 1
"""Raise it when the same settings no longer give the same files."""
_STARTED, _PREPARED = "started.json", "prepared.json"
_SIGN_OF_LIFE = 0.2  # seconds
_MOST_THREADS = 4  # of a decoder
_REPORTED = ("status", "reason", "seconds", "chunks", "frames", "bytes")


def find_videos(inputs: Sequence[Path]) -> list[Path]:
    """The videos among files and folders, each once; what this command has written is none of them.

    Raises:
        ValueError: An input is missing, or there is no video.
    """
    found: dict[Path, Path] = {}
    for entry in inputs:
        if not entry.exists():
            raise ValueError(f"{entry} is missing: give files or folders of videos")
        for path in [entry] if entry.is_file() else sorted(entry.rglob("*")):
            if entry.is_file() or (is_video(path) and not _label_of(path.parent)):
                found.setdefault(path.resolve(), path)
    if not found:
        raise ValueError(f"no video in {', '.join(map(str, inputs))}: looked for {' '.join(sorted(VIDEO_SUFFIXES))}")
    return list(found.values())


def _check_names(videos: Sequence[Path], out: Path) -> None:
    """Refuses what would mix two videos, or overwrite files that are not this command's."""
    by_name: dict[str, Path] = {}
    for path in videos:
        if (other := by_name.setdefault(path.stem, path)) is not path:
            raise ValueError(f"{other} and {path} would both be written to {out / path.stem}: rename one")
        folder = out / path.stem
        if any(folder.glob("*.mp4")) and not _label_of(folder):
            raise ValueError(f"{folder} holds videos that this command did not write: choose another --out")


def _read(path: Path) -> dict[str, Any]:
    """A JSON file; empty where there is none or it is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _write(path: Path, content: dict[str, Any]) -> None:
    with whole(path) as draft:
        draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _label_of(folder: Path) -> dict[str, Any]:
    """From what and how the chunks in a folder were made; empty if not by this command."""
    there = _read(folder / _PREPARED) or _read(folder / _STARTED)
    return {name: there.get(name) for name in ("version", "source", "settings")} if there else {}


def _make_label(path: Path, settings: Settings) -> dict[str, Any]:
    state = path.stat()
    source = {"name": path.name, "bytes": state.st_size, "modified_ns": state.st_mtime_ns}
    return {"version": VERSION, "source": source, "settings": asdict(settings)}


def _is_prepared(folder: Path, label: dict[str, Any]) -> bool:
    done = _read(folder / _PREPARED)
    return label == _label_of(folder) and bool(done) and all(
        (folder / f"{k}.mp4").is_file() for k in range(done["chunks"]))


def _clear(folder: Path, drafts_only: bool = False) -> None:
    """Removes chunks and what killed runs have left; the label goes last, as it tells whose the chunks are."""
    for name in ["*.tmp"] if drafts_only else ["*.tmp", "[0-9]*.mp4", _PREPARED, _STARTED]:
        for path in folder.glob(name):
            path.unlink(missing_ok=True)
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()


def prepare_video(path: Path, folder: Path, settings: Settings, threads: int = 1,
                  on_progress: Callable[[float], None] = lambda seconds: None) -> dict[str, Any]:
    """Prepares one video; what an interrupted run of the same settings has finished is kept.

    Returns:
        What `prepared.json` says. Raises as `encode_video`, and leaves no chunk then.
    """
    label = _make_label(path, settings)
    # At any time chunks lie beside the label they were made by, and beside `prepared.json` only if all are there.
    if (folder / _PREPARED).exists():
        os.replace(folder / _PREPARED, folder / _STARTED)
    _clear(folder, drafts_only=_label_of(folder) == label)
    try:
        _write(folder / _STARTED, label)
        done = label | encode_video(path, folder, settings, threads, on_progress)
        done["bytes"] = sum((folder / f"{k}.mp4").stat().st_size for k in range(done["chunks"]))
        _write(folder / _PREPARED, done)
        (folder / _STARTED).unlink()
        return done
    except (ValueError, OSError, av.FFmpegError):
        _clear(folder)
        raise


def _child(path: Path, folder: Path, settings: Settings, threads: int, sender: Connection) -> None:
    """A process's life: sends the seconds done, again and again, and at last the outcome."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    last = -math.inf

    def on_progress(seconds: float) -> None:
        nonlocal last
        if time.monotonic() - last < _SIGN_OF_LIFE:
            return
        last = time.monotonic()
        try:
            sender.send(seconds)
        except BrokenPipeError:  # the command was killed; what is finished stays for the next one
            os._exit(1)

    try:
        outcome = {"status": "done", **prepare_video(path, folder, settings, threads, on_progress)}
    except (ValueError, OSError, av.FFmpegError) as error:
        outcome = {"status": "failed", "reason": str(error).replace(str(path), path.name)}
    sender.send(outcome)


def prepare_all(videos: Sequence[Path], out: Path, settings: Settings, workers: int) -> Iterator[
        tuple[Path, float | dict[str, Any]]]:
    """Prepares videos, several at a time, each in a process of its own: one that crashes takes no other along.

    Yields:
        A video and the seconds of it that are done, or what has come of it.
    """
    spawn, waiting, threads = multiprocessing.get_context("spawn"), list(videos[::-1]), _threads(len(videos), workers)
    running: dict[Connection, tuple[multiprocessing.process.BaseProcess, Path]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                path = waiting.pop()
                receiver, sender = spawn.Pipe(duplex=False)
                process = spawn.Process(target=_child, args=(path, out / path.stem, settings, threads, sender))
                process.start()
                sender.close()  # so that the end of the process ends the pipe
                running[receiver] = process, path
            for receiver in wait(list(running)):
                process, path = running[receiver]
                try:
                    message = receiver.recv()
                except EOFError:
                    process.join()
                    _clear(out / path.stem)
                    message = {"status": "failed", "reason": f"{path.name}: its process ended by {process.exitcode}"}
                if isinstance(message, dict):
                    del running[receiver]
                    process.join()
                yield path, message
    finally:
        for process, _ in running.values():
            process.terminate()


def _threads(videos: int, workers: int) -> int:
    """Threads of each decoder: what would lie idle when there are few videos."""
    return min(max(usable_cores() // min(workers, videos), 1), _MOST_THREADS) if videos else 1


def _length(path: Path) -> int:
    """Whole seconds of a video by its header, for the progress bar; 0 if unknown."""
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            return (container.duration or 0) // av.time_base
    except (av.FFmpegError, OSError):
        return 0


def _work(videos: Sequence[Path], out: Path, settings: Settings, workers: int) -> dict[Path, dict[str, Any]]:
    """Prepares videos behind a progress bar that counts their seconds."""
    outcomes: dict[Path, dict[str, Any]] = {}
    seen = dict.fromkeys(videos, 0)
    lengths = {path: _length(path) for path in videos}  # whole seconds
    with tqdm(total=sum(lengths.values()), desc="preparing", unit=" s of video", disable=not videos) as bar:
        for path, message in prepare_all(videos, out, settings, workers):
            if isinstance(message, dict):
                outcomes[path], message = message, lengths[path]
                bar.set_postfix_str(f"{len(outcomes)} of {len(videos)} videos")
            done = min(int(message), lengths[path])
            bar.update(done - seen[path])
            seen[path] = done
    return outcomes


def prepare(inputs: Sequence[Path], out: Path, settings: Settings, workers: int | None = None) -> dict[str, Any]:
    """Prepares all videos among files and folders, but for those that are.

    Args:
        inputs: Files and folders.
        out: The folder to write to.
        settings: What the prepared files are like.
        workers: Processes; as many as there are cores if not given.

    Returns:
        What `report.json` says: the settings and what has come of each video.

    Raises:
        ValueError: There is no video, or one can't be written without overwriting what is not this command's.
    """
    videos = find_videos(inputs)
    _check_names(videos, out)
    labels = {path: _make_label(path, settings) for path in videos}
    outcomes = {path: {"status": "skipped", **_read(out / path.stem / _PREPARED)} for path in videos
                if _is_prepared(out / path.stem, labels[path])}
    for path in videos:
        if path in outcomes:
            _clear(out / path.stem, drafts_only=True)
        elif (old := _label_of(out / path.stem)) and old != labels[path]:
            what = " and ".join(name for name in ("version", "source", "settings") if old[name] != labels[path][name])
            print(f"{path.name} is done again: {what} changed")
    todo = [path for path in videos if path not in outcomes]
    outcomes |= _work(todo, out, settings, workers or usable_cores())
    rows = [{"video": path.stem, "file": path.name, "file_bytes": path.stat().st_size,
             **{name: outcomes[path][name] for name in _REPORTED if name in outcomes[path]}} for path in videos]
    report = {"settings": asdict(settings), "videos": rows}
    _write(out / "report.json", report)
    return report


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each video, and one for the sizes of all that are there."""
    lines = []
    for row in rows:
        facts = row.get("reason") or (f"{row['seconds']:.1f} s in {row['chunks']} files, {row['bytes'] / 1e6:.2f} MB "
                                      f"of {row['file_bytes'] / 1e6:.2f}")
        lines.append(f"  {row['status']:<8} {row['video']}  {facts}")
    there = [row for row in rows if "bytes" in row]
    size, before = (sum(row[name] for row in there) / 1e6 for name in ("bytes", "file_bytes"))
    share = f", {size / before:.1%} of the originals' {before:.2f} MB" if before else ""
    return "\n".join([*lines, f"{len(there)} of {len(rows)} videos are prepared: {size:.2f} MB{share}"])


def main(argv: Sequence[str] | None = None) -> None:
    """The command: videos, `--out`, `--workers` and the parameters of `Settings`."""
    parser = argparse.ArgumentParser(
        "egovlpv2 prepare", description="Writes raw videos as training reads them best: OUT/<video_uid>/<k>.mp4. "
        "May be stopped at any time; the same command goes on.")
    parser.add_argument("inputs", type=Path, nargs="+", help="videos, and folders to search for them")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    parser.add_argument("--workers", type=int, help="processes; as many as there are cores if not given")
    helps = dict(line.strip().split(": ", 1) for line in (Settings.__doc__ or "").splitlines() if ": " in line)
    for field in fields(Settings):
        parser.add_argument("--" + field.name.replace("_", "-"), type=type(field.default), default=field.default,
                            help=f"{helps[field.name]} (default: {field.default})")
    arguments = vars(parser.parse_args(argv))
    inputs, out, workers = (arguments.pop(name) for name in ("inputs", "out", "workers"))
    if workers is not None and workers < 1:
        raise ValueError(f"--workers {workers}: give 1 or more")
    rows = prepare(inputs, out, Settings(**arguments), workers)["videos"]
    print(_table(rows))
    failed = sum(row["status"] == "failed" for row in rows)
    if failed:
        raise SystemExit(f"egovlpv2 prepare: {failed} of {len(rows)} videos failed, see {out / 'report.json'}")


if __name__ == "__main__":
    main()

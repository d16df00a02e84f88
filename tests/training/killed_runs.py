"""Run `egovlpv2 fit` again and again, kill it at random moments, and let it go on until it has ended.

A process of its own, started by `test_killed_fits.py`: it imports everything once and forks each run from there, which
spares the seconds that a start takes.

    python killed_runs.py FOLDER SEED KILLS ARGUMENT...     prints the moments of the kills as JSON
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import egovlpv2.data_modules.egoclip
import egovlpv2.tasks.pretrain  # noqa: F401
from egovlpv2.cli import main
from egovlpv2.train_cli import run  # noqa: F401 (the import is what costs)


def start(args: list[str], log: Path) -> int:
    """Fork a process that runs a command, and return its id."""
    process = os.fork()
    if process:
        return process
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)
    code = 1
    try:
        main(args)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def has_ended(process: int) -> int | None:
    """The exit code of a child, or None."""
    found, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def wait_for(process: int, happened) -> int | None:  # noqa: ANN001 (a function without arguments)
    """Wait until something has happened; the exit code if the child ends before."""
    while not happened():
        if (code := has_ended(process)) is not None:
            return code
        time.sleep(0.002)
    return None


def kill(folder: Path, args: list[str], draw: random.Random, seconds: float) -> str:
    """Start or go on, kill at a random moment, and say at which; empty if the run has ended before."""
    last, config = folder / "checkpoints" / "last.ckpt", folder / "config.yaml"
    began = config.stat().st_mtime_ns if config.exists() else 0
    process = start([*args, *(["--ckpt_path=last"] if last.exists() else [])], folder.parent / f"{folder.name}.log")
    code = wait_for(process, lambda: config.exists() and config.stat().st_mtime_ns != began)
    kind = draw.choice(("any time", "any time", "saving", "after a save"))
    if code is None and kind == "any time":
        until = time.monotonic() + draw.uniform(0, seconds)
        code = wait_for(process, lambda: time.monotonic() > until)
    elif code is None:
        before, skip = last.stat().st_mtime_ns if last.exists() else 0, draw.random() * 0.3
        if kind == "saving":
            code = wait_for(process, lambda: any((folder / "checkpoints").glob("*.tmp")))
        else:
            code = wait_for(process, lambda: last.exists() and last.stat().st_mtime_ns != before)
            time.sleep(skip)
    if code is None:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return kind
    if code:
        raise SystemExit(f"the run ended with {code}: {(folder.parent / f'{folder.name}.log').read_text()[-2000:]}")
    return ""


def campaign(folder: Path, seed: int, kills: int, args: list[str]) -> list[str]:
    """Kill a run so many times, then let it end."""
    draw, done = random.Random(seed), []
    named = [*args, f"--trainer.logger.init_args.save_dir={folder.parent}",
             f"--trainer.logger.init_args.name={folder.name}"]
    seconds = float(os.environ.get("TRAINING_SECONDS", 5))
    while len(done) < kills and (kind := kill(folder, named, draw, seconds)):
        done.append(kind)
    last = folder / "checkpoints" / "last.ckpt"
    process = start([*named, *(["--ckpt_path=last"] if last.exists() else [])], folder.parent / f"{folder.name}.log")
    _, status = os.waitpid(process, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"the run ended with {code}: {(folder.parent / f'{folder.name}.log').read_text()[-2000:]}")
    return done


if __name__ == "__main__":
    print(json.dumps(campaign(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])))
